//! What a RECORD says of files that nobody has read yet. Such a file counts as what it is said to be, and is
//! checked while its tree is hashed or sent: a pass over every byte less, which on a first snapshot is gigabytes
//! of disk. Where one is something else the whole tree is refused, and its distribution decided again file by file.
use crate::capture::trees::digest::{self, FileDigest, changed_error};
use crate::sys::error::{Error, Kind, Result};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is said of a file.
#[derive(Debug, Clone, Copy)]
pub struct Stated {
    pub sha256: [u8; 32],
    /// What the wheel's directory says: a RECORD may lie about its own wheel.
    pub crc32: Option<u32>,
    pub size: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Promises {
    /// What is said, and how long the file is.
    files: HashMap<PathBuf, (Stated, u64)>,
    /// Which of them begin as programs and libraries do.
    objects: HashSet<PathBuf>,
    broken: bool,
}

impl Promises {
    /// Takes the word for a file, if its metadata agrees; what it is then said to be. Not for what may be
    /// somebody's secret (`suspect`, by path and length), or lies behind a link: a tree that is refused has left
    /// its bytes in the store's directory, until the garbage collector comes.
    pub fn take(
        &mut self,
        path: &Path,
        stated: Stated,
        suspect: fn(&[u8], u64) -> bool,
    ) -> Option<FileDigest> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        let suspect = || suspect(path.as_os_str().as_bytes(), meta.len());
        if !meta.is_file() || stated.size.is_some_and(|size| size != meta.len()) || suspect() {
            return None;
        }
        self.files.insert(path.to_path_buf(), (stated, meta.len()));
        Some(FileDigest {
            sha256: stated.sha256,
            crc32: stated.crc32.unwrap_or_default(),
            size: meta.len(),
            executable: meta.mode() & 0o100 != 0,
            elf: false,
        })
    }

    /// Whether a file was not what it was said to be, or could not be read.
    pub fn broken(&self) -> bool {
        self.broken
    }

    pub fn is_object(&self, path: &Path) -> bool {
        self.objects.contains(path)
    }

    pub fn size(&self, path: &Path) -> Option<u64> {
        self.files.get(path).map(|(_, size)| *size)
    }

    /// `digest::stream`, which fails too where a promise does not hold.
    pub fn stream(
        &mut self,
        path: &Path,
        size: u64,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some((promise, _)) = self.files.get(path) else {
            return digest::stream(path, Some(size), sink).map(drop);
        };
        let mut refused = false;
        let read =
            digest::stream_digest(path, Some(size), |bytes| sink(bytes).inspect_err(|_| refused = true));
        let result = read.and_then(|found| {
            if found.sha256 != promise.sha256 || promise.crc32.is_some_and(|said| said != found.crc32) {
                return Err(changed_error(path));
            }
            if found.elf {
                self.objects.insert(path.to_path_buf());
            }
            Ok(())
        });
        // Not where the other side refused to listen, or the user does not want it any more.
        self.broken |= !refused && result.as_ref().is_err_and(|e: &Error| e.kind != Kind::Interrupted);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::trees::digest::digest_bytes;

    const SECRET: fn(&[u8], u64) -> bool = |path, _| path.ends_with(b"token");

    /// A file of these bytes, and what a RECORD would say of it.
    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf, Stated) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, bytes).unwrap();
        let FileDigest { sha256, crc32, size, .. } = digest_bytes(bytes);
        (dir, path, Stated { sha256, crc32: Some(crc32), size: Some(size) })
    }

    #[test]
    fn a_promise_is_kept_or_broken_by_what_is_read() {
        let (dir, path, was) = file(b"\x7fELF and more");
        let size = was.size.unwrap();
        let mut promises = Promises::default();
        assert!(
            promises.take(&path, Stated { size: Some(size + 1), ..was }, SECRET).is_none(),
            "another size"
        );
        let any = Stated { size: None, crc32: None, ..was };
        assert!(promises.take(dir.path(), any, SECRET).is_none(), "no file");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(promises.take(&link, any, SECRET).is_none(), "a link");
        let secret = dir.path().join("token");
        std::fs::copy(&path, &secret).unwrap();
        assert!(promises.take(&secret, any, SECRET).is_none(), "a secret");
        let found = promises.take(&path, was, SECRET).unwrap();
        assert_eq!((found.sha256, found.size), (was.sha256, size));
        let mut read = Vec::new();
        let mut keep = |bytes: &[u8]| {
            read.extend_from_slice(bytes);
            Ok(())
        };
        promises.stream(&path, size, &mut keep).unwrap();
        assert!(!promises.broken() && promises.is_object(&path));
        assert_eq!(read, b"\x7fELF and more");

        std::fs::write(&path, b"\x7fELF and lore").unwrap();
        let error = promises.stream(&path, size, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), format!("{} changed while it was read", path.display()));
        assert!(promises.broken());
    }

    #[test]
    fn the_wheels_own_checksum_counts_beside_its_record() {
        let (_dir, path, was) = file(b"as RECORD says");
        let mut promises = Promises::default();
        promises.take(&path, Stated { crc32: was.crc32.map(|crc| crc ^ 1), ..was }, SECRET).unwrap();
        assert!(promises.stream(&path, was.size.unwrap(), |_| Ok(())).is_err());
        assert!(promises.broken());
    }

    #[test]
    fn a_store_that_refuses_breaks_no_promise() {
        let (_dir, path, was) = file(b"text");
        let size = was.size.unwrap();
        let mut promises = Promises::default();
        promises.take(&path, was, SECRET).unwrap();
        let refusal = promises.stream(&path, size, |_| Err(Error::new(Kind::Store, "full"))).unwrap_err();
        assert_eq!(refusal.to_string(), "full");
        assert!(!promises.broken());
        std::fs::remove_file(&path).unwrap();
        assert!(promises.stream(&path, size, |_| Ok(())).is_err());
        assert!(promises.broken(), "what cannot be read is looked at file by file, which says how");
    }
}
