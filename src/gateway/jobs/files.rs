//! The files of assets, in a folder beside the jobs' database, each named by the BLAKE3 hash of its bytes. One is
//! written beside the others, synced, and only then has its name: what has a name is whole.
use crate::formats::comfy::api::v2::asset;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use hyper::body::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces that wait to be written.
const AHEAD: usize = 4;
/// Sizes of outputs that are remembered.
const SIZES: usize = 100_000;

pub struct Files {
    folder: PathBuf,
    /// Held while a file gets a record, and while files without one are taken away: neither falls between the other.
    pub turn: tokio::sync::Mutex<()>,
    /// Of outputs, by their ids: their files do not change.
    sizes: Mutex<HashMap<String, u64>>,
}

/// A file on its way in.
pub struct Receiving {
    to: mpsc::Sender<Bytes>,
    writing: JoinHandle<Result<Received>>,
}

pub struct Received {
    file: NamedTempFile,
    pub hash: String,
    pub size: u64,
}

impl Files {
    pub fn beside(database: &Path) -> Files {
        let folder = database.with_file_name("assets");
        Files { folder, turn: tokio::sync::Mutex::default(), sizes: Mutex::default() }
    }

    fn incoming(&self) -> PathBuf {
        self.folder.join("incoming")
    }

    pub fn path(&self, hash: &str) -> PathBuf {
        self.folder.join(hash)
    }

    /// What an earlier process had not received whole.
    pub fn clear_incoming(&self) -> Result<()> {
        files::remove_tree(&self.incoming())
    }

    /// Hashed and written by a thread of its own.
    pub fn receive(&self) -> Receiving {
        let incoming = self.incoming();
        let (to, mut from) = mpsc::channel::<Bytes>(AHEAD);
        let writing = tokio::task::spawn_blocking(move || {
            // Its owner's alone, as the database is.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&incoming);
            made.map_err(|e| Error::io("create directory", &incoming, e))?;
            let mut file = NamedTempFile::new_in(&incoming)
                .map_err(|e| Error::io("create a temporary file in", &incoming, e))?;
            let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
            while let Some(bytes) = from.blocking_recv() {
                hasher.update(&bytes);
                size += bytes.len() as u64;
                file.as_file_mut().write_all(&bytes).map_err(|e| Error::io("write", file.path(), e))?;
            }
            file.as_file().sync_all().map_err(|e| Error::io("sync", file.path(), e))?;
            Ok(Received { file, hash: asset::digits(hasher.finalize().as_bytes()), size })
        });
        Receiving { to, writing }
    }

    /// Gives it its name. Whether its bytes are new here. `turn` is held.
    pub async fn keep(&self, received: Received) -> Result<bool> {
        let (path, folder) = (self.path(&received.hash), self.folder.clone());
        let keep = move || {
            if fs::metadata(&path).is_ok_and(|there| there.len() == received.size) {
                return Ok(false);
            }
            received.file.persist(&path).map_err(|e| Error::io("create", &path, e.error))?;
            files::sync_dir(&folder).map(|()| true)
        };
        blocking(keep).await
    }

    pub async fn has(&self, hash: &str, size: u64) -> bool {
        tokio::fs::metadata(self.path(hash)).await.is_ok_and(|there| there.len() == size)
    }

    /// The hashes of all files.
    pub async fn all(&self) -> Result<Vec<String>> {
        let folder = self.folder.clone();
        let list = move || {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(Error::io("read directory", &folder, e)),
            };
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            Ok(names.filter(|name| asset::hash(&asset::hash_text(name)).as_deref() == Some(name)).collect())
        };
        blocking(list).await
    }

    /// Takes files away that nobody has. `turn` is held.
    pub async fn remove(&self, hashes: Vec<String>) -> Result<()> {
        let paths: Vec<PathBuf> = hashes.iter().map(|hash| self.path(hash)).collect();
        blocking(move || paths.iter().try_for_each(|path| files::remove(path))).await
    }

    pub fn size(&self, output: &str) -> Option<u64> {
        self.sizes.lock().get(output).copied()
    }

    pub fn set_size(&self, output: String, size: u64) {
        let mut sizes = self.sizes.lock();
        if sizes.len() >= SIZES {
            sizes.clear();
        }
        sizes.insert(output, size);
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|e| Err(Error::new(Kind::Io, "the work with a file was cut off").caused_by(e)))
}

impl Receiving {
    /// False: it cannot be written; `done` says why.
    pub async fn take(&self, bytes: Bytes) -> bool {
        self.to.send(bytes).await.is_ok()
    }

    pub async fn done(self) -> Result<Received> {
        drop(self.to);
        let done = self.writing.await;
        done.unwrap_or_else(|e| Err(Error::new(Kind::Io, "the writing of a file was cut off").caused_by(e)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(files: &Files, parts: &[&[u8]]) -> (Received, bool) {
        let receiving = files.receive();
        for part in parts {
            assert!(receiving.take(Bytes::copy_from_slice(part)).await);
        }
        let received = receiving.done().await.unwrap();
        let hash = received.hash.clone();
        let (size, file) = (received.size, NamedTempFile::new().unwrap());
        let new = files.keep(received).await.unwrap();
        (Received { file, hash, size }, new)
    }

    #[tokio::test]
    async fn a_file_is_kept_once_by_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::beside(&folder.path().join("jobs.db"));
        assert!(files.all().await.unwrap().is_empty());
        let (one, new) = put(&files, &[b"ab", b"c"]).await;
        // Of the BLAKE3 paper's own program.
        assert_eq!(one.hash, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!((one.size, new), (3, true));
        let (other, new) = put(&files, &[b"abc"]).await;
        assert_eq!((&other.hash, new), (&one.hash, false));
        assert_eq!(files.all().await.unwrap(), std::slice::from_ref(&one.hash));
        assert!(files.has(&one.hash, 3).await && !files.has(&one.hash, 4).await);
        assert_eq!(std::fs::read(files.path(&one.hash)).unwrap(), b"abc");
        assert_eq!(std::fs::read_dir(files.incoming()).unwrap().count(), 0, "a temporary file is left");
        files.remove(vec![one.hash.clone()]).await.unwrap();
        assert!(files.all().await.unwrap().is_empty());
    }
}
