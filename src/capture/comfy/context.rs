//! What every part of a scan is given, and what each gathers: options, lines of the report, repositories.
use crate::capture::files::collect::Collected;
use crate::capture::files::left_out::LeftOut;
use crate::capture::files::paths::{below, finding, join, show_in};
use crate::capture::files::rules;
use crate::capture::files::walk::{NodeKind, stat_digest};
use crate::capture::git;
use crate::capture::git::compare::{self, WorkTree};
use crate::capture::model::inventory::{GitRead, GitState, Nested, OutsidePath};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::words::show;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the caller decides about a scan.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// The time before the first byte was read: younger timestamps prove nothing.
    pub started_at: SystemTime,
    /// The cache, when it is not `.cache` in the environment.
    pub cache: Option<PathBuf>,
    /// The Python environment: inside the environment's folder it is no part of the main program.
    pub python: Vec<PathBuf>,
    /// Paths relative to the environment that stay out, with all below them.
    pub exclude: Vec<String>,
    /// The same by where it really lies, and files that the configuration names as secret.
    pub left_out: LeftOut,
}

impl Default for ScanOptions {
    fn default() -> Self {
        ScanOptions {
            started_at: SystemTime::now(),
            cache: None,
            python: Vec::new(),
            exclude: Vec::new(),
            left_out: LeftOut::default(),
        }
    }
}

/// Asks the memo for a repository's state, by key and digest.
pub type Reuse<'a> = dyn Fn(&str, &str) -> Option<GitState> + Sync + 'a;

/// What every part of a scan needs.
pub struct Context<'a> {
    /// Canonical.
    pub root: &'a Path,
    pub options: &'a ScanOptions,
    pub reuse: &'a Reuse<'a>,
    /// The models folders, canonical.
    pub models: Vec<PathBuf>,
}

impl Context<'_> {
    /// Whether the user's configuration leaves `label/path` out.
    pub fn excluded(&self, label: &str, path: &[u8]) -> bool {
        if self.options.exclude.is_empty() {
            return false;
        }
        let full = join(label.as_bytes(), path);
        self.options.exclude.iter().any(|stem| {
            let stem = stem.trim_end_matches('/').as_bytes();
            full.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    }
}

/// Lines of the report, as the parts of a scan gather them.
#[derive(Debug, Default)]
pub struct Notes {
    pub findings: Vec<Finding>,
    pub outside: Vec<OutsidePath>,
    pub git_reads: Vec<GitRead>,
}

impl Notes {
    pub fn note(
        &mut self,
        severity: Severity,
        topic: Topic,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.findings.push(finding(severity, topic, path, message));
    }

    pub fn take(&mut self, collected: &mut Collected) {
        self.findings.append(&mut collected.findings);
        self.outside.append(&mut collected.outside);
    }

    pub fn merge(&mut self, mut other: Notes) {
        self.findings.append(&mut other.findings);
        self.outside.append(&mut other.outside);
        self.git_reads.append(&mut other.git_reads);
    }
}

/// Asked only where there is a repository below another.
fn submodules(dir: &Path, heads: &BTreeMap<Vec<u8>, git::Head>) -> BTreeSet<Vec<u8>> {
    let below_it = |at: &Vec<u8>| -> Vec<Vec<u8>> {
        git::submodules(&below(dir, at)).into_iter().map(|path| join(at, path.as_bytes())).collect()
    };
    heads.keys().filter(|_| heads.len() > 1).flat_map(below_it).collect()
}

/// The repositories of a collected folder: its own state, and those below it.
pub fn repositories(
    context: &Context<'_>,
    label: &str,
    dir: &Path,
    collected: &Collected,
    leave_out: &(dyn Fn(&[u8], &NodeKind) -> bool + Sync),
    notes: &mut Notes,
) -> (Option<GitState>, Vec<Nested>) {
    let heads: BTreeMap<Vec<u8>, git::Head> = std::iter::once(Vec::new())
        .chain(collected.repositories.iter().cloned())
        .filter_map(|at| Some((at.clone(), git::read_head(&below(dir, &at))?)))
        .collect();
    let submodules = submodules(dir, &heads);
    let mut own = None;
    let mut nested = Vec::new();
    for (at, head) in &heads {
        let shown = show_in(label, at);
        notes.findings.extend(head.finding(&shown));
        let inner: BTreeMap<Vec<u8>, Option<String>> = heads
            .iter()
            .filter_map(|(path, head)| Some((compare::relative(path, at)?.to_vec(), head)))
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, head)| (path, head.commit.clone()))
            .collect();
        let ignored = |path: &[u8]| {
            let full = join(at, path);
            rules::within_litter(&full) || leave_out(&full, &NodeKind::File)
        };
        let place = below(dir, at);
        let digest = stat_digest(&collected.own, context.options.started_at)
            .map(|stat| compare::key_digest(&stat, head, &inner));
        let key = format!("git:{shown}");
        let known = digest.as_deref().and_then(|digest| (context.reuse)(&key, digest));
        let mut state = match known {
            Some(state) => state,
            None => {
                let tree = WorkTree::of(&place, &collected.own, at, inner, &ignored);
                compare::state(head, &tree)
            }
        };
        // The answer is remembered; the names, which are read anyway, are always today's.
        state.branch = head.branch.clone();
        state.remote = head.remote.clone();
        if state.dirty.is_none() && head.commit.is_some() {
            let message = "whether it differs from its commit could not be told (no git, or missing \
                           objects); captured as it is on disk";
            notes.note(Severity::Info, Topic::Git, &shown, message);
        } else if let Some(digest) = digest {
            notes.git_reads.push(GitRead { key, digest, state: state.clone() });
        }
        if state.not_checked_out > 0 {
            let message = format!(
                "a sparse checkout: {} files of its commit are not here, and do not ship; `git sparse-checkout disable` brings them",
                state.not_checked_out
            );
            notes.note(Severity::Info, Topic::Git, &shown, message);
        }
        if at.is_empty() {
            own = Some(state);
        } else {
            nested.push(Nested { path: show(at), submodule: submodules.contains(at), git: state });
        }
    }
    (own, nested)
}
