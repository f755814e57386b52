//! `stillframe-agent verify`: reads every file of what serves on this host, and of its agent, and compares it with the
//! hash that the workstation gave; with the store's own where none is remembered.
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::StorePath;
use crate::host::layout::Layout;
use crate::host::state::ServiceState;
use crate::host::verified::Verified;
use crate::protocol::integrity::{INTEGRITY_VERSION, Integrity, Wrong, WrongPath};
use crate::store::tree_hash::nar_hash;
use crate::store::{PathInfo, Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::parallel;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

const THREADS: usize = 8;

/// A path that something on this host runs from.
#[derive(Default)]
struct Needed {
    services: BTreeSet<String>,
    info: Option<PathInfo>,
}

/// `only`: of this service alone, and of the agent.
pub fn verify(layout: &Layout, config: &StoreConfig, only: Option<&str>) -> Result<Integrity> {
    let began = Instant::now();
    let needed = needed(layout, config, only)?;
    let verified = Verified::new(layout, config);
    let promised = verified.promised();
    let mut all: Vec<(&StorePath, &Needed)> = needed.iter().collect();
    // The largest first, so that no thread is left alone with it at the end.
    let size = |needed: &Needed| needed.info.as_ref().map_or(0, |info| info.nar_size);
    all.sort_by_key(|(_, needed)| std::cmp::Reverse(size(needed)));
    let wrong = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let nothing = || Ok(());
    parallel::each(&all, threads, nothing, |(), (path, needed)| {
        let must = promised.get(&path.to_string());
        if let Some(what) = look(config, path, needed.info.as_ref(), must) {
            wrong.lock().insert((*path).clone(), what);
        }
        Ok(())
    })?;
    let wrong = wrong.into_inner();
    // The next deployment compares them again, and brings them.
    verified.forget(&wrong.keys().cloned().collect())?;
    let wrong = wrong.into_iter().map(|(path, what)| WrongPath {
        path: path.to_absolute(&config.store_dir),
        what,
        services: needed.get(&path).iter().flat_map(|n| n.services.clone()).collect(),
    });
    Ok(Integrity {
        version: INTEGRITY_VERSION,
        paths: all.len() as u64,
        bytes: all.iter().map(|(_, needed)| size(needed)).sum(),
        milliseconds: began.elapsed().as_millis() as u64,
        wrong: wrong.collect(),
    })
}

/// What is wrong with one path; `must`: the workstation's word.
fn look(
    config: &StoreConfig,
    path: &StorePath,
    info: Option<&PathInfo>,
    must: Option<&Sha256>,
) -> Option<Wrong> {
    let file = config.on_disk(path);
    let Some(info) = info else { return Some(Wrong::Unregistered) };
    if std::fs::symlink_metadata(&file).is_err() {
        return Some(Wrong::Gone);
    }
    let must = must.unwrap_or(&info.nar_hash);
    let right = info.nar_hash == *must && nar_hash(&file).is_ok_and(|found| found == *must);
    (!right).then_some(Wrong::Differs)
}

/// The closures of what serves and of the agents that run it.
fn needed(layout: &Layout, config: &StoreConfig, only: Option<&str>) -> Result<BTreeMap<StorePath, Needed>> {
    let mut open: Vec<(StorePath, Option<String>)> = Vec::new();
    let root = |path: &str| {
        StorePath::from_absolute(&config.store_dir, path)
            .map_err(|e| Error::new(Kind::Input, format!("{path} is no store path")).caused_by(e))
    };
    for name in layout.known().into_iter().filter(|name| only.is_none_or(|only| only == name)) {
        let state = ServiceState::load(&layout.service(&name).state(), &name)?;
        let Some(generation) = state.serving.and_then(|n| state.generations.get(&n)) else { continue };
        for path in [&generation.wanted.snapshot, &generation.wanted.agent] {
            open.push((root(path)?, Some(name.clone())));
        }
    }
    if let Ok(agent) = std::fs::read_link(layout.agent()) {
        open.push((root(&agent.display().to_string())?, None));
    }
    let mut store = Store::connect(config)?;
    let mut found: BTreeMap<StorePath, Needed> = BTreeMap::new();
    while let Some((path, service)) = open.pop() {
        let seen = found.contains_key(&path);
        let needed = found.entry(path.clone()).or_default();
        if !seen {
            needed.info = store.info(&path)?;
        }
        let new = service.as_ref().is_some_and(|service| needed.services.insert(service.clone()));
        if new || !seen {
            let below = needed.info.iter().flat_map(|info| &info.references);
            open.extend(below.filter(|below| **below != path).map(|below| (below.clone(), service.clone())));
        }
    }
    Ok(found)
}
