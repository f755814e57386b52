//! What changed between two snapshots: packs, distributions, cache, node classes, bytes to ship.
use crate::capture::lock::Lock;
use crate::capture::probe_result::ProbeResult;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Files that differ, when the trees could be compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    pub main: Option<Change>,
    pub runtime: Option<Change>,
    pub packs: Vec<Change>,
    pub distributions: Vec<Change>,
    pub cache: Vec<Change>,
    pub unowned: Option<Change>,
    pub classes_added: Vec<String>,
    pub classes_removed: Vec<String>,
    /// Paths of the new closure that the old one lacks.
    pub new_paths: u64,
    pub new_bytes: u64,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        *self == Diff { new_paths: self.new_paths, new_bytes: self.new_bytes, ..Diff::default() }
    }
}

/// Name -> (what identifies the content, what a person reads).
type Items = BTreeMap<String, (String, String)>;

fn compare(old: &Items, new: &Items) -> Vec<Change> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (a, b) = (old.get(name), new.get(name));
            let what = match (a, b) {
                (Some(a), Some(b)) if a.0 == b.0 => return None,
                (Some(_), Some(_)) => "changed",
                (None, _) => "added",
                (_, None) => "removed",
            };
            Some(Change {
                name: name.clone(),
                what,
                old: a.map(|i| i.1.clone()),
                new: b.map(|i| i.1.clone()),
                files: Vec::new(),
            })
        })
        .collect()
}

fn git_text(git: &Option<crate::capture::lock::GitLock>) -> String {
    match git {
        Some(git) => {
            let commit = git.commit.as_deref().map_or("no commit", |c| c.get(..10).unwrap_or(c));
            format!("{commit}{}", if git.dirty == Some(true) { ", dirty" } else { "" })
        }
        None => "plain files".into(),
    }
}

fn packs(lock: &Lock) -> Items {
    lock.packs
        .iter()
        .map(|p| {
            let mut id = p.tree.nar_hash.to_string();
            for weight in &p.weights {
                id.push_str(&weight.tree.nar_hash.to_string());
            }
            (p.name.clone(), (id, git_text(&p.git)))
        })
        .collect()
}

fn distributions(lock: &Lock) -> Items {
    lock.distributions
        .iter()
        .map(|d| {
            let shown = format!("{} ({})", d.version, d.provenance.name());
            (d.name.clone(), (format!("{}{shown}", d.tree.nar_hash), shown))
        })
        .collect()
}

fn cache(lock: &Lock) -> Items {
    lock.cache
        .iter()
        .map(|c| (c.path.clone(), (c.tree.nar_hash.to_string(), format!("{} bytes", c.tree.nar_size))))
        .collect()
}

fn single(name: &str, id: Option<String>, shown: String) -> Items {
    id.map(|id| (name.to_string(), (id, shown))).into_iter().collect()
}

/// The pure part of a diff: the two locks and what their probes saw.
pub fn diff(old: &Lock, new: &Lock, probes: (Option<&ProbeResult>, Option<&ProbeResult>)) -> Diff {
    let main = |l: &Lock| {
        let shown = format!("{} ({})", l.main.version.as_deref().unwrap_or("unknown"), git_text(&l.main.git));
        single("main program", Some(l.main.tree.nar_hash.to_string()), shown)
    };
    let runtime = |l: &Lock| {
        let id = format!("{:?}{:?}{:?}", l.runtime.store_path, l.runtime.libraries, l.runtime.tree);
        single("Python runtime", Some(id), l.runtime.version.clone())
    };
    let unowned = |l: &Lock| {
        let id = l.unowned.as_ref().map(|t| t.nar_hash.to_string());
        single("files no distribution owns", id, String::from("files"))
    };
    let classes = |p: Option<&ProbeResult>| -> BTreeSet<String> {
        p.map(|p| p.classes.keys().cloned().collect()).unwrap_or_default()
    };
    let (a, b) = match probes {
        (Some(a), Some(b)) => (classes(Some(a)), classes(Some(b))),
        // One side was never probed: nothing can be said.
        _ => Default::default(),
    };
    Diff {
        main: compare(&main(old), &main(new)).pop(),
        runtime: compare(&runtime(old), &runtime(new)).pop(),
        packs: compare(&packs(old), &packs(new)),
        distributions: compare(&distributions(old), &distributions(new)),
        cache: compare(&cache(old), &cache(new)),
        unowned: compare(&unowned(old), &unowned(new)).pop(),
        classes_added: b.difference(&a).cloned().collect(),
        classes_removed: a.difference(&b).cloned().collect(),
        new_paths: 0,
        new_bytes: 0,
    }
}
