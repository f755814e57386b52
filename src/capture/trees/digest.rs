//! Reading a file once for every digest a capture needs, and noticing when it changes meanwhile.
use crate::formats::elf::looks_like_elf;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub const BUFFER: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDigest {
    pub sha256: [u8; 32],
    pub crc32: u32,
    pub size: u64,
    pub executable: bool,
    /// Begins as a program or a shared library does.
    pub elf: bool,
}

/// What must stay the same from the first byte read to the last.
fn stamp(file: &File, path: &Path) -> Result<(u64, i64, i64, i64, i64, u64)> {
    let m = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if !m.is_file() {
        return Err(Error::new(Kind::Environment, format!("{} is not a regular file", path.display())));
    }
    Ok((m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.ino()))
}

pub fn changed_error(path: &Path) -> Error {
    Error::new(Kind::Environment, format!("{} changed while it was read", path.display()))
        .hint("stop what writes to the environment, then run the command again")
}

/// What was listed a moment ago and is gone now has the same cause, and the same remedy, as a change.
pub fn cannot_read(path: &Path, e: std::io::Error) -> Error {
    if e.kind() != std::io::ErrorKind::NotFound {
        return Error::io("read", path, e);
    }
    Error { message: format!("{} vanished before it was read", path.display()), ..changed_error(path) }
}

/// Opens for reading without waiting on a FIFO.
pub fn open(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(|e| cannot_read(path, e))
}

/// Streams a file to `sink`, and fails when it changed on the way.
pub fn stream(path: &Path, expected: Option<u64>, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let mut file = open(path)?;
    let before = stamp(&file, path)?;
    if expected.is_some_and(|size| size != before.0) {
        return Err(changed_error(path));
    }
    let mut buffer = vec![0u8; BUFFER.min(before.0 as usize + 1)];
    let mut total = 0u64;
    loop {
        // One file may take minutes.
        check_interrupt()?;
        let n = file.read(&mut buffer).map_err(|e| Error::io("read", path, e))?;
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > before.0 {
            return Err(changed_error(path));
        }
        sink(&buffer[..n])?;
    }
    if total != before.0 || stamp(&file, path)? != before {
        return Err(changed_error(path));
    }
    Ok(total)
}

pub fn digest(path: &Path) -> Result<FileDigest> {
    stream_digest(path, None, |_| Ok(()))
}

/// `stream`, which says too what went by.
pub fn stream_digest(
    path: &Path,
    expected: Option<u64>,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<FileDigest> {
    let mut sha = Sha256::new();
    let mut crc = crc32fast::Hasher::new();
    let mut first = None;
    let size = stream(path, expected, |bytes| {
        first.get_or_insert_with(|| looks_like_elf(bytes));
        sha.update(bytes);
        crc.update(bytes);
        sink(bytes)
    })?;
    let mode = std::fs::metadata(path).map_err(|e| cannot_read(path, e))?.mode();
    Ok(FileDigest {
        sha256: sha.finalize().into(),
        crc32: crc.finalize(),
        size,
        executable: mode & 0o100 != 0,
        elf: first.unwrap_or_default(),
    })
}

pub fn digest_bytes(bytes: &[u8]) -> FileDigest {
    FileDigest {
        sha256: Sha256::digest(bytes).into(),
        crc32: crc32fast::hash(bytes),
        size: bytes.len() as u64,
        executable: false,
        elf: looks_like_elf(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_while_it_is_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![1u8; BUFFER * 2]).unwrap();
        let mut first = true;
        let error = stream(&path, None, |_| {
            if std::mem::take(&mut first) {
                std::fs::write(&path, vec![2u8; BUFFER * 3]).unwrap();
            }
            Ok(())
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("{} changed while it was read", path.display()));
        std::fs::remove_file(&path).unwrap();
        let error = digest(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("{} vanished before it was read", path.display()));
        assert!(error.hint.is_some_and(|hint| hint.ends_with("run the command again")));
    }
}
