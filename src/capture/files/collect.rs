//! From a directory to the tree that will ship: litter, secrets and weights apart, links kept where
//! they stay inside and followed where they leave. A store path has nothing outside to point at, so
//! what a link reaches is captured in its place or named, never lost.
use crate::capture::files::left_out::LeftOut;
use crate::capture::files::lfs;
use crate::capture::files::own_path;
use crate::capture::files::paths::{self, below, file_name, finding, join, show_in, stays_below, target_of};
use crate::capture::files::rules;
use crate::capture::files::walk::{self, NodeKind, WalkEntry};
use crate::capture::model::inventory::{OutsidePath, Weight};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::trees::digest::digest_bytes;
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::formats::hex::hex;
use crate::words::show;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

mod judged;

/// How one room of the environment is collected.
pub struct Policy<'a> {
    /// How the report names the root (`custom_nodes/foo`; empty for the environment itself).
    pub label: &'a str,
    /// The models folders, canonical: links into them are reported and not followed.
    pub models: &'a [PathBuf],
    /// What the configuration leaves out, wherever a link or an install leads.
    pub left_out: &'a LeftOut,
    /// Weights become entries of their own (packs), or are ordinary files (cache, main program).
    pub split_weights: bool,
    /// Look into configuration files for credentials.
    pub config_secrets: bool,
    /// Paths besides litter that stay out.
    pub leave_out: &'a (dyn Fn(&[u8], &NodeKind) -> bool + Sync),
}

/// What was collected.
#[derive(Debug, Default)]
pub struct Collected {
    pub tree: Tree,
    pub weights: Vec<Weight>,
    /// Bytes of the tree and of the weights.
    pub size: u64,
    /// The directory's own entries: links as links, nothing of what they lead to.
    pub own: Vec<WalkEntry>,
    /// What links led to, under the paths it is captured at.
    pub followed: Vec<WalkEntry>,
    /// Directories below the root that hold a `.git`.
    pub repositories: Vec<Vec<u8>>,
    /// Files whose content Git LFS has yet to bring.
    pub pointers: Vec<Vec<u8>>,
    /// Files with marks in place of the environment's own paths.
    pub own_paths: Vec<String>,
    pub outside: Vec<OutsidePath>,
    pub findings: Vec<Finding>,
    /// What was decided of files that are secrets or hold some, which their own times do not tell.
    judged: Vec<String>,
}

impl Collected {
    pub fn stat_digest(&self, started_at: std::time::SystemTime) -> Option<String> {
        let mut own = walk::stat_digest(&self.own, started_at)?;
        if !self.judged.is_empty() {
            own = format!("{own}!{}", hex(&digest_bytes(self.judged.join("\n").as_bytes()).sha256));
        }
        for path in &self.own_paths {
            // What stands there is not what lies on disk.
            if let Some(Entry::File { source: Source::Bytes(text), .. }) =
                self.tree.entries.get(path.as_bytes())
            {
                own.push_str(&format!("+{}", hex(&Sha256::digest(text))));
            }
        }
        if self.followed.is_empty() {
            return Some(own);
        }
        let followed = walk::stat_digest(&self.followed, started_at)?;
        Some(format!("{own}+{followed}"))
    }
}

/// Links that lead to folders full of links multiply; a pack that needs more is an attack.
const FOLLOWED_LINKS: usize = 10_000;
const FOLLOWED_ENTRIES: usize = 2_000_000;

/// Collects `root`, a canonical path of a directory, or of a file (a tree that is one file).
pub fn collect(root: &Path, policy: &Policy<'_>) -> Collected {
    let mut collector = Collector { policy, root, out: Collected::default(), stack: Vec::new(), links: 0 };
    match std::fs::metadata(root) {
        Ok(meta) if meta.is_file() => {
            collector.one_file(root, Vec::new(), &meta);
        }
        _ => collector.directory(root, &[], false),
    }
    collector.links_to_nothing();
    let mut out = collector.out;
    out.findings.extend(lfs::findings(root, policy.label, &out.repositories, &out.pointers));
    out
}

/// Adds one file of `root` by name, which the walk left out; nothing where a link leads there or it is no file.
pub fn add_file(collected: &mut Collected, root: &Path, policy: &Policy<'_>, path: &[u8]) -> bool {
    let real = below(root, path);
    if std::fs::canonicalize(&real).ok().as_ref() != Some(&real) {
        return false;
    }
    let Some(meta) = std::fs::symlink_metadata(&real).ok().filter(std::fs::Metadata::is_file) else {
        return false;
    };
    if policy.left_out.has(&real) {
        return false;
    }
    let out = std::mem::take(collected);
    let mut collector = Collector { policy, root, out, stack: Vec::new(), links: 0 };
    collector.one_file(&real, path.to_vec(), &meta);
    *collected = collector.out;
    collected.tree.entries.contains_key(path)
}

/// A file that is looked at.
struct Looking<'a> {
    real: &'a Path,
    name: &'a [u8],
    entry: &'a WalkEntry,
    /// An earlier run saw nothing in it.
    known: bool,
}

/// What came of it.
struct Judged {
    ships: bool,
    /// It neither is a secret nor looks like one.
    nothing: bool,
}

struct Collector<'a> {
    policy: &'a Policy<'a>,
    root: &'a Path,
    out: Collected,
    /// Where the links being followed are, canonical: a link to a folder above one is a loop.
    stack: Vec<PathBuf>,
    links: usize,
}

impl Collector<'_> {
    fn report(&mut self, severity: Severity, topic: Topic, path: &[u8], message: impl Into<String>) {
        let shown = show_in(self.policy.label, path);
        self.out.findings.push(finding(severity, topic, shown, message));
    }

    /// Links that are kept, and lead to what is not: left out, or captured as something else.
    fn links_to_nothing(&mut self) {
        let tree = &self.out.tree.entries;
        let there = |path: &[u8]| {
            let inner = join(path, b"");
            let below = tree.range(inner.clone()..).next().is_some_and(|(next, _)| next.starts_with(&inner));
            tree.contains_key(path) || below || self.out.weights.iter().any(|w| w.path.as_bytes() == path)
        };
        let behind = |path: &[u8]| {
            let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
            ends.into_iter().any(|end| matches!(tree.get(&path[..end]), Some(Entry::Symlink(_))))
        };
        let lost: Vec<(Vec<u8>, Vec<u8>)> = tree
            .iter()
            .filter_map(|(path, entry)| match entry {
                Entry::Symlink(target) => Some((path, target)),
                _ => None,
            })
            .filter_map(|(path, target)| {
                let to = target_of(path, target);
                let found = to.is_empty() || there(&to) || behind(&to);
                (!found).then(|| (path.clone(), target.clone()))
            })
            .collect();
        for (path, target) in lost {
            let message =
                format!("links to {}, which does not ship with it: the link leads nowhere", show(&target));
            self.report(Severity::Warning, Topic::Symlink, &path, message);
        }
    }

    /// A file of the root, or the root itself where that is a file.
    fn one_file(&mut self, real: &Path, path: Vec<u8>, meta: &std::fs::Metadata) {
        if let Err(e) = paths::may_read(real) {
            let shown = match path.is_empty() {
                true => self.policy.label.to_string(),
                false => show_in(self.policy.label, &path),
            };
            self.out.findings.push(paths::unreadable(&shown, "the file cannot be read; left out", &e));
            return;
        }
        let entry = WalkEntry::new(path.clone(), NodeKind::File, meta);
        self.file(real, path, &entry, false);
        self.out.own.push(entry);
    }

    /// `real`: canonical. `at`: where it is in the tree.
    fn directory(&mut self, real: &Path, at: &[u8], outside: bool) {
        let policy = self.policy;
        let label = if at.is_empty() { policy.label.to_string() } else { show_in(policy.label, at) };
        let (mut repositories, mut models) = (Vec::new(), Vec::new());
        let mut walked = walk::walk(real, &label, &mut |path, kind| {
            let full = join(at, path);
            if file_name(path) == b".git" && !matches!(kind, NodeKind::Symlink(_)) {
                repositories.push(path[..path.len().saturating_sub(b"/.git".len())].to_vec());
            }
            if rules::litter(&full) || (policy.leave_out)(&full, kind) {
                return true;
            }
            if !policy.left_out.is_empty() && policy.left_out.has(&below(real, path)) {
                return true;
            }
            let storage = matches!(kind, NodeKind::Directory { .. })
                && policy
                    .models
                    .iter()
                    .any(|folder| folder.strip_prefix(real).is_ok_and(|inner| bytes(inner) == path));
            if storage {
                models.push(full);
            }
            storage
        });
        // A folder that changes is listed again.
        models.sort();
        models.dedup();
        for path in models {
            let message = "a models folder of extra_model_paths.yaml: not captured, like models";
            self.report(Severity::Info, Topic::Outside, &path, message);
        }
        if !outside {
            repositories.retain(|path| !path.is_empty());
            repositories.sort();
            repositories.dedup();
            self.out.repositories = repositories;
        }
        self.out.findings.append(&mut walked.findings);
        drop_redundant_bytecode(&mut walked.entries);
        for entry in &walked.entries {
            let path = join(at, &entry.path);
            match &entry.kind {
                NodeKind::Directory { empty: true } => {
                    self.out.tree.insert(&path, Entry::Directory);
                }
                NodeKind::Directory { empty: false } => {}
                NodeKind::File => self.file(&below(real, &entry.path), path, entry, outside),
                NodeKind::Symlink(target) => self.link(real, &entry.path, path, target),
            }
        }
        if outside {
            self.out.followed.extend(walked.entries.into_iter().map(|mut entry| {
                entry.path = join(at, &entry.path);
                entry
            }));
        } else {
            self.out.own = walked.entries;
        }
    }

    fn file(&mut self, real: &Path, path: Vec<u8>, entry: &WalkEntry, outside: bool) {
        let policy = self.policy;
        let name = join(policy.label.as_bytes(), &path);
        if let Some(keys) = policy.left_out.redacts(real) {
            return self.redacted(real, &name, path, entry, keys);
        }
        let own = &policy.left_out.own;
        let known = policy.left_out.clean.knows(real, entry, policy.config_secrets);
        let judged = self.may_ship(&Looking { real, name: &name, entry, known }, &path);
        if !judged.ships {
            return;
        }
        let named = if !known && own.concern(&path, entry.size) { own.look(real) } else { None };
        if !known && lfs::is_pointer(real, &path, entry) {
            self.out.pointers.push(path.clone());
        } else if judged.nothing && named.is_none() {
            policy.left_out.clean.add(real, entry, policy.config_secrets);
        }
        // What is in the cache has no copy in a slot.
        let rewrites = own.rewrites(&name) && policy.config_secrets;
        let marked = if rewrites { own.marked(real) } else { None };
        if rewrites && entry.size > own_path::LIMIT {
            self.out.findings.push(own_path::too_large(&show(&name)));
        }
        if let Some((lines, first)) = named {
            let rewritten = marked.is_some();
            self.out.findings.push(own_path::report(&show(&name), &lines, &first, rewritten));
        }
        if let Some(text) = marked
            && let Ok(path) = std::str::from_utf8(&path)
        {
            self.out.size += entry.size;
            self.out.own_paths.push(path.to_string());
            self.out.tree.bytes(path, text.into_bytes(), entry.executable());
            return;
        }
        let split = self.policy.split_weights && rules::is_weight(bytes(real), entry.size);
        // A weight is named in UTF-8 documents; one that cannot be stays in its pack.
        if split && let Ok(name) = std::str::from_utf8(&path) {
            if outside {
                self.storage(real, &path, "a model weight outside the pack");
                return;
            }
            self.out.size += entry.size;
            self.out.weights.push(Weight {
                path: name.to_string(),
                size: entry.size,
                tree: Tree::single_file(Source::Disk(real.to_path_buf()), false),
            });
            return;
        }
        self.out.size += entry.size;
        self.out.tree.disk(path, real, entry.executable());
    }

    /// Shared storage that a link points at: named, not copied.
    fn storage(&mut self, real: &Path, path: &[u8], what: &str) {
        let to = show(bytes(real));
        let message = format!("links to {to}, {what}: not captured; the host must provide it");
        self.report(Severity::Problem, Topic::Outside, path, message);
        self.record(path, to, false);
    }

    fn record(&mut self, path: &[u8], to: String, captured: bool) {
        let from = show_in(self.policy.label, path);
        self.out.outside.push(OutsidePath { from, to, captured });
    }

    /// A link at `real`/`inner`, in the tree at `path`.
    fn link(&mut self, real: &Path, inner: &[u8], path: Vec<u8>, target: &[u8]) {
        let place = below(real, inner);
        let shown = show(target);
        let reached = match std::fs::canonicalize(&place) {
            Ok(reached) => reached,
            Err(e) => {
                let why = match e.kind() {
                    ErrorKind::NotFound => "which does not exist".to_string(),
                    // ELOOP has no stable ErrorKind.
                    _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                        "which leads back to itself".to_string()
                    }
                    _ => format!("which cannot be followed ({e})"),
                };
                let message = format!("links to {shown}, {why}; left out");
                self.report(Severity::Problem, Topic::Symlink, &path, message);
                return;
            }
        };
        let relative = !target.starts_with(b"/");
        if relative && reached.starts_with(real) && stays_below(inner, target) {
            self.out.tree.insert(&path, Entry::Symlink(target.to_vec()));
            return;
        }
        if self.policy.models.iter().any(|folder| reached.starts_with(folder)) {
            let to = show(bytes(&reached));
            let message = format!("links into the models folder ({to}): not captured, like models");
            self.report(Severity::Warning, Topic::Outside, &path, message);
            self.record(&path, to, false);
            return;
        }
        if self.policy.left_out.has(&reached) {
            let message = format!("links to {shown}, which stillframe.toml leaves out: left out");
            self.report(Severity::Info, Topic::Excluded, &path, message);
            return;
        }
        if ["/proc", "/sys", "/dev"].iter().any(|kernel| reached.starts_with(kernel)) {
            let message = format!("links to {shown}, the kernel's: left out");
            self.report(Severity::Problem, Topic::Symlink, &path, message);
            return;
        }
        self.follow(&place, &reached, path);
    }

    fn follow(&mut self, place: &Path, reached: &Path, path: Vec<u8>) {
        // The canonical place of the link itself: its parent resolved, its own name kept.
        let home = place.parent().and_then(|p| std::fs::canonicalize(p).ok()).unwrap_or_default();
        let to = show(bytes(reached));
        let above = |link: &PathBuf| link.starts_with(reached);
        if above(&home) || self.stack.iter().any(above) {
            let message = format!("links to {to}, a folder it is itself in: left out");
            self.report(Severity::Problem, Topic::Symlink, &path, message);
            return;
        }
        self.links += 1;
        if self.links > FOLLOWED_LINKS || self.out.followed.len() > FOLLOWED_ENTRIES {
            let message = format!("links to {to}: too many links to follow; left out");
            self.report(Severity::Problem, Topic::Symlink, &path, message);
            return;
        }
        let meta = match std::fs::metadata(reached) {
            Ok(meta) => meta,
            Err(e) => {
                let message = format!("links to {to}, which cannot be read: {e}");
                self.report(Severity::Problem, Topic::Unreadable, &path, message);
                return;
            }
        };
        if meta.is_dir() {
            if !reached.starts_with(self.root) {
                self.record(&path, to, true);
            }
            self.stack.push(home);
            self.directory(reached, &path, true);
            self.stack.pop();
        } else if meta.is_file() {
            let readable = paths::may_read(reached);
            if let Err(e) = readable {
                let message = format!("links to {to}, which cannot be read: {e}");
                self.report(Severity::Problem, Topic::Unreadable, &path, message);
                return;
            }
            let entry = WalkEntry::new(path.clone(), NodeKind::File, &meta);
            let before = self.out.tree.entries.len();
            let inside = reached.starts_with(self.root);
            self.file(reached, path.clone(), &entry, !inside);
            if !inside && self.out.tree.entries.len() > before {
                self.record(&path, to, true);
            }
            self.out.followed.push(entry);
        } else {
            let message = format!("links to {to}, neither file nor folder; left out");
            self.report(Severity::Warning, Topic::SpecialFile, &path, message);
        }
    }
}

/// Drops `x.pyc` where `x.py` is.
fn drop_redundant_bytecode(entries: &mut Vec<WalkEntry>) {
    let redundant: HashSet<Vec<u8>> = {
        let present: HashSet<&[u8]> = entries.iter().map(|e| e.path.as_slice()).collect();
        let compiled = entries.iter().filter(|e| e.path.ends_with(b".pyc"));
        compiled
            .filter(|e| rules::source_of_bytecode(&e.path).is_some_and(|s| present.contains(&*s)))
            .map(|e| e.path.clone())
            .collect()
    };
    if !redundant.is_empty() {
        entries.retain(|entry| !redundant.contains(&entry.path));
    }
}

fn bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
