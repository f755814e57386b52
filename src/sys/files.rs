//! Files that must survive a crash or a second process: written to a temporary file beside the
//! target, fsynced, renamed, directory fsynced; and a lock that names its holder.
use crate::sys::error::{Error, Result};
use crate::sys::progress::check_interrupt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Replaces `path` with `bytes`, whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with_mode(path, bytes, 0o644)
}

/// Writes `path`, whole, where nothing is there yet; whether it did.
pub fn create_atomic(path: &Path, bytes: &[u8]) -> Result<bool> {
    let dir = folder_of(path);
    match written(dir, bytes, 0o644)?.persist_noclobber(path) {
        Ok(_) => sync_dir(dir).map(|()| true),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("create", path, e.error)),
    }
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = folder_of(path);
    written(dir, bytes, mode)?.persist(path).map_err(|e| Error::io("replace", path, e.error))?;
    sync_dir(dir)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file in a folder, which is created, with these bytes on disk.
fn written(dir: &Path, bytes: &[u8], mode: u32) -> Result<tempfile::NamedTempFile> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create directory", dir, e))?;
    let temp = tempfile::Builder::new()
        .prefix(".stillframe-")
        .tempfile_in(dir)
        .map_err(|e| Error::io("create a temporary file in", dir, e))?;
    // Through the file itself: `temp` would name the path in its errors a second time.
    temp.as_file().write_all(bytes).map_err(|e| Error::io("write", temp.path(), e))?;
    use std::os::unix::fs::PermissionsExt;
    temp.as_file()
        .set_permissions(std::fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io("set the mode of", temp.path(), e))?;
    temp.as_file().sync_all().map_err(|e| Error::io("sync", temp.path(), e))?;
    Ok(temp)
}

/// Writes only what is not there already, so that nothing that watches the file sees a change that is none.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|now| now == bytes) {
        return Ok(false);
    }
    write_atomic(path, bytes).map(|()| true)
}

/// The same for what its owner alone may read, or a group that is let in afterwards.
pub fn write_private_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let closed = std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o007 == 0);
    if closed && std::fs::read(path).is_ok_and(|now| now == bytes) {
        return Ok(false);
    }
    write_with_mode(path, bytes, 0o600).map(|()| true)
}

/// A symbolic link that points to `target` from now on, whatever it pointed to before.
pub fn replace_link(link: &Path, target: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let dir = link.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create directory", dir, e))?;
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.new"));
    // Left over from a crash.
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary).map_err(|e| Error::io("link", &temporary, e))?;
    std::fs::rename(&temporary, link).map_err(|e| Error::io("replace", link, e))?;
    sync_dir(dir)
}

/// Removes a file or link; one that is not there is removed.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

/// Removes a folder with all that is in it; one that is not there is removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

/// Where the file system of a path is mounted; the path need not be there.
pub fn mount_point(path: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let mut there = path.ancestors().skip_while(|path| device(path).is_none());
    let mut mount = there.next().unwrap_or(Path::new("/"));
    let own = device(mount);
    for parent in there {
        if device(parent) != own {
            break;
        }
        mount = parent;
    }
    mount.to_path_buf()
}

/// Makes a rename or removal inside `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync directory", dir, e))
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

/// How often a lock that another process has is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// An exclusive lock on a file; freed by the kernel when the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock; when another process has it, calls `waiting` once with what that process
    /// wrote about itself, then waits.
    pub fn acquire(path: &Path, holder: &str, waiting: impl FnOnce(&str)) -> Result<FileLock> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io("create directory", dir, e))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::io("open the lock", path, e))?;
        if let Err(busy) = file.try_lock() {
            match busy {
                std::fs::TryLockError::WouldBlock => {
                    let mut who = String::new();
                    // Only a courtesy: a holder that has not written its name yet is still waited for.
                    let _ = file.read_to_string(&mut who);
                    waiting(who.trim());
                    // Not `file.lock()`: nothing would wake it at a Ctrl-C.
                    while let Err(busy) = file.try_lock() {
                        if let std::fs::TryLockError::Error(e) = busy {
                            return Err(Error::io("wait for the lock", path, e));
                        }
                        check_interrupt()?;
                        std::thread::sleep(LOOK_AGAIN);
                    }
                }
                std::fs::TryLockError::Error(e) => return Err(Error::io("lock", path, e)),
            }
        }
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(holder.as_bytes())
        };
        write(&mut file).map_err(|e| Error::io("write the lock", path, e))?;
        Ok(FileLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_is_not_there_is_on_the_file_system_of_its_folder() {
        assert_eq!(mount_point(Path::new("/proc/self/absent/too")), Path::new("/proc"));
        assert_eq!(mount_point(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn a_second_holder_waits_and_is_told_for_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = FileLock::acquire(&path, "pid 1: snapshot", |_| panic!("not busy")).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let other = path.clone();
        let thread = std::thread::spawn(move || {
            FileLock::acquire(&other, "pid 2", |who| tell.send(who.to_string()).unwrap()).unwrap();
        });
        assert_eq!(told.recv().unwrap(), "pid 1: snapshot");
        assert!(!thread.is_finished());
        drop(first);
        thread.join().unwrap();
    }
}
