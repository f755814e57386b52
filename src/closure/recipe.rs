//! What a snapshot is made of and from, read back from the `.drv` files that the store has: whichever version of this
//! program wrote them.
use crate::capture::model::lock::Lock;
use crate::closure::compare;
use crate::closure::nodes::{Node, NodeKind, tree_path};
use crate::closure::registry::Record;
use crate::formats::nix::derivation::Derivation;
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::{Mode, StorePath, text_path};
use crate::store::{PathInfo, Store};
use crate::sys::error::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A path that the derivations need and that none of them makes.
#[derive(Debug)]
pub struct Source {
    pub path: StorePath,
    pub label: String,
    pub info: PathInfo,
    pub kind: SourceKind,
}

#[derive(Debug)]
pub enum SourceKind {
    /// A tree of the lock, and the hash it has there.
    Locked(Sha256),
    /// A text, whose path says what is in it.
    Text(Vec<u8>),
    /// Of a given runtime: known by its store alone.
    Given,
}

/// Both lists have each after what it refers to.
#[derive(Debug)]
pub struct Recipe {
    pub sources: Vec<Source>,
    pub nodes: Vec<Node>,
}

impl Recipe {
    /// Every path that is part of it, derivations apart.
    pub fn paths(&self) -> BTreeSet<StorePath> {
        let outputs = self.nodes.iter().map(|node| node.out.clone());
        self.sources.iter().map(|source| source.path.clone()).chain(outputs).collect()
    }
}

/// Reads the recipe of a snapshot.
pub fn read(record: &Record, lock: &Lock, store: &mut Store) -> Result<Recipe> {
    let root = record.store_path(&record.derivation, &store.store_dir)?;
    let locked = locked(lock, store)?;
    let labels: HashMap<&str, &str> =
        record.outputs.iter().map(|o| (o.path.as_str(), o.label.as_str())).collect();
    let store_dir = store.store_dir.clone();
    let label = |path: &StorePath| {
        let known = labels.get(path.to_absolute(&store_dir).as_str());
        known.map_or_else(|| path.name().to_string(), |label| (*label).to_string())
    };
    let mut recipe = Recipe { sources: Vec::new(), nodes: Vec::new() };
    for (path, info) in inputs_first(store.closure(&[root])?) {
        if path.is_derivation() {
            let node = node(path, info, store, &label)?;
            // What nothing makes is there, or cannot be had.
            if node.kind == NodeKind::Captured {
                let info = store.info(&node.out)?.ok_or_else(|| gone(&node.out, &node.label))?;
                recipe.sources.push(source(node.out.clone(), info, &locked, store, &label)?);
            }
            recipe.nodes.push(node);
        } else {
            recipe.sources.push(source(path, info, &locked, store, &label)?);
        }
    }
    let snapshot = record.store_path(&record.snapshot, &store.store_dir)?;
    let made = recipe.nodes.last().map(|node| &node.out);
    if made != Some(&snapshot) {
        let message =
            format!("the record of {} is damaged: {} does not make {snapshot}", record.id, record.derivation);
        return Err(Error::new(Kind::Input, message).hint("take the snapshot again"));
    }
    // What is served must be whole; the store may have lost whatever else.
    store.closure(&[snapshot])?;
    let paths = recipe.paths();
    if let Some(path) = locked.keys().find(|path| !paths.contains(path)) {
        let message =
            format!("the lock of {} names {path}, which its derivations neither need nor make", record.id);
        return Err(
            Error::new(Kind::Input, message).hint("its stillframe.lock was changed: take the snapshot again")
        );
    }
    Ok(recipe)
}

pub fn gone(path: &StorePath, label: &str) -> Error {
    Error::new(Kind::Store, format!("{path} ({label}) is not in the store")).hint("take the snapshot again")
}

fn locked(lock: &Lock, store: &Store) -> Result<BTreeMap<StorePath, Sha256>> {
    let trees = lock.trees().into_iter();
    trees.map(|tree| Ok((tree_path(tree, &store.store_dir)?, tree.nar_hash))).collect()
}

fn source(
    path: StorePath,
    info: PathInfo,
    locked: &BTreeMap<StorePath, Sha256>,
    store: &mut Store,
    label: &dyn Fn(&StorePath) -> String,
) -> Result<Source> {
    let (label, kind) = match locked.get(&path) {
        Some(hash) => (label(&path), SourceKind::Locked(*hash)),
        None if info.ca.starts_with("text:") => (label(&path), SourceKind::Text(text(&path, &info, store)?)),
        None => ("the given Python runtime".into(), SourceKind::Given),
    };
    Ok(Source { path, label, info, kind })
}

/// A text of the store, which its path says the hash of.
fn text(path: &StorePath, info: &PathInfo, store: &mut Store) -> Result<Vec<u8>> {
    let bytes = compare::file(store, path, "")?;
    match text_path(&store.store_dir, path.name(), &bytes, &info.references) {
        Ok(at) if at == *path => Ok(bytes),
        _ => {
            let absolute = path.to_absolute(&store.store_dir);
            Err(Error::new(
                Kind::Store,
                format!("{absolute} is not what its name says: the file was changed"),
            )
            .hint("remove the snapshot, collect garbage (`nix-store --gc`), and take it again"))
        }
    }
}

/// A derivation as its file says it.
fn node(
    path: StorePath,
    info: PathInfo,
    store: &mut Store,
    label: &dyn Fn(&StorePath) -> String,
) -> Result<Node> {
    let aterm = text(&path, &info, store)?;
    let bad = |why: String| {
        let absolute = path.to_absolute(&store.store_dir);
        Error::new(Kind::Store, format!("{absolute} {why}")).hint("take the snapshot again")
    };
    let drv =
        Derivation::parse(&store.store_dir, &aterm).map_err(|e| bad(format!("is no derivation: {e}")))?;
    let mut outputs = drv.outputs.values();
    let (Some(output), None) = (outputs.next(), outputs.next()) else {
        return Err(bad("has more outputs than one".into()));
    };
    let Some(out) = output.path.clone() else { return Err(bad("does not say where its output is".into())) };
    let kind = match output.hash {
        Some((Mode::Flat, _)) => NodeKind::Wheel,
        Some((Mode::Recursive, _)) if drv.input_drvs.is_empty() => NodeKind::Captured,
        Some((Mode::Recursive, _)) => NodeKind::Distribution,
        None => NodeKind::Built,
    };
    let fixed = output.hash.map(|(_, hash)| hash);
    let references = info.references.into_iter().collect();
    Ok(Node { kind, fixed, label: label(&out), drv: path, aterm, out, references })
}

/// A closure in an order in which each path comes after those it refers to.
fn inputs_first(mut closure: BTreeMap<StorePath, PathInfo>) -> Vec<(StorePath, PathInfo)> {
    let mut ordered = Vec::with_capacity(closure.len());
    while !closure.is_empty() {
        let ready: Vec<StorePath> = closure
            .iter()
            .filter(|(path, info)| info.references.iter().all(|r| r == *path || !closure.contains_key(r)))
            .map(|(path, _)| path.clone())
            .collect();
        // References of store paths have no circles.
        debug_assert!(!ready.is_empty());
        if ready.is_empty() {
            break;
        }
        ordered.extend(ready.into_iter().filter_map(|path| closure.remove_entry(&path)));
    }
    ordered
}
