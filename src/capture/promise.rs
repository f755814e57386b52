//! What a RECORD says of files that nobody has read yet. Such a file counts as what it is said to be, and is
//! checked while its tree is hashed or sent: a pass over every byte less, which on a first snapshot is gigabytes
//! of disk. Where one is something else the whole tree is refused, and its distribution decided again file by file.
use crate::capture::digest::{self, FileDigest, changed_error};
use crate::capture::secrets;
use crate::formats::elf::looks_like_elf;
use crate::sys::error::{Error, Kind, Result};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy)]
struct Promise {
    sha256: [u8; 32],
    /// What the wheel's directory says: a RECORD may lie about its own wheel.
    crc32: Option<u32>,
    size: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Promises {
    files: HashMap<PathBuf, Promise>,
    /// Which of them begin as programs and libraries do.
    objects: HashSet<PathBuf>,
    broken: bool,
}

impl Promises {
    /// Takes the word for a file, if its metadata agrees; what it is then said to be. Not for what may be
    /// somebody's secret, or lies behind a link: a tree that is refused has left its bytes in the store's
    /// directory, until the garbage collector comes.
    pub fn take(
        &mut self,
        path: &Path,
        sha256: [u8; 32],
        crc32: Option<u32>,
        size: Option<u64>,
    ) -> Option<FileDigest> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        let suspect = || secrets::suspect(path.as_os_str().as_bytes(), meta.len());
        if !meta.is_file() || size.is_some_and(|size| size != meta.len()) || suspect() {
            return None;
        }
        let size = meta.len();
        self.files.insert(path.to_path_buf(), Promise { sha256, crc32, size });
        let executable = meta.mode() & 0o100 != 0;
        Some(FileDigest { sha256, crc32: crc32.unwrap_or_default(), size, executable, elf: false })
    }

    /// Whether a file was not what it was said to be, or could not be read.
    pub fn broken(&self) -> bool {
        self.broken
    }

    pub fn is_object(&self, path: &Path) -> bool {
        self.objects.contains(path)
    }

    pub fn size(&self, path: &Path) -> Option<u64> {
        self.files.get(path).map(|promise| promise.size)
    }

    /// `digest::stream`, which fails too where a promise does not hold.
    pub fn stream(
        &mut self,
        path: &Path,
        size: u64,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(promise) = self.files.get(path) else {
            return digest::stream(path, Some(size), sink).map(drop);
        };
        let (mut sha, mut crc) = (Sha256::new(), crc32fast::Hasher::new());
        let (mut object, mut begun, mut refused) = (false, false, false);
        let read = digest::stream(path, Some(size), |bytes| {
            object |= !std::mem::replace(&mut begun, true) && looks_like_elf(bytes);
            sha.update(bytes);
            if promise.crc32.is_some() {
                crc.update(bytes);
            }
            sink(bytes).inspect_err(|_| refused = true)
        });
        let holds = |()| {
            let crc = crc.finalize();
            <[u8; 32]>::from(sha.finalize()) == promise.sha256 && promise.crc32.is_none_or(|said| said == crc)
        };
        let result = match read.map(|_| holds(())) {
            Ok(true) => Ok(()),
            Ok(false) => Err(changed_error(path)),
            Err(e) => Err(e),
        };
        if object {
            self.objects.insert(path.to_path_buf());
        }
        // Not where the other side refused to listen, or the user does not want it any more.
        self.broken |= !refused && result.as_ref().is_err_and(|e: &Error| e.kind != Kind::Interrupted);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::digest::digest_bytes;

    #[test]
    fn a_promise_is_kept_or_broken_by_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let was = digest_bytes(b"\x7fELF and more");
        std::fs::write(&path, b"\x7fELF and more").unwrap();
        let mut promises = Promises::default();
        assert!(promises.take(&path, was.sha256, None, Some(was.size + 1)).is_none(), "another size");
        assert!(promises.take(dir.path(), was.sha256, None, None).is_none(), "no file");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(promises.take(&link, was.sha256, None, None).is_none(), "a link");
        for secret in ["config.ini", "key.pem", "token", ".netrc"] {
            let secret = dir.path().join(secret);
            std::fs::copy(&path, &secret).unwrap();
            assert!(promises.take(&secret, was.sha256, None, None).is_none(), "{}", secret.display());
        }
        let found = promises.take(&path, was.sha256, Some(was.crc32), Some(was.size)).unwrap();
        assert_eq!((found.sha256, found.size), (was.sha256, was.size));
        let mut read = Vec::new();
        let mut keep = |bytes: &[u8]| {
            read.extend_from_slice(bytes);
            Ok(())
        };
        promises.stream(&path, was.size, &mut keep).unwrap();
        assert!(!promises.broken() && promises.is_object(&path));
        assert_eq!(read, b"\x7fELF and more");

        std::fs::write(&path, b"\x7fELF and lore").unwrap();
        let error = promises.stream(&path, was.size, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), format!("{} changed while it was read", path.display()));
        assert!(promises.broken());
    }

    #[test]
    fn the_wheels_own_checksum_counts_beside_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"as RECORD says").unwrap();
        let was = digest_bytes(b"as RECORD says");
        let mut promises = Promises::default();
        promises.take(&path, was.sha256, Some(was.crc32 ^ 1), None).unwrap();
        assert!(promises.stream(&path, was.size, |_| Ok(())).is_err());
        assert!(promises.broken());
    }

    #[test]
    fn a_store_that_refuses_breaks_no_promise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"text").unwrap();
        let was = digest_bytes(b"text");
        let mut promises = Promises::default();
        promises.take(&path, was.sha256, None, None).unwrap();
        let refusal = promises.stream(&path, was.size, |_| Err(Error::new(Kind::Store, "full"))).unwrap_err();
        assert_eq!(refusal.to_string(), "full");
        assert!(!promises.broken());
        std::fs::remove_file(&path).unwrap();
        assert!(promises.stream(&path, was.size, |_| Ok(())).is_err());
        assert!(promises.broken(), "what cannot be read is looked at file by file, which says how");
    }
}
