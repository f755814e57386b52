//! What the memo keeps of each distribution, and when that still holds.
use crate::capture::index::provenance::Candidate;
use crate::capture::model::change::FileChange;
use crate::capture::model::lock::{DistributionLock, Provenance};
use crate::capture::python::context::Context;
use crate::capture::python::editable;
use crate::capture::python::installed::Installed;
use crate::capture::python::pin::Pinned;
use crate::capture::trees::memo::stat_digest;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// Who was asked for a wheel.
#[derive(Serialize, Deserialize)]
enum Asked {
    Nobody,
    /// Their URLs, in order.
    Indexes(String),
}

/// What the memo keeps of a distribution that did not change.
#[derive(Serialize, Deserialize)]
pub struct Kept {
    pub lock: DistributionLock,
    /// Files it accounts for.
    pub claims: Vec<PathBuf>,
    /// Its programs and libraries.
    pub objects: Vec<(String, PathBuf)>,
    /// Where no wheel vouches for it: who was asked for one. Others may have it.
    asked: Option<Asked>,
    /// Where its texts may name a folder that has another place in the store: which folders have.
    relocated: Option<String>,
}

impl Kept {
    /// Of one that was decided just now, and whether that decision lasts.
    pub fn anew(
        context: &Context,
        lock: DistributionLock,
        pinned: Pinned,
        candidate: &Candidate,
        relocations: &str,
    ) -> (Kept, bool) {
        let (mut lasting, mut asked) = (true, None);
        if let Candidate::None(why) = candidate {
            lasting = why.lasting();
            asked = Some(context.index.clone().map_or(Asked::Nobody, Asked::Indexes));
        }
        // A wheel's own text is the wheel's; any other may name a folder that moves.
        let text = pinned.tree.entries.keys().any(|name| editable::is_text(name));
        let moves = lock.provenance != Provenance::Pinned && text;
        let relocated = moves.then(|| relocations.to_string());
        let Pinned { claims, objects, .. } = pinned;
        (Kept { lock, claims, objects, asked, relocated }, lasting)
    }

    fn still_holds(&self, now: &Option<String>) -> bool {
        match (&self.asked, now) {
            (Some(Asked::Indexes(then)), Some(now)) => then == now,
            (Some(Asked::Nobody), Some(_)) => false,
            // A wheel was found; or nobody is asked now, and nothing better can be had.
            _ => true,
        }
    }
}

/// Over every file that a decision rests on: what the installed RECORD lists and what the wheel does,
/// which need not be the same, the metadata that says which wheel to ask for, and which of them may ship as secrets.
pub fn digest_of(context: &Context, one: &Installed, claims: &[PathBuf]) -> Option<String> {
    const READ: [&str; 8] = [
        "METADATA",
        "RECORD",
        "WHEEL",
        "direct_url.json",
        "entry_points.txt",
        "top_level.txt",
        "installed-files.txt",
        "SOURCES.txt",
    ];
    let info = one.scheme.site.join(&one.info);
    let mut files: BTreeSet<PathBuf> = READ.iter().map(|name| info.join(name)).collect();
    files.insert(info);
    let hooks = one.last_build.iter().flat_map(|build| &build.hooks);
    let listed = one.files.values().map(|file| &file.disk).chain(claims).chain(hooks);
    let files: BTreeSet<&Path> = files.iter().chain(listed).map(PathBuf::as_path).collect();
    let allowed = context.left_out.allowed_of(files.iter().copied());
    // Where the last build's files go, its plan says and not their paths.
    let laid = one.last_build.iter().flat_map(|_| &one.files);
    let laid: String = laid.map(|(name, file)| format!("\0{name}={}", file.disk.display())).collect();
    let salt = format!("{}\0{}\0{}{allowed}{laid}", one.name, one.version, one.scheme.interpreter.display());
    stat_digest(&salt, files.into_iter(), context.started)
}

/// What the last run decided, where nothing of it changed.
pub fn all(context: &Context, all: &[Installed], relocations: &str) -> Vec<Option<Kept>> {
    let names: HashSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
    all.par_iter()
        .map(|one| {
            let (digest, kept): (&str, Kept) = context.memo.entry(&key(one))?;
            let now = digest_of(context, one, &kept.claims)?;
            // Who replaced a file may have gone, and left its file behind.
            let replaced = kept.lock.changed.iter().filter_map(FileChange::replaced_by);
            let good = now == digest
                && kept.still_holds(&context.index)
                && kept.relocated.as_deref().is_none_or(|then| then == relocations)
                && context.trees.known(&kept.lock.tree, context.store)
                && replaced.into_iter().all(|by| names.contains(by));
            good.then_some(kept)
        })
        .collect()
}

pub fn key(one: &Installed) -> String {
    format!("distribution:{}", one.name)
}
