//! The trees of a capture: hashed once, or, where the store cannot have them yet, sent at once and hashed by
//! the daemon alone, which spares a pass over every byte of a first snapshot.
pub mod digest;
pub mod materialise;
pub mod memo;
pub mod nar;
pub mod promise;
pub mod tree;

use crate::capture::trees::memo::Memo;
use crate::capture::trees::nar::{hash_promised, path_of, write_promised};
use crate::capture::trees::promise::Promises;
use crate::capture::trees::tree::{Tree, TreeRef};
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Trees by store path, kept until they are sent; and the paths the store has already, whose trees are
/// not needed.
#[derive(Default)]
pub struct Trees {
    map: Mutex<HashMap<StorePath, Tree>>,
    valid: HashSet<StorePath>,
    /// Without a store (`lock`, `inspect`) nothing has to be kept.
    keep: bool,
    sender: Option<Sender>,
}

/// Connections for sending while the capture still reads. They stay open, and with them the temporary
/// roots of what was sent, as long as the trees live.
struct Sender {
    config: StoreConfig,
    /// Names of what the store had at the start: a tree of such a name may be there, and is hashed first.
    names: HashSet<String>,
    idle: Mutex<Vec<Store>>,
    sent: Mutex<HashMap<StorePath, u64>>,
}

impl Trees {
    /// `valid`: what the store has of the trees of the last run, asked once before the capture. Where that is
    /// nothing, trees are sent while they are read, but for those that another run (with a cache since
    /// deleted, of another environment, of another user) may have brought.
    pub fn new(valid: HashSet<StorePath>, store: &mut Store) -> Result<Self> {
        let sender = match valid.is_empty() {
            false => None,
            true => {
                let names = store.all()?.iter().map(|path| path.name().to_string()).collect();
                let config = store.config.clone();
                Some(Sender { config, names, idle: Mutex::default(), sent: Mutex::default() })
            }
        };
        Ok(Trees { map: Mutex::default(), valid, keep: true, sender })
    }

    /// For whoever wants the trees themselves: all are hashed and kept.
    pub fn kept() -> Self {
        Trees { keep: true, ..Trees::default() }
    }

    pub fn without_store() -> Self {
        Trees::default()
    }

    /// Whether trees go to the store while they are read.
    pub fn sends(&self) -> bool {
        self.sender.is_some()
    }

    /// How many paths and bytes went to the store so.
    pub fn sent(&self) -> (u64, u64) {
        let Some(sender) = &self.sender else { return (0, 0) };
        let sent = sender.sent.lock();
        (sent.len() as u64, sent.values().sum())
    }

    /// A tree of the last run, if its files are the same and the store still has it.
    pub fn remembered(
        &self,
        memo: &Memo,
        key: &str,
        digest: Option<&str>,
        store: &StoreDir,
    ) -> Option<TreeRef> {
        memo.get(key, digest).filter(|tree| self.known(tree, store))
    }

    /// Whether a tree from the memo may be used without looking at its files: the store has it, or
    /// nobody will ask for its content.
    pub fn known(&self, tree: &TreeRef, store: &StoreDir) -> bool {
        !self.keep || path_of(tree, store).is_ok_and(|path| self.valid.contains(&path))
    }

    /// Hashes a tree and keeps it for the store, or sends it there.
    pub fn add(&self, name: &str, tree: Tree, references: Vec<String>, store: &StoreDir) -> Result<TreeRef> {
        self.add_promised(name, tree, &mut Promises::default(), references, store)
    }

    /// The same, for files that are only said to be what they are.
    pub fn add_promised(
        &self,
        name: &str,
        tree: Tree,
        promises: &mut Promises,
        mut references: Vec<String>,
        store: &StoreDir,
    ) -> Result<TreeRef> {
        references.sort();
        references.dedup();
        if let Some(sender) = &self.sender
            && !sender.names.contains(name)
        {
            let mut connection = sender.connection()?;
            let paths = paths(&references)?;
            // What it refers to may be hashed first, for its name, and sent later: then so is this.
            if paths.is_empty() || connection.valid(&paths)? == paths {
                return sender.send(connection, name, &tree, promises, paths, store);
            }
            sender.put_back(connection);
        }
        let (nar_hash, nar_size) = hash_promised(&tree, promises)?;
        let reference = TreeRef { name: name.into(), nar_hash, nar_size, references };
        if self.keep {
            let path = path_of(&reference, store)?;
            self.map.lock().insert(path, tree);
        }
        Ok(reference)
    }

    pub fn take(&self, path: &StorePath) -> Option<Tree> {
        self.map.lock().remove(path)
    }
}

fn paths(references: &[String]) -> Result<BTreeSet<StorePath>> {
    let parsed = references.iter().map(|text| StorePath::from_base_name(text));
    parsed
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::new(Kind::Store, "a bad reference").caused_by(e))
}

impl Sender {
    fn connection(&self) -> Result<Store> {
        let kept = self.idle.lock().pop();
        kept.map_or_else(|| Store::connect(&self.config), Ok)
    }

    fn put_back(&self, store: Store) {
        self.idle.lock().push(store);
    }

    fn send(
        &self,
        mut store: Store,
        name: &str,
        tree: &Tree,
        promises: &mut Promises,
        paths: BTreeSet<StorePath>,
        dir: &StoreDir,
    ) -> Result<TreeRef> {
        let (path, info) = store
            .add_unhashed(name, &paths, |out| write_promised(tree, promises, out))
            .map_err(|e| match e.kind {
                // What went wrong here names its own path.
                Kind::Store => e.within(name),
                _ => e,
            })?;
        let references = paths.iter().map(ToString::to_string).collect();
        let reference =
            TreeRef { name: name.into(), nar_hash: info.nar_hash, nar_size: info.nar_size, references };
        let computed = path_of(&reference, dir)?;
        if computed != path {
            return Err(Error::new(
                Kind::Store,
                format!("{name}: Nix put it at {path}, stillframe computed {computed}"),
            ));
        }
        self.put_back(store);
        self.sent.lock().insert(path, info.nar_size);
        Ok(reference)
    }
}
