//! Folders outside the environment that Python code comes from: an editable install's project and the
//! folders that `.pth` files name. Each becomes a store path of its own, and the text that named the
//! folder names that path instead, so nothing of this machine is needed at run time.
use crate::capture::audit;
use crate::capture::files::collect::{Collected, Policy, collect};
use crate::capture::files::paths::{below, finding, read_foreign};
use crate::capture::files::walk::NodeKind;
use crate::capture::model::inventory::OutsidePath;
use crate::capture::model::lock::SourceLock;
use crate::capture::model::report::{Severity, Topic};
use crate::capture::python::context::{Context, Python};
use crate::capture::python::installed::Installed;
use crate::capture::python::pth::{self, Pth};
use crate::capture::trees::nar::path_of;
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::formats::hex::hex;
use crate::formats::nix::store_path::StorePathName;
use crate::formats::python::direct_url::DirectKind;
use crate::sys::error::Result;
use crate::words::show;
use sha2::{Digest, Sha256};
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

/// The projects of editable installs and the folders that `.pth` files name, captured.
pub fn sources(
    context: &Context,
    all: &[Installed],
    pth: &[Pth],
    python: &mut Python,
) -> Result<Vec<Relocation>> {
    let mut wanted = Vec::new();
    // Of one that is built at import its build ships, and what that took of the project.
    for one in all.iter().filter(|one| one.last_build.is_none()) {
        if let Some(direct) = &one.direct_url
            && direct.kind == (DirectKind::Directory { editable: true })
            && let Some(path) = direct.path()
        {
            wanted.push((path, format!("editable install of {}", one.name)));
        }
    }
    // That of an editable install may name a folder below (or beside) the project.
    for file in pth {
        // A zip archive is one, too: what is there is captured or reported.
        let there = file.folders.iter().filter(|folder| folder.exists());
        wanted.extend(there.map(|folder| (folder.clone(), file.file.display().to_string())));
    }
    capture(context, wanted, python)
}

/// Names all of them with what stands in their place: a text that was relocated stays as it is only as
/// long as this does.
pub fn fingerprint(all: &[Relocation]) -> String {
    let mut sha = Sha256::new();
    for relocation in all {
        sha.update(format!("{}\0{}\0", relocation.from, relocation.to));
    }
    hex(&sha.finalize())
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
            python.findings.push(finding(Severity::Problem, Topic::Outside, from, message));
            continue;
        }
        let mut found = source_tree(context, &path);
        python.findings.append(&mut found.findings);
        python.outside.append(&mut found.outside);
        python.objects.extend(audit::of_tree(&found.tree, &format!("{}/", path.display())));
        let shown = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let name = StorePathName::sanitize(&format!("source-{shown}")).to_string();
        let (key, digest) = (format!("source:{}", path.display()), found.stat_digest(context.started));
        let tree = match context.remembered(&key, digest.as_deref()) {
            Some(tree) => tree,
            None => context.trees.add(&name, found.tree, Vec::new(), context.store)?,
        };
        context.memo.put(&key, digest.as_deref(), &tree);
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
pub fn unfit(path: &Path, environment: &Path) -> Option<&'static str> {
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
fn source_tree(context: &Context, path: &Path) -> Collected {
    let root = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let leave_out = |inner: &[u8], kind: &NodeKind| {
        matches!(kind, NodeKind::Directory { .. }) && below(&root, inner).join("pyvenv.cfg").exists()
    };
    let policy = Policy {
        label: &path.display().to_string(),
        models: context.models,
        left_out: context.left_out,
        split_weights: false,
        config_secrets: true,
        leave_out: &leave_out,
    };
    collect(&root, &policy)
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

/// A text that site-packages has at its top level: a `.pth` file, the import finder of an editable install. And the scripts of
/// `setup.py develop`, which run those of the project.
pub fn is_text(name: &[u8]) -> bool {
    let script = |mut parts: std::slice::Split<'_, u8, fn(&u8) -> bool>| {
        parts.next().is_some_and(|first| first.ends_with(b".data")) && parts.next() == Some(b"scripts")
    };
    if name.contains(&b'/') {
        return script(name.split(|byte| *byte == b'/'));
    }
    [&b".pth"[..], b".py", b".egg-link"].iter().any(|end| name.ends_with(end))
}

/// A line of a `.pth` file may name its folder by its place beside the site directory, or with `//` and `..`.
fn relocate_lines(text: &str, site: &Path, all: &[Relocation]) -> Option<(String, Vec<String>)> {
    let mut references = Vec::new();
    let line = |line: &str| {
        let Some(folder) = pth::folder(line, site) else { return line.to_string() };
        let Some((relocation, inner)) =
            all.iter().find_map(|r| folder.strip_prefix(&r.from).ok().map(|inner| (r, inner)))
        else {
            return line.to_string();
        };
        references.push(relocation.reference.clone());
        let end = if line.ends_with('\n') { "\n" } else { "" };
        let to = Path::new(&relocation.to).components().chain(inner.components()).collect::<PathBuf>();
        format!("{}{end}", to.display())
    };
    let moved: String = text.split_inclusive('\n').map(line).collect();
    (!references.is_empty()).then_some((moved, references))
}

/// Replaces the folders' names by their store paths in such texts. Returns what is referred to now.
pub fn relocate(tree: &mut Tree, all: &[Relocation]) -> Result<Vec<String>> {
    let mut references = Vec::new();
    if all.is_empty() {
        return Ok(references);
    }
    for (name, entry) in &mut tree.entries {
        if !is_text(name) {
            continue;
        }
        let Entry::File { source, .. } = entry else { continue };
        let (bytes, disk) = match &*source {
            Source::Disk(disk) => (read_foreign(disk)?, disk.as_path()),
            Source::Bytes(bytes) => (bytes.to_vec(), Path::new("")),
            Source::Shebang { .. } => continue,
        };
        let Ok(mut text) = String::from_utf8(bytes) else { continue };
        let mut changed = false;
        if name.ends_with(b".pth")
            && let Some(site) = disk.parent()
            && let Some((moved, named)) = relocate_lines(&text, site, all)
        {
            text = moved;
            references.extend(named);
            changed = true;
        }
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
    references.sort();
    references.dedup();
    Ok(references)
}

#[cfg(test)]
mod tests {
    use super::{Relocation, relocate_lines, replace_path};
    use std::path::Path;

    #[test]
    fn a_line_names_its_folder_in_any_way() {
        let relocation = |from: &str| Relocation {
            from: from.into(),
            to: format!("/nix/store/x{}", from.replace('/', "-")),
            reference: format!("x{}", from.replace('/', "-")),
        };
        let all = [relocation("/a/lib"), relocation("/srv/far")];
        let text = "# /a/lib\n\n../../lib\r\n/srv//far/./inner\nbeside\n../../lib-old\nimport a.lib\n/a/lib";
        let (moved, references) = relocate_lines(text, Path::new("/a/b/site"), &all).unwrap();
        assert_eq!(
            moved,
            "# /a/lib\n\n/nix/store/x-a-lib\n/nix/store/x-srv-far/inner\nbeside\n../../lib-old\nimport a.lib\n/nix/store/x-a-lib"
        );
        assert_eq!(references, ["x-a-lib", "x-srv-far", "x-a-lib"]);
        assert!(relocate_lines("beside\n", Path::new("/a/b/site"), &all).is_none());
    }

    #[test]
    fn only_the_whole_path_is_replaced() {
        let (text, any) = replace_path("/a/lib\n/a/lib/x '/a/lib' /a/lib-old /a/lib2", "/a/lib", "/s");
        assert_eq!((text.as_str(), any), ("/s\n/s/x '/s' /a/lib-old /a/lib2", true));
        assert_eq!(replace_path("/a/lib-old", "/a/lib", "/s"), ("/a/lib-old".into(), false));
    }
}
