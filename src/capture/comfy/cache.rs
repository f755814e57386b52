//! The cache: downloads that a workflow needs, each its own entry, so that one more model does not
//! change the others' paths.
use crate::capture::comfy::context::{Context, Notes};
use crate::capture::files::collect::{Policy, collect};
use crate::capture::files::paths::{SECRET_NOTE, case_twins, file_name, join};
use crate::capture::files::rules;
use crate::capture::files::secrets;
use crate::capture::files::walk::NodeKind;
use crate::capture::model::inventory::{CacheEntry, OutsidePath};
use crate::capture::model::report::{Severity, Topic};
use crate::words::show;
use rayon::prelude::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Folders whose children are entries, not they themselves.
const SHELVES: [&[u8]; 5] =
    [b"huggingface", b"huggingface/hub", b"torch", b"torch/hub", b"torch/hub/checkpoints"];

pub fn scan(context: &Context<'_>) -> (Vec<CacheEntry>, Notes) {
    let mut notes = Notes::default();
    let place = context.options.cache.clone().unwrap_or_else(|| context.root.join(".cache"));
    // No cache is no fault; a link to nowhere is.
    let root = match std::fs::canonicalize(&place) {
        Ok(root) => root,
        Err(_) if place.symlink_metadata().is_err() => return (Vec::new(), notes),
        Err(e) => {
            let message = format!("the cache cannot be followed: {e}");
            notes.note(Severity::Problem, Topic::Symlink, ".cache", message);
            return (Vec::new(), notes);
        }
    };
    if !root.starts_with(context.root) {
        let to = show(root.as_os_str().as_bytes());
        notes.outside.push(OutsidePath { from: ".cache".to_string(), to, captured: true });
    }
    let mut paths = Vec::new();
    shelf(context, &root, &[], &mut paths, &mut notes);
    paths.sort();
    let read: Vec<_> = paths.par_iter().map(|path| entry(context, &root, path)).collect();
    let mut entries = Vec::new();
    for (entry, part) in read {
        notes.merge(part);
        entries.extend(entry);
    }
    let paths = entries.iter().map(|entry: &CacheEntry| (entry.path.as_str(), entry.path.as_str()));
    notes.findings.extend(case_twins(paths, |path| label(path.as_bytes())));
    (entries, notes)
}

/// The entries of one shelf, shelves below it included.
fn shelf(context: &Context<'_>, root: &Path, folder: &[u8], paths: &mut Vec<Vec<u8>>, notes: &mut Notes) {
    let place = root.join(OsStr::from_bytes(folder));
    let listing = std::fs::read_dir(&place).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let mut listing = match listing {
        Ok(listing) => listing,
        Err(e) => {
            let message = format!("cannot be listed: {e}");
            notes.note(Severity::Problem, Topic::Unreadable, label(folder), message);
            return;
        }
    };
    listing.sort_by_key(std::fs::DirEntry::file_name);
    for child in listing {
        let path = join(folder, child.file_name().as_bytes());
        if context.excluded(".cache", &path) || rules::litter(&path) {
            continue;
        }
        if let Some(why) = rules::cache_excluded(&path) {
            notes.note(Severity::Info, Topic::Excluded, label(&path), format!("{why}: left out"));
            continue;
        }
        let judged = join(b".cache", &path);
        if let Some(what) = secrets::secret_name(&judged) {
            let message = format!("{what}: {SECRET_NOTE}");
            notes.note(Severity::Warning, Topic::Secret, label(&path), message);
            continue;
        }
        let is_shelf = SHELVES.contains(&path.as_slice()) && child.path().is_dir();
        if is_shelf {
            shelf(context, root, &path, paths, notes);
        } else {
            paths.push(path);
        }
    }
}

fn label(path: &[u8]) -> String {
    if path.is_empty() { ".cache".to_string() } else { format!(".cache/{}", show(path)) }
}

fn entry(context: &Context<'_>, root: &Path, path: &[u8]) -> (Option<CacheEntry>, Notes) {
    let mut notes = Notes::default();
    let shown = label(path);
    let place = root.join(OsStr::from_bytes(path));
    let Ok(name) = std::str::from_utf8(path) else {
        let message = "a cache entry whose name is not UTF-8: left out";
        notes.note(Severity::Problem, Topic::Name, shown, message);
        return (None, notes);
    };
    let reached = match std::fs::canonicalize(&place) {
        Ok(reached) => reached,
        Err(e) => {
            let message = format!("cannot be followed ({e}): left out");
            notes.note(Severity::Problem, Topic::Symlink, shown, message);
            return (None, notes);
        }
    };
    if context.models.iter().any(|folder| reached.starts_with(folder)) {
        let to = show(reached.as_os_str().as_bytes());
        let message = format!("links into the models folder ({to}): not captured, like models");
        notes.note(Severity::Warning, Topic::Outside, &shown, message);
        notes.outside.push(OutsidePath { from: shown, to, captured: false });
        return (None, notes);
    }
    if context.root.starts_with(&reached) {
        let message = "links to a folder it is itself in: left out";
        notes.note(Severity::Problem, Topic::Symlink, shown, message);
        return (None, notes);
    }
    let meta = std::fs::metadata(&reached);
    if !meta.as_ref().is_ok_and(|meta| meta.is_dir() || meta.is_file()) {
        notes.note(Severity::Warning, Topic::SpecialFile, shown, "neither file nor folder; left out");
        return (None, notes);
    }
    if meta.is_ok_and(|meta| meta.is_file())
        && let Err(e) = crate::capture::files::paths::may_read(&reached)
    {
        let message = format!("the file cannot be read; left out: {e}");
        notes.note(Severity::Problem, Topic::Unreadable, shown, message);
        return (None, notes);
    }
    if !reached.starts_with(root) {
        let to = show(reached.as_os_str().as_bytes());
        notes.outside.push(OutsidePath { from: shown.clone(), to, captured: true });
    }
    let leave_out = |inner: &[u8], _: &NodeKind| {
        let name = file_name(inner);
        name == b".locks"
            || name.ends_with(b".lock")
            || name.ends_with(b".incomplete")
            || context.excluded(&shown, inner)
    };
    let policy = Policy {
        label: &shown,
        models: &context.models,
        left_out: &context.options.left_out,
        split_weights: false,
        config_secrets: false,
        leave_out: &leave_out,
    };
    let mut collected = collect(&reached, &policy);
    notes.take(&mut collected);
    let entry = CacheEntry {
        path: name.to_string(),
        size: collected.size,
        stat_digest: collected.stat_digest(context.options.started_at),
        tree: collected.tree,
    };
    // An empty folder is nothing to ship; a secret that was all there was has its own line.
    let wanted = !entry.tree.is_empty();
    (wanted.then_some(entry), notes)
}
