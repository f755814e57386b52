//! Two registered snapshots side by side: what their locks, their launch files and their trees say.
use crate::capture::model::lock::Lock;
use crate::capture::trees::nar::path_of;
use crate::capture::trees::tree::TreeRef;
use crate::closure::compare;
use crate::closure::diff::{self, Change, Diff};
use crate::closure::registry::{Record, Registry};
use crate::protocol::launch::{self, Launch};
use crate::store::Store;
use crate::sys::error::Result;

/// What changed from one to the other, with the files of each changed tree, and what a host that has the old one lacks.
pub fn between(registry: &Registry, old: &Record, new: &Record, store: &mut Store) -> Result<Diff> {
    let (old_lock, new_lock) = (registry.lock(old)?, registry.lock(new)?);
    let starts = (launch_of(old, store)?, launch_of(new, store)?);
    let probes = (old.probe.as_ref(), new.probe.as_ref());
    let mut diff = diff::diff(&old_lock, &new_lock, Some((&starts.0, &starts.1)), probes);
    add_files(&mut diff, &old_lock, &new_lock, store)?;
    let before = store.closure(&[old.store_path(&old.snapshot, &store.store_dir)?])?;
    let after = store.closure(&[new.store_path(&new.snapshot, &store.store_dir)?])?;
    let fresh: Vec<_> = after.iter().filter(|(p, _)| !before.contains_key(*p)).collect();
    diff.new_paths = fresh.len() as u64;
    diff.new_bytes = fresh.iter().map(|(_, i)| i.nar_size).sum();
    Ok(diff)
}

/// Names the files that differ in each changed tree, from the store.
fn add_files(diff: &mut Diff, old: &Lock, new: &Lock, store: &mut Store) -> Result<()> {
    let dir = store.store_dir.clone();
    let mut fill = |change: &mut Change, trees: (Option<&TreeRef>, Option<&TreeRef>)| -> Result<()> {
        if let (Some(a), Some(b)) = trees
            && a != b
        {
            change.files.extend(compare::changed_files(store, &path_of(a, &dir)?, &path_of(b, &dir)?)?);
            change.files.sort();
        }
        Ok(())
    };
    if let Some(change) = &mut diff.main {
        fill(change, (Some(&old.main.tree), Some(&new.main.tree)))?;
    }
    for change in &mut diff.packs {
        let tree = |l: &'_ Lock| l.packs.iter().find(|p| p.name == change.name).map(|p| p.tree.clone());
        let (a, b) = (tree(old), tree(new));
        fill(change, (a.as_ref(), b.as_ref()))?;
    }
    for change in &mut diff.distributions {
        let tree =
            |l: &'_ Lock| l.distributions.iter().find(|d| d.name == change.name).map(|d| d.tree.clone());
        let (a, b) = (tree(old), tree(new));
        fill(change, (a.as_ref(), b.as_ref()))?;
    }
    for change in &mut diff.sources {
        let tree = |l: &'_ Lock| l.sources.iter().find(|s| s.path == change.name).map(|s| s.tree.clone());
        let (a, b) = (tree(old), tree(new));
        fill(change, (a.as_ref(), b.as_ref()))?;
    }
    if let Some(change) = &mut diff.unowned {
        fill(change, (old.unowned.as_ref(), new.unowned.as_ref()))?;
    }
    Ok(())
}

/// The launch file, through the store: a scratch store's paths are not where their names say.
fn launch_of(record: &Record, store: &mut Store) -> Result<Launch> {
    let path = record.store_path(&record.snapshot, &store.store_dir)?;
    let name = launch::file_of(&record.service);
    let bytes = compare::file(store, &path, &name)?;
    Launch::parse(&bytes, &format!("{}/{name}", record.snapshot))
}
