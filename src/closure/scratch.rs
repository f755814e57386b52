//! Folders for the length of one run: a scratch store, a probe's slot. They bear the name of the process
//! they belong to, so that what a killed one left behind is known for what it is, and removed.
use crate::sys::error::{Error, Result};
use crate::sys::process::Life;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Removed when dropped, read-only folders of a store included.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new folder `PREFIX-…` in `parent`, which is made; others of that prefix whose process has ended
    /// are removed.
    pub fn new(parent: &Path, prefix: &str) -> Result<Scratch> {
        fs::create_dir_all(parent).map_err(|e| Error::io("create directory", parent, e))?;
        sweep(parent, prefix);
        let own = Life::own();
        let made = tempfile::Builder::new()
            .prefix(&format!("{prefix}-{}-{}-", own.pid, own.started))
            .tempdir_in(parent)
            .map_err(|e| Error::io("create a scratch directory in", parent, e))?;
        Ok(Scratch { path: made.keep() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is.
    pub fn keep(self) -> PathBuf {
        let path = self.path.clone();
        std::mem::forget(self);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// What cannot be removed now is tried again by the next run.
fn remove(dir: &Path) {
    unlock(dir);
    let _ = fs::remove_dir_all(dir);
}

/// A store's folders are read-only: they must be writable for their owner to be removed.
fn unlock(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock(&entry.path());
        }
    }
}

fn sweep(parent: &Path, prefix: &str) {
    // A parent that cannot be listed has nothing to sweep; making the folder says what is wrong.
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| owner(name, prefix));
        if owner.is_some_and(|owner| !owner.goes_on()) {
            tracing::debug!("removing {}, left by a run that was killed", entry.path().display());
            remove(&entry.path());
        }
    }
}

/// The process that a folder's name tells of. Its boot is not in the name: the same id and start time in
/// another boot would only keep a folder for one run more.
fn owner(name: &str, prefix: &str) -> Option<Life> {
    let mut parts = name.strip_prefix(prefix)?.strip_prefix('-')?.split('-');
    let (pid, started) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next()?;
    Some(Life { pid, started, ..Life::own() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_a_living_one_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let own = Life::own();
        let make = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.join("store/inner")).unwrap();
            fs::set_permissions(path.join("store"), fs::Permissions::from_mode(0o555)).unwrap();
            path
        };
        let stale = make(&format!("probe-{}-{}-abc", own.pid, own.started + 1));
        let others = [
            make(&format!("verify-{}-{}-abc", own.pid, own.started + 1)),
            make("probe-x-y-z"),
            make("probe"),
        ];
        let living = Scratch::new(dir.path(), "probe").unwrap();
        let second = Scratch::new(dir.path(), "probe").unwrap();
        assert!(!stale.exists());
        assert!(others.iter().all(|path| path.exists()));
        assert!(living.path().exists() && living.path() != second.path());
        let path = living.path().to_path_buf();
        fs::create_dir(path.join("store")).unwrap();
        fs::set_permissions(path.join("store"), fs::Permissions::from_mode(0o555)).unwrap();
        drop(living);
        assert!(!path.exists());
    }
}
