//! Files of the site directories that no distribution accounts for: captured, and named.
use crate::capture::audit;
use crate::capture::files::paths::{SECRET_NOTE, case_twins, finding, may_read, unreadable};
use crate::capture::files::secrets;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::context::{Context, Python};
use crate::capture::python::editable::{Relocation, fingerprint, relocate};
use crate::capture::python::installed::installer_file;
use crate::capture::trees::memo::stat_digest;
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::sys::error::Result;
use crate::words::show;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::DirEntry;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Puts them in a tree of their own.
pub fn capture(
    context: &Context,
    claims: &HashSet<PathBuf>,
    sources: &[Relocation],
    python: &mut Python,
) -> Result<()> {
    // Not simply what the installed RECORDs list: where a wheel vouches for a distribution, its tree has
    // the wheel's files and no others, and one that somebody added would be in no tree at all.
    let owned: HashSet<&Path> = claims.iter().map(PathBuf::as_path).collect();
    let mut tree = Tree::default();
    for (at, site) in context.sites.iter().enumerate() {
        let before = &context.sites[..at];
        let mut stack = vec![site.clone()];
        while let Some(dir) = stack.pop() {
            let entries = match std::fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) => {
                    let shown = show(dir.strip_prefix(site).unwrap_or(&dir).as_os_str().as_bytes());
                    python.findings.push(unreadable(&shown, "the folder cannot be read", &e));
                    continue;
                }
            };
            let mut entries: Vec<(OsString, DirEntry)> =
                entries.flatten().map(|e| (e.file_name(), e)).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let names = entries.iter().filter_map(|(name, _)| Some((name.to_str()?, name)));
            python.findings.extend(case_twins(names, |name| {
                show(dir.join(name).strip_prefix(site).unwrap_or(&dir).as_os_str().as_bytes())
            }));
            for (_, entry) in entries {
                let path = entry.path();
                if context.leftovers.contains(&path) {
                    continue;
                }
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    if entry.file_name() != "__pycache__" {
                        stack.push(path);
                    }
                    continue;
                }
                if owned.contains(path.as_path()) {
                    continue;
                }
                let Ok(relative) = path.strip_prefix(site) else { continue };
                let name = relative.as_os_str().as_bytes().to_vec();
                if relative.to_str().is_some_and(installer_file) {
                    continue;
                }
                if let Some(first) = hidden(relative, before) {
                    let why = format!(
                        "behind {}, which is earlier on sys.path: never imported, left out",
                        show(first.as_os_str().as_bytes())
                    );
                    python.findings.push(finding(Severity::Info, Topic::Unowned, show(&name), why));
                    continue;
                }
                let shown = show(&name);
                match ownerless(context, &path, kind) {
                    Ok((entry, message)) => {
                        python.findings.push(finding(Severity::Warning, Topic::Unowned, shown, message));
                        tree.entries.insert(name, entry);
                    }
                    Err(mut why) => {
                        why.path = shown;
                        python.findings.push(why);
                    }
                }
            }
        }
    }
    if tree.is_empty() {
        return Ok(());
    }
    python.objects.extend(audit::of_tree(&tree, ""));
    const KEY: &str = "unowned";
    // What a link leads to is what counts, and that is what this looks at.
    let files = tree.entries.values().filter_map(|entry| match entry {
        Entry::File { source: Source::Disk(path), .. } => Some(path.as_path()),
        _ => None,
    });
    let salt = format!("{} {}", fingerprint(sources), context.left_out.secrets());
    let digest = stat_digest(&salt, files, context.started);
    let kept = match context.remembered(KEY, digest.as_deref()) {
        Some(kept) => kept,
        None => {
            let references = relocate(&mut tree, sources)?;
            context.trees.add("site-packages-unowned", tree, references, context.store)?
        }
    };
    context.memo.put(KEY, digest.as_deref(), &kept);
    python.unowned = Some(kept);
    Ok(())
}

/// What is imported in the place of a file, in an earlier one of the site directories: the same name, or the package that
/// its first folder is there. (Without `__init__.py` it is a namespace, which is looked for in all of them.)
fn hidden(relative: &Path, before: &[PathBuf]) -> Option<PathBuf> {
    let top = relative.components().next()?;
    before.iter().find_map(|site| {
        let same = site.join(relative);
        if same.symlink_metadata().is_ok() {
            return Some(same);
        }
        let package = site.join(top);
        (relative.components().nth(1).is_some() && package.join("__init__.py").exists()).then_some(package)
    })
}

/// A file of a site directory that nobody owns, and what the report says of it; or why it stays out.
fn ownerless(context: &Context, path: &Path, kind: std::fs::FileType) -> Result<(Entry, String), Finding> {
    let no = |severity, topic: Topic, why: String| Err(finding(severity, topic, "", why));
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let to = show(real.as_os_str().as_bytes());
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if kind.is_symlink() => {
            let why = format!("a link that cannot be followed; left out: {e}");
            return no(Severity::Problem, Topic::Symlink, why);
        }
        Err(e) => {
            return no(Severity::Problem, Topic::Unreadable, format!("cannot be looked at; left out: {e}"));
        }
    };
    if meta.is_dir() {
        let why = format!("a link to the folder {to}; left out: name the folder in a .pth file instead");
        return no(Severity::Problem, Topic::Symlink, why);
    }
    if context.left_out.names(path) || context.left_out.has(&real) {
        return no(Severity::Info, Topic::Excluded, "left out, as stillframe.toml says".into());
    }
    if kind.is_symlink() {
        if ["/proc", "/sys", "/dev"].iter().any(|kernel| real.starts_with(kernel)) {
            let link = std::fs::read_link(path).unwrap_or_default();
            let why = format!("a link to {}, the kernel's: left out", show(link.as_os_str().as_bytes()));
            return no(Severity::Problem, Topic::Symlink, why);
        }
        if context.models.iter().any(|folder| real.starts_with(folder)) {
            let why = format!("links into the models folder ({to}): not captured, like models");
            return no(Severity::Warning, Topic::Outside, why);
        }
    }
    if !meta.is_file() {
        let why = "in site-packages, neither a file nor a link to one: left out".to_string();
        return no(Severity::Warning, Topic::SpecialFile, why);
    }
    if let Err(e) = may_read(path) {
        return no(Severity::Problem, Topic::Unreadable, format!("the file cannot be read; left out: {e}"));
    }
    if context.left_out.redacts(&real).is_some() {
        let why = "redact names it, and a file among installed modules cannot be emptied: left out";
        return no(Severity::Problem, Topic::Secret, why.into());
    }
    let names = [path, real.as_path()].map(|name| name.as_os_str().as_bytes());
    if let Some(what) = secrets::judge(&names, path, meta.len())
        && !context.left_out.allows(&real)
    {
        let allow = context.left_out.advice(path).map(|line| format!("; {line}")).unwrap_or_default();
        return no(Severity::Warning, Topic::Secret, format!("{what}: {SECRET_NOTE}{allow}"));
    }
    let executable = meta.mode() & 0o100 != 0;
    let message = match kind.is_symlink() {
        true => format!("a link to {to}, and no distribution owns it; the file is captured"),
        false => "no distribution owns it; it is captured".to_string(),
    };
    Ok((Entry::File { source: Source::Disk(path.to_path_buf()), executable }, message))
}
