//! Room that is held on the file system of the state, so that the end of an activation can be written where
//! everything else is full: a file that is given up for it, and made anew once there is space.
use crate::host::layout::Layout;
use crate::sys::error::{Error, Result};
use crate::sys::files;
use std::fs;
use std::path::Path;

/// A state with a dozen generations and their workflows, and the record's last lines, have room many times over.
const SIZE: usize = 1 << 20;
/// With less than this free, a file system is full: its last blocks are often not to be had.
const LITTLE: u64 = 64 << 10;

/// Makes sure that the room is held: nothing begins whose end might not be written.
pub fn keep(layout: &Layout) -> Result<()> {
    let path = layout.reserve();
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == SIZE as u64) {
        return Ok(());
    }
    files::write_atomic(&path, &noise()).map_err(named)
}

/// Bytes that a file system with compression does not make small.
fn noise() -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        // xorshift64 (Marsaglia 2003).
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    };
    (0..SIZE / 8).flat_map(next).collect()
}

/// Writes what must be written; where there is no space, once more in the room that was held.
pub fn spend<T>(layout: &Layout, mut write: impl FnMut() -> Result<T>) -> Result<T> {
    let error = match write() {
        Err(error) if error.is_full() => error,
        other => return other,
    };
    if fs::remove_file(layout.reserve()).is_err() {
        return Err(named(error));
    }
    // Some file systems free the blocks only with their next transaction.
    files::sync_dir(&layout.state)?;
    write().map_err(named)
}

/// An error for want of space names the file system that lacks it.
pub fn named(error: Error) -> Error {
    let Some(path) = error.path.clone().filter(|_| error.is_full()) else { return error };
    let mount = files::mount_point(&path);
    error.hint(format!("the file system at {} is full: free space there, then deploy again", mount.display()))
}

/// The mount point of the state's file system, if that is full.
pub fn full(layout: &Layout) -> Option<String> {
    let stat = rustix::fs::statvfs(&layout.state).ok()?;
    let little =
        stat.f_bavail.saturating_mul(stat.f_frsize) < LITTLE || stat.f_files > 0 && stat.f_favail == 0;
    little.then(|| files::mount_point(Path::new(&layout.state)).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error as IoError, ErrorKind};

    #[test]
    fn the_room_is_given_up_once_and_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let reserve = layout.reserve();
        keep(&layout).unwrap();
        assert_eq!(fs::metadata(&reserve).unwrap().len(), SIZE as u64);
        let mut write = || match reserve.exists() {
            true => Err(Error::io("write", dir.path().join("state"), ErrorKind::StorageFull.into())),
            false => Ok("written"),
        };
        assert_eq!(spend(&layout, &mut write).unwrap(), "written");
        keep(&layout).unwrap();
        let full =
            || Err::<(), Error>(Error::io("write", dir.path().join("state"), ErrorKind::StorageFull.into()));
        let error = spend(&layout, full).unwrap_err();
        let mount = files::mount_point(dir.path());
        assert_eq!(
            error.hint.unwrap(),
            format!("the file system at {} is full: free space there, then deploy again", mount.display())
        );
        // What fails for another reason costs nothing.
        keep(&layout).unwrap();
        let broken = || Err::<(), Error>(Error::io("write", dir.path(), IoError::other("gone")));
        assert_eq!(spend(&layout, broken).unwrap_err().hint, None);
        assert!(reserve.exists());
    }
}
