//! What a scan found, each tree hashed or known from the last run: the lock's main program, packs and cache.
use crate::capture::model::inventory::{CacheEntry, GitState, Nested, Pack, Scan, Weight};
use crate::capture::model::lock::{CacheLock, GitLock, MainLock, NestedLock, PackLock, WeightLock};
use crate::capture::trees::Trees;
use crate::capture::trees::memo::Memo;
use crate::capture::trees::tree::{Tree, TreeRef};
use crate::formats::nix::store_path::{StoreDir, StorePathName};
use crate::sys::error::Result;
use crate::sys::progress::check_interrupt;
use rayon::prelude::*;

/// What the lock has besides the Python side.
pub struct Entries {
    pub main: MainLock,
    pub packs: Vec<PackLock>,
    pub cache: Vec<CacheLock>,
}

/// Where the trees go, and what is known of them.
pub struct Locking<'a> {
    pub memo: &'a Memo,
    pub trees: &'a Trees,
    pub store: &'a StoreDir,
}

fn git_lock(state: &GitState) -> GitLock {
    GitLock { remote: state.remote.clone(), commit: state.commit.clone(), dirty: state.dirty }
}

impl Locking<'_> {
    pub fn entries(&self, scan: &Scan) -> Result<Entries> {
        let digest = scan.main.stat_digest.as_deref();
        let main = MainLock {
            version: scan.main.version.clone(),
            flags: scan.main.flags.clone(),
            models: scan.main.models.clone(),
            input: scan.main.input,
            own_paths: scan.main.own_paths.clone(),
            tree: self.hashed("main", "comfyui", digest, &scan.main.tree)?,
            git: scan.main.git.as_ref().map(git_lock),
        };
        let packs =
            scan.packs.par_iter().filter(|p| p.enabled).map(|pack| self.pack(pack)).collect::<Result<_>>()?;
        let cache = scan.cache.par_iter().map(|entry| self.cache(entry)).collect::<Result<_>>()?;
        Ok(Entries { main, packs, cache })
    }

    fn pack(&self, pack: &Pack) -> Result<PackLock> {
        let digest = pack.stat_digest.as_deref();
        let (key, name) = (format!("pack:{}", pack.name), format!("pack-{}", pack.name));
        let weight = |weight: &Weight| -> Result<WeightLock> {
            let file = weight.path.rsplit('/').next().unwrap_or("weight");
            let key = format!("weight:{}/{}", pack.name, weight.path);
            Ok(WeightLock { path: weight.path.clone(), tree: self.hashed(&key, file, digest, &weight.tree)? })
        };
        let nested = |nested: &Nested| NestedLock { path: nested.path.clone(), git: git_lock(&nested.git) };
        Ok(PackLock {
            name: pack.name.clone(),
            kind: pack.kind,
            tree: self.hashed(&key, &name, digest, &pack.tree)?,
            git: pack.git.as_ref().map(git_lock),
            weights: pack.weights.iter().map(weight).collect::<Result<_>>()?,
            nested: pack.nested.iter().map(nested).collect(),
            own_paths: pack.own_paths.clone(),
        })
    }

    fn cache(&self, entry: &CacheEntry) -> Result<CacheLock> {
        let name = entry.path.rsplit('/').next().unwrap_or("cache");
        let key = format!("cache:{}", entry.path);
        let tree = self.hashed(&key, name, entry.stat_digest.as_deref(), &entry.tree)?;
        Ok(CacheLock { path: entry.path.clone(), tree })
    }

    /// The tree's reference from the memo when nothing changed, else hashed now.
    fn hashed(&self, key: &str, name: &str, digest: Option<&str>, tree: &Tree) -> Result<TreeRef> {
        check_interrupt()?;
        if let Some(kept) = self.trees.remembered(self.memo, key, digest, self.store) {
            self.memo.put(key, digest, &kept);
            return Ok(kept);
        }
        let name = StorePathName::sanitize(name).to_string();
        let hashed = self.trees.add(&name, tree.clone(), Vec::new(), self.store)?;
        self.memo.put(key, digest, &hashed);
        Ok(hashed)
    }
}
