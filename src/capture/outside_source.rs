//! Folders outside the environment that Python code comes from: an editable install's project and the
//! folders that `.pth` files name. Each becomes a store path of its own, and the text that named the
//! folder names that path instead, so nothing of this machine is needed at run time.
use crate::capture::installed::{Installed, lexical};
use crate::capture::inventory::{Finding, OutsidePath, Severity};
use crate::capture::lock::SourceLock;
use crate::capture::nar::path_of;
use crate::capture::paths::{below, finding, read_small, show, show_in};
use crate::capture::python::{Context, Python};
use crate::capture::tree::{Entry, Source, Tree};
use crate::capture::{rules, secrets, walk};
use crate::formats::nix::store_path::StorePathName;
use crate::formats::python::direct_url::DirectKind;
use crate::sys::error::{Error, Result};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A captured folder: its path as text and what stands in its place.
#[derive(Debug, Clone)]
pub struct Relocation {
    pub from: String,
    /// Absolute store path.
    pub to: String,
    /// Base name, for the references.
    pub reference: String,
}

/// Files small enough to hold a path that must change.
const MAX_TEXT: u64 = 1 << 20;

/// The projects of editable installs, captured.
pub fn editable_sources(
    context: &Context,
    all: &[&Installed],
    python: &mut Python,
) -> Result<Vec<Relocation>> {
    let mut wanted = Vec::new();
    for one in all {
        let Some(direct) = &one.direct_url else { continue };
        if direct.kind == (DirectKind::Directory { editable: true })
            && let Some(path) = direct.path()
        {
            wanted.push((path, format!("editable install of {}", one.name)));
        }
        // A `.pth` of an editable install may name a folder below (or beside) the project.
        for disk in one.files.values().filter(|d| d.extension().is_some_and(|e| e == "pth")) {
            for path in pth_folders(disk, &one.scheme.site) {
                wanted.push((path, disk.display().to_string()));
            }
        }
    }
    capture(context, wanted, python)
}

/// The folders that the `.pth` files of a tree name.
pub fn pth_sources(context: &Context, tree: &Tree, python: &mut Python) -> Result<Vec<Relocation>> {
    let mut wanted = Vec::new();
    for (name, entry) in &tree.entries {
        if !name.ends_with(b".pth") || name.contains(&b'/') {
            continue;
        }
        if let Entry::File { source: Source::Disk(disk), .. } = entry {
            let site = disk.parent().unwrap_or(Path::new("/"));
            wanted.extend(pth_folders(disk, site).into_iter().map(|p| (p, disk.display().to_string())));
        }
    }
    capture(context, wanted, python)
}

/// Absolute folders outside `site` that a `.pth` file adds to the path (`site` module: one a line;
/// lines that start with `import` are code).
fn pth_folders(pth: &Path, site: &Path) -> Vec<PathBuf> {
    let Some(bytes) = read_small(pth, MAX_TEXT) else { return Vec::new() };
    String::from_utf8_lossy(&bytes)
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#') && !l.starts_with("import "))
        .map(|l| lexical(&site.join(l)))
        .filter(|p| !p.starts_with(site) && p.is_dir())
        .collect()
}

fn capture(
    context: &Context,
    mut wanted: Vec<(PathBuf, String)>,
    python: &mut Python,
) -> Result<Vec<Relocation>> {
    wanted.sort();
    wanted.dedup_by(|a, b| a.0 == b.0);
    let mut done: BTreeMap<PathBuf, Relocation> = BTreeMap::new();
    for (path, from) in wanted {
        if done.keys().any(|outer| path.starts_with(outer)) {
            continue;
        }
        if let Some(why) = unfit(&path, context.environment) {
            let message = format!("names {}, which {why}", show(path.as_os_str().as_bytes()));
            python.findings.push(finding(Severity::Problem, "outside", from, message));
            continue;
        }
        let tree = source_tree(&path, &mut python.findings);
        let shown = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let name = StorePathName::sanitize(&format!("source-{shown}")).to_string();
        let tree = context.trees.add(&name, tree, Vec::new(), context.store)?;
        let store_path = path_of(&tree, context.store)?;
        python.outside.push(OutsidePath { from, to: path.display().to_string(), captured: true });
        if !python.sources.iter().any(|s| s.tree == tree) {
            python.sources.push(SourceLock { path: shown, tree });
        }
        done.insert(
            path.clone(),
            Relocation {
                from: path.display().to_string(),
                to: store_path.to_absolute(context.store),
                reference: store_path.to_string(),
            },
        );
    }
    Ok(done.into_values().collect())
}

/// Folders in which no project lives, and in which secrets do.
const SYSTEM: [&str; 6] = ["/etc", "/proc", "/sys", "/dev", "/run", "/boot"];

/// Why a folder is not captured.
fn unfit(path: &Path, environment: &Path) -> Option<&'static str> {
    let home = std::env::var_os("HOME").is_some_and(|home| Path::new(&home).starts_with(path));
    if environment.starts_with(path) || home {
        return Some("is too wide to capture; it is not captured");
    }
    let real = std::fs::canonicalize(path).unwrap_or_default();
    if SYSTEM.iter().any(|system| path.starts_with(system) || real.starts_with(system)) {
        return Some("is the system's own and not captured");
    }
    (!path.is_dir()).then_some("is not a folder; it is not captured")
}

/// A project folder without litter, secrets and virtual environments.
fn source_tree(root: &Path, findings: &mut Vec<Finding>) -> Tree {
    let label = root.display().to_string();
    let mut found = Vec::new();
    let walked = walk::walk(root, &label, &mut |path, kind| {
        if let Some(why) = secrets::secret_name(path) {
            found.push((show_in(&label, path), why));
            return true;
        }
        let venv =
            matches!(kind, walk::NodeKind::Directory { .. }) && below(root, path).join("pyvenv.cfg").exists();
        venv || rules::litter(path)
    });
    findings.extend(walked.findings);
    for (path, why) in found {
        findings.push(finding(Severity::Warning, "secret", path, format!("{why}: left out")));
    }
    let mut tree = Tree::default();
    for entry in walked.entries {
        let executable = entry.executable();
        let disk = below(root, &entry.path);
        let made = match entry.kind {
            walk::NodeKind::File => Entry::File { source: Source::Disk(disk), executable },
            walk::NodeKind::Symlink(target) => Entry::Symlink(target),
            _ => continue,
        };
        tree.entries.insert(entry.path, made);
    }
    tree
}

/// Replaces a path where it ends there or goes on below it: `/a/lib` is not in `/a/lib-old`.
fn replace_path(text: &str, from: &str, to: &str) -> (String, bool) {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut any) = (text, false);
    while let Some(at) = rest.find(from) {
        let after = &rest[at + from.len()..];
        let ends = !after.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'));
        out.push_str(&rest[..at]);
        out.push_str(if ends { to } else { from });
        any |= ends;
        rest = after;
    }
    out.push_str(rest);
    (out, any)
}

/// Replaces the folders' names by their store paths in the texts that site-packages has at its top
/// level (`.pth` files and the import finders of editable installs). Returns what is referred to now.
pub fn relocate(tree: &mut Tree, all: &[Relocation]) -> Result<Vec<String>> {
    let mut references = Vec::new();
    if all.is_empty() {
        return Ok(references);
    }
    for (name, entry) in &mut tree.entries {
        if name.contains(&b'/')
            || !(name.ends_with(b".pth") || name.ends_with(b".py") || name.ends_with(b".egg-link"))
        {
            continue;
        }
        let Entry::File { source, .. } = entry else { continue };
        let Source::Disk(disk) = &*source else { continue };
        let bytes = std::fs::read(disk).map_err(|e| Error::io("read", disk, e))?;
        let Ok(mut text) = String::from_utf8(bytes) else { continue };
        let mut changed = false;
        for relocation in all {
            let (moved, any) = replace_path(&text, &relocation.from, &relocation.to);
            if any {
                text = moved;
                references.push(relocation.reference.clone());
                changed = true;
            }
        }
        if changed {
            *source = Source::Bytes(text.into_bytes().into());
        }
    }
    Ok(references)
}

#[cfg(test)]
mod tests {
    use super::replace_path;

    #[test]
    fn only_the_whole_path_is_replaced() {
        let (text, any) = replace_path("/a/lib\n/a/lib/x '/a/lib' /a/lib-old /a/lib2", "/a/lib", "/s");
        assert_eq!((text.as_str(), any), ("/s\n/s/x '/s' /a/lib-old /a/lib2", true));
        assert_eq!(replace_path("/a/lib-old", "/a/lib", "/s"), ("/a/lib-old".into(), false));
    }
}
