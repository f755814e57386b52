//! A virtual tree written to disk: what a probe runs instead of the environment itself.
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::sys::error::{Error, Result};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Writes `tree` at `to`; its files are writable.
pub fn tree(tree: &Tree, to: &Path) -> Result<()> {
    for (name, entry) in &tree.entries {
        let path = if name.is_empty() { to.to_path_buf() } else { to.join(OsStr::from_bytes(name)) };
        let parent = path.parent().unwrap_or(to);
        fs::create_dir_all(parent).map_err(|e| Error::io("create directory", parent, e))?;
        let executable = match entry {
            Entry::Directory => {
                fs::create_dir_all(&path).map_err(|e| Error::io("create directory", &path, e))?;
                continue;
            }
            Entry::Symlink(target) => {
                symlink(OsStr::from_bytes(target), &path).map_err(|e| Error::io("link", &path, e))?;
                continue;
            }
            Entry::File { source, executable } => {
                match source {
                    Source::Disk(from) | Source::Shebang { path: from, .. } => {
                        let verb = format!("copy {} to", from.display());
                        fs::copy(from, &path).map_err(|e| Error::io(&verb, &path, e))?;
                    }
                    Source::Bytes(bytes) => {
                        fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))?;
                    }
                }
                *executable
            }
        };
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(|e| Error::io("set the mode of", &path, e))?;
    }
    fs::create_dir_all(to)
        .or_else(|e| if to.exists() { Ok(()) } else { Err(e) })
        .map_err(|e| Error::io("create directory", to, e))
}

/// The folders of `from` anew at `to`, its files as links: what is added, renamed or removed there changes nothing in
/// `from`. Folders that are links are gone into, once each, and not those above; what cannot be listed is empty.
pub fn mirror(from: &Path, to: &Path) -> Result<()> {
    let mut seen = HashSet::new();
    let root = fs::canonicalize(from).unwrap_or_default();
    let mut pending = vec![(from.to_path_buf(), to.to_path_buf())];
    while let Some((from, to)) = pending.pop() {
        fs::create_dir_all(&to).map_err(|e| Error::io("create directory", &to, e))?;
        let Ok(meta) = fs::metadata(&from) else { continue };
        if !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                let above = fs::canonicalize(&from).is_ok_and(|real| root.starts_with(real));
                if !above {
                    pending.push((from, to));
                }
            } else {
                symlink(&from, &to).map_err(|e| Error::io("link", &to, e))?;
            }
        }
    }
    Ok(())
}
