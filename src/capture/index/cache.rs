//! Index answers and wheel listings on disk. Only a cache: whatever cannot be read is as if absent and
//! written anew, and a failure to write costs the next run a request, no more.
use super::url::IndexUrl;
use super::wheel::{WheelListing, assemble, cache_key};
use crate::formats::hex::hex;
use crate::formats::python::simple_index::IndexFile;
use crate::formats::python::zip_directory::ZipEntry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// In the directory's name, so that another format never reads these files.
const DIRECTORY: &str = "python-index-v1";
const MAX_FILE: u64 = 512 << 20;

#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What an index said about a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedFiles {
    pub index: String,
    pub name: String,
    pub etag: Option<String>,
    pub files: Vec<IndexFile>,
}

/// Name, CRC, size, executable: what the central directory adds to RECORD.
type Member = (String, u32, u64, bool);

#[derive(Serialize, Deserialize)]
struct CachedListing {
    dist_info: String,
    record: String,
    wheel: String,
    members: Vec<Member>,
}

impl Cache {
    pub fn new(root: &Path) -> Self {
        Cache { root: root.join(DIRECTORY) }
    }

    fn files_path(&self, index: &IndexUrl, name: &str) -> PathBuf {
        let key = hex(&Sha256::digest(format!("{index}\n{name}")));
        self.root.join("files").join(key)
    }

    pub fn files(&self, index: &IndexUrl, name: &str) -> Option<CachedFiles> {
        let cached: CachedFiles = load(&self.files_path(index, name))?;
        (cached.name == name && cached.index == index.url().as_str()).then_some(cached)
    }

    pub fn store_files(&self, index: &IndexUrl, name: &str, etag: Option<&str>, files: &[IndexFile]) {
        let value = CachedFiles {
            index: index.to_string(),
            name: name.to_owned(),
            etag: etag.map(str::to_owned),
            files: files.to_vec(),
        };
        store(&self.files_path(index, name), &value);
    }

    fn listing_path(&self, file: &IndexFile) -> Option<PathBuf> {
        Some(self.root.join("wheels").join(cache_key(file)?))
    }

    pub fn has_listing(&self, file: &IndexFile) -> bool {
        self.listing_path(file).is_some_and(|path| path.is_file())
    }

    /// A wheel's listing never changes: its key is the hash of the whole wheel.
    pub fn listing(&self, file: &IndexFile) -> Option<WheelListing> {
        let cached: CachedListing = load(&self.listing_path(file)?)?;
        let entries: Vec<ZipEntry> = cached.members.into_iter().map(zip_entry).collect();
        let (record, wheel) = (cached.record.into_bytes(), cached.wheel.into_bytes());
        assemble(file.clone(), cached.dist_info, &entries, record, wheel).ok()
    }

    pub fn store_listing(&self, listing: &WheelListing) {
        let Some(path) = self.listing_path(&listing.file) else {
            return;
        };
        let (Ok(record), Ok(wheel)) =
            (String::from_utf8(listing.record_bytes.clone()), String::from_utf8(listing.wheel_bytes.clone()))
        else {
            return;
        };
        let members = listing.entries.iter().map(|(name, e)| {
            let member: Member = (name.clone(), e.crc32, e.size, e.executable);
            member
        });
        let members = members.collect();
        store(&path, &CachedListing { dist_info: listing.dist_info.clone(), record, wheel, members });
    }
}

fn zip_entry((name, crc32, size, executable): Member) -> ZipEntry {
    let mode = if executable { 0o100_755 } else { 0o100_644 };
    ZipEntry { name, crc32, size, compressed_size: 0, method: 0, mode, offset: 0 }
}

/// A file is the hex sha256 of the rest, a newline, JSON: damage of any kind is noticed.
fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    let (head, body) = (bytes.get(..64)?, bytes.get(65..)?);
    if head != hex(&Sha256::digest(body)).as_bytes() {
        tracing::debug!(path = %path.display(), "damaged cache file ignored");
        return None;
    }
    serde_json::from_slice(body).ok()
}

fn store<T: Serialize>(path: &Path, value: &T) {
    if let Err(e) = try_store(path, value) {
        tracing::debug!(path = %path.display(), error = %e, "cache file not written");
    }
}

/// Temporary file, fsync, rename: a reader sees the old file or the new one, also after a crash.
fn try_store<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let parent = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(parent)?;
    let body = serde_json::to_vec(value)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(hex(&Sha256::digest(&body)).as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(&body)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_as_absence() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let index = IndexUrl::parse("https://u:secret@i.example/simple").unwrap();
        assert_eq!(cache.files(&index, "a"), None);
        cache.store_files(&index, "a", Some("\"tag\""), &[]);
        assert_eq!(cache.files(&index, "a").unwrap().etag.as_deref(), Some("\"tag\""));
        assert_eq!(cache.files(&index, "b"), None);
        let path = cache.files_path(&index, "a");
        let mut bytes = std::fs::read(&path).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(cache.files(&index, "a"), None);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(cache.files(&index, "a"), None);
        cache.store_files(&index, "a", None, &[]);
        assert!(cache.files(&index, "a").is_some());
    }
}
