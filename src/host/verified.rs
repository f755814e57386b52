//! Which store paths are what the workstation says that they are. The store's database calls a path valid whose files were
//! deleted by hand, never reached the disk before a power cut, or came from a cache that lied. So each path of a wanted
//! closure is compared with the workstation's hash, once: a record in `verified.json` remembers it.
//!
//! A mark is made only of what is on disk for good. It has a digest of sizes, inodes and times of all of its files, so that a
//! path that was written to, or was deleted and came back, whatever way, is compared again.
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::StorePath;
use crate::host::durable;
use crate::host::layout::Layout;
use crate::store::tree_hash::{metadata_digest, nar_hash};
use crate::store::{PathInfo, Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use crate::sys::files::{self, FileLock};
use crate::sys::parallel;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A record of another version is thrown away: what it says is found out again.
pub const VERIFIED_VERSION: u32 = 1;

/// More threads wait for the disk, fewer for hashing.
const THREADS: usize = 8;

/// What a path must be, by the workstation's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub nar_hash: Sha256,
    pub nar_size: u64,
    pub references: BTreeSet<StorePath>,
}

pub type Wanted = BTreeMap<StorePath, Expected>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    nar_hash: String,
    /// `metadata_digest` of what had that hash.
    files: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Marks {
    version: u32,
    paths: BTreeMap<String, Mark>,
}

/// The record of one host, and the store that it is about.
pub struct Verified {
    file: PathBuf,
    lock: PathBuf,
    nix: PathBuf,
    config: StoreConfig,
}

impl Verified {
    pub fn new(layout: &Layout, config: &StoreConfig) -> Verified {
        let lock = layout.verified().with_extension("lock");
        Verified { file: layout.verified(), lock, nix: layout.nix.clone(), config: config.clone() }
    }

    fn load(&self) -> BTreeMap<String, Mark> {
        let marks = std::fs::read(&self.file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        marks.filter(|marks: &Marks| marks.version == VERIFIED_VERSION).unwrap_or_default().paths
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Mark>)) -> Result<()> {
        let _lock = FileLock::acquire(&self.lock, &format!("pid {}", std::process::id()), |_| {})?;
        let mut paths = self.load();
        change(&mut paths);
        // Collected since: without this the record only ever grows.
        paths.retain(|path, _| std::fs::symlink_metadata(self.config.folder().join(path)).is_ok());
        let text = serde_json::to_vec(&Marks { version: VERIFIED_VERSION, paths })
            .map_err(|e| Error::new(Kind::Io, "cannot write the record of verified paths").caused_by(e))?;
        fault::around(fault::HOST, "copy/verified", || files::write_if_changed(&self.file, &text).map(drop))
    }

    /// The hashes that a workstation gave, of paths whatever has become of them.
    pub fn promised(&self) -> BTreeMap<String, Sha256> {
        let hash = |(path, mark): (String, Mark)| Some((path, Sha256::parse(&mark.nar_hash).ok()?));
        self.load().into_iter().filter_map(hash).collect()
    }

    /// These are to be compared again.
    pub fn forget(&self, paths: &BTreeSet<StorePath>) -> Result<()> {
        self.change(|marks| marks.retain(|path, _| !paths.iter().any(|p| p.to_string() == *path)))
    }

    /// Of `valid`, paths that the store believes to have, those that are not what they must be. The others are durable
    /// afterwards, and marked.
    pub fn wrong(
        &self,
        store: &mut Store,
        wanted: &Wanted,
        valid: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>> {
        if fault::is_taken_out("hash") {
            return Ok(BTreeSet::new());
        }
        let marks = self.load();
        let marked = |path: &StorePath, expected: &Expected| {
            let mark = marks.get(&path.to_string());
            let mark = mark.filter(|mark| mark.nar_hash == expected.nar_hash.to_base32());
            mark.is_some_and(|mark| self.files_of(path).is_some_and(|files| files == mark.files))
        };
        let all: Vec<(&StorePath, &Expected)> =
            valid.iter().filter_map(|path| Some((path, wanted.get(path)?))).collect();
        let open = Mutex::new(BTreeSet::new());
        parallel::each(
            &all,
            threads(),
            || Ok(()),
            |(), (path, expected)| {
                if !marked(path, expected) {
                    open.lock().insert((*path).clone());
                }
                Ok(())
            },
        )?;
        let open = open.into_inner();
        if open.is_empty() {
            return Ok(open);
        }
        self.sync()?;
        self.examine(store, wanted, &open, &open)
    }

    /// What was just brought: makes it durable and marks it. The daemon has hashed what it wrote for a path that it did
    /// not have; of one that it had already (`doubtful`), only its files tell. The wrong ones are the answer.
    pub fn settle(
        &self,
        store: &mut Store,
        wanted: &Wanted,
        brought: &BTreeSet<StorePath>,
        doubtful: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>> {
        self.sync()?;
        if fault::is_taken_out("hash") {
            return Ok(BTreeSet::new());
        }
        self.examine(store, wanted, brought, doubtful)
    }

    /// Whether a path that the store believes to have is something else; no mark is asked.
    pub fn is_wrong(&self, store: &mut Store, path: &StorePath, expected: &Expected) -> Result<bool> {
        let registered = store.info(path)?.is_some_and(|info| expected.is_said_by(&info));
        Ok(!registered || !self.has_hash(path, &expected.nar_hash))
    }

    /// Marks are worth only what is on disk for good.
    fn sync(&self) -> Result<()> {
        durable::sync_store(&self.config, &self.nix, &mut || Ok(()))
    }

    fn files_of(&self, path: &StorePath) -> Option<String> {
        metadata_digest(&self.config.on_disk(path)).ok().map(|digest| digest.to_base32())
    }

    fn has_hash(&self, path: &StorePath, hash: &Sha256) -> bool {
        // What cannot be read is not what it must be either.
        nar_hash(&self.config.on_disk(path)).is_ok_and(|found| found == *hash)
    }

    /// Marks those of `paths` that are right: registered as the workstation says, and, of `to_hash`, with such files.
    fn examine(
        &self,
        store: &mut Store,
        wanted: &Wanted,
        paths: &BTreeSet<StorePath>,
        to_hash: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>> {
        let mut registered = Vec::new();
        for path in paths {
            let info = store.info(path)?;
            if let Some(expected) = wanted.get(path).filter(|e| info.is_some_and(|i| e.is_said_by(&i))) {
                registered.push((path, expected));
            }
        }
        // The largest first, so that no thread is left alone with it at the end.
        registered.sort_by_key(|(_, expected)| std::cmp::Reverse(expected.nar_size));
        let right = Mutex::new(BTreeMap::new());
        parallel::each(
            &registered,
            threads(),
            || Ok(()),
            |(), (path, expected)| {
                // Before its bytes are read: what is written meanwhile shows the next time.
                let files = self.files_of(path);
                let fits = !to_hash.contains(*path) || self.has_hash(path, &expected.nar_hash);
                if let Some(files) = files.filter(|_| fits) {
                    let mark = Mark { nar_hash: expected.nar_hash.to_base32(), files };
                    right.lock().insert((*path).clone(), mark);
                }
                Ok(())
            },
        )?;
        let right = right.into_inner();
        let wrong = paths.iter().filter(|path| !right.contains_key(path)).cloned().collect();
        self.change(|marks| marks.extend(right.into_iter().map(|(path, mark)| (path.to_string(), mark))))?;
        Ok(wrong)
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

impl Expected {
    pub fn of(info: &PathInfo) -> Expected {
        let PathInfo { nar_hash, nar_size, references, .. } = info;
        Expected { nar_hash: *nar_hash, nar_size: *nar_size, references: references.clone() }
    }

    /// Whether the store's database says the same. More references than these only keep more from the collector.
    fn is_said_by(&self, info: &PathInfo) -> bool {
        info.nar_hash == self.nar_hash && info.references.is_superset(&self.references)
    }
}
