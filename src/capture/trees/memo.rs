//! The memo: what a tree's content was when its files had a given size, mtime, ctime, inode
//! and mode. A second run asks it before it reads a byte. It is a cache in a file of its own, thrown
//! away when it is of another version or broken, and an entry is only written when no file was touched
//! within two seconds of the look at it: a later change could leave the same timestamps (what git
//! calls racy).
use crate::formats::hex::hex;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Raised when the same files would give other trees than before: the memo starts anew.
const CAPTURE_REVISION: u32 = 8;

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The program that wrote it: another one may compute other trees from the same files.
    program: String,
    entries: BTreeMap<String, Item>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Item {
    digest: String,
    value: Value,
}

#[derive(Debug)]
pub struct Memo {
    path: PathBuf,
    old: BTreeMap<String, Item>,
    new: Mutex<BTreeMap<String, Item>>,
}

fn program() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), CAPTURE_REVISION)
}

impl Memo {
    /// One file per environment, named by its path.
    pub fn open(cache: &Path, environment: &Path) -> Memo {
        let name = hex(&Sha256::digest(environment.as_os_str().as_bytes())[..8]);
        let path = cache.join(format!("memo-{name}.json"));
        let old = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok())
            .filter(|stored| stored.version == VERSION && stored.program == program())
            .map(|stored| stored.entries)
            .unwrap_or_default();
        Memo { path, old, new: Mutex::default() }
    }

    pub fn get<T: for<'a> Deserialize<'a>>(&self, key: &str, digest: Option<&str>) -> Option<T> {
        let item = self.old.get(key)?;
        (Some(item.digest.as_str()) == digest)
            .then(|| serde_json::from_value(item.value.clone()).ok())
            .flatten()
    }

    /// An entry whatever its digest, which comes with it: for one that says itself which files count.
    pub fn entry<T: for<'a> Deserialize<'a>>(&self, key: &str) -> Option<(&str, T)> {
        let item = self.old.get(key)?;
        Some((item.digest.as_str(), serde_json::from_value(item.value.clone()).ok()?))
    }

    pub fn put(&self, key: &str, digest: Option<&str>, value: &impl Serialize) {
        let (Some(digest), Ok(value)) = (digest, serde_json::to_value(value)) else { return };
        let mut new = self.new.lock();
        new.insert(key.into(), Item { digest: digest.into(), value });
    }

    /// Writes what this run saw; entries it did not ask for are gone from the environment.
    pub fn save(self) -> Result<()> {
        let entries = self.new.into_inner();
        let unchanged = entries.len() == self.old.len()
            && entries
                .iter()
                .all(|(k, v)| self.old.get(k).is_some_and(|o| o.digest == v.digest && o.value == v.value));
        if unchanged {
            return Ok(());
        }
        let stored = Stored { version: VERSION, program: program(), entries };
        let bytes = serde_json::to_vec(&stored)
            .map_err(|e| Error::new(Kind::Io, "cannot write the memo").caused_by(e))?;
        files::write_atomic(&self.path, &bytes)
    }
}

/// How close to the look at it a change may be before its timestamp proves nothing.
const RACY: Duration = Duration::from_secs(2);

/// The digest of all metadata of `paths` (and of `salt`), or `None` when it cannot be trusted.
pub fn stat_digest<'a>(
    salt: &str,
    paths: impl Iterator<Item = &'a Path>,
    started: SystemTime,
) -> Option<String> {
    let limit = started.checked_sub(RACY)?.duration_since(UNIX_EPOCH).ok()?;
    let limit = limit.as_nanos() as i128;
    let mut sha = Sha256::new();
    sha.update(salt.as_bytes());
    for path in paths {
        sha.update([0]);
        sha.update(path.as_os_str().as_bytes());
        // Following links: a link's target is what is read.
        let Ok(meta) = std::fs::metadata(path) else {
            sha.update(b"absent");
            continue;
        };
        let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let ctime = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
        if mtime >= limit || ctime >= limit {
            return None;
        }
        sha.update(mtime.to_le_bytes());
        sha.update(ctime.to_le_bytes());
        sha.update(meta.size().to_le_bytes());
        sha.update(meta.ino().to_le_bytes());
        sha.update(meta.dev().to_le_bytes());
        sha.update(meta.mode().to_le_bytes());
    }
    Some(hex(&sha.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_file_is_not_trusted_and_a_changed_one_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "a").unwrap();
        let digest = |at| stat_digest("", [path.as_path()].into_iter(), at);
        assert_eq!(digest(SystemTime::now()), None);
        let later = SystemTime::now() + Duration::from_secs(10);
        let one = digest(later).unwrap();
        assert_eq!(digest(later).unwrap(), one);
        std::fs::write(&path, "b").unwrap();
        assert_ne!(digest(later).unwrap(), one);
    }

    #[test]
    fn a_broken_memo_is_no_memo() {
        let dir = tempfile::tempdir().unwrap();
        let env = Path::new("/e");
        let memo = Memo::open(dir.path(), env);
        memo.put("k", Some("d"), &7);
        let path = memo.path.clone();
        memo.save().unwrap();
        assert_eq!(Memo::open(dir.path(), env).get::<u32>("k", Some("d")), Some(7));
        assert_eq!(Memo::open(dir.path(), env).get::<u32>("k", Some("other")), None);
        std::fs::write(path, "{").unwrap();
        assert_eq!(Memo::open(dir.path(), env).get::<u32>("k", Some("d")), None);
    }
}
