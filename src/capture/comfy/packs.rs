//! The packs of `custom_nodes`: what ComfyUI would load, as it is on disk.
use crate::capture::comfy::context::{Context, Notes, repositories};
use crate::capture::comfy::model_paths::ExtraPath;
use crate::capture::comfy::own_python;
use crate::capture::files::collect::{Policy, collect};
use crate::capture::files::paths::case_twins;
use crate::capture::files::rules;
use crate::capture::files::walk::NodeKind;
use crate::capture::model::inventory::{OutsidePath, Pack, PackKind};
use crate::capture::model::report::{Severity, Topic};
use crate::capture::trees::tree::Tree;
use crate::words::show;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A pack found, not yet read.
struct Found {
    name: String,
    label: String,
    kind: PackKind,
    enabled: bool,
    location: PathBuf,
}

/// Packs in the order of their names. `kept`: files of `custom_nodes` that are the main program's.
pub fn scan(context: &Context<'_>, kept: &BTreeSet<Vec<u8>>, extra: &[ExtraPath]) -> (Vec<Pack>, Notes) {
    let mut notes = Notes::default();
    let home = context.root.join("custom_nodes");
    if home.is_symlink()
        && let Ok(to) = std::fs::canonicalize(&home)
    {
        notes.outside.push(outside("custom_nodes", &to));
    }
    let mut found = list(context, &home, "custom_nodes", kept, &mut notes);
    // ComfyUI loads packs from such folders too.
    let same = |folder: &Path| {
        folder == home || folder.canonicalize().is_ok_and(|to| home.canonicalize().is_ok_and(|own| own == to))
    };
    for folder in extra.iter().filter(|path| path.key == "custom_nodes" && !same(&path.location)) {
        let label = show(folder.location.as_os_str().as_bytes());
        found.extend(list(context, &folder.location, &label, &BTreeSet::new(), &mut notes));
    }
    let mut unique: BTreeMap<String, Found> = BTreeMap::new();
    for pack in found {
        if let Some(first) = unique.get(&pack.name) {
            let message = format!("a second pack of this name; {} is captured", first.label);
            notes.note(Severity::Problem, Topic::Outside, &pack.label, message);
            continue;
        }
        unique.insert(pack.name.clone(), pack);
    }
    let found: Vec<Found> = unique.into_values().collect();
    notes
        .findings
        .extend(case_twins(found.iter().map(|pack| (pack.label.as_str(), pack)), |pack| pack.label.clone()));
    let read: Vec<(Option<Pack>, Notes)> = found.par_iter().map(|pack| read(context, pack)).collect();
    let mut packs = Vec::with_capacity(read.len());
    for (pack, part) in read {
        packs.extend(pack);
        notes.merge(part);
    }
    (packs, notes)
}

fn outside(from: &str, to: &Path) -> OutsidePath {
    OutsidePath { from: from.to_string(), to: show(to.as_os_str().as_bytes()), captured: true }
}

fn list(
    context: &Context<'_>,
    folder: &Path,
    label: &str,
    kept: &BTreeSet<Vec<u8>>,
    notes: &mut Notes,
) -> Vec<Found> {
    let listing = std::fs::read_dir(folder).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let mut entries = match listing {
        Ok(entries) => entries,
        Err(e) => {
            let message = format!("the packs cannot be listed: {e}");
            notes.note(Severity::Problem, Topic::Unreadable, label, message);
            return Vec::new();
        }
    };
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut found = Vec::new();
    for entry in entries {
        let raw = entry.file_name();
        let shown = format!("{label}/{}", show(raw.as_bytes()));
        let Some(name) = raw.to_str() else {
            let message = "a pack whose name is not UTF-8 cannot be imported: left out";
            notes.note(Severity::Problem, Topic::Name, shown, message);
            continue;
        };
        if kept.contains(raw.as_bytes()) || context.excluded(label, raw.as_bytes()) {
            continue;
        }
        let place = entry.path();
        let disabled = name.ends_with(".disabled");
        if name == ".disabled" && place.is_dir() {
            found.extend(disabled_in(&place, &shown));
            continue;
        }
        if rules::litter(raw.as_bytes()) && !disabled {
            continue;
        }
        if let Some(pack) = identify(context, name, shown, place, !disabled, notes) {
            found.push(pack);
        }
    }
    found
}

/// ComfyUI-Manager moves packs it disables into `custom_nodes/.disabled`.
fn disabled_in(folder: &Path, label: &str) -> Vec<Found> {
    // Unreadable: nothing of it is captured anyway.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<Found> = entries
        .map(|entry| {
            let name = show(entry.file_name().as_bytes());
            let location = entry.path();
            Found {
                label: format!("{label}/{name}"),
                name: format!(".disabled/{name}"),
                kind: kind_of(&location),
                enabled: false,
                location,
            }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn kind_of(location: &Path) -> PackKind {
    if location.is_file() {
        PackKind::File
    } else if location.join(".git").symlink_metadata().is_ok() {
        PackKind::Git
    } else {
        PackKind::Folder
    }
}

fn identify(
    context: &Context<'_>,
    name: &str,
    label: String,
    place: PathBuf,
    enabled: bool,
    notes: &mut Notes,
) -> Option<Found> {
    let linked = place.is_symlink();
    let location = match std::fs::canonicalize(&place) {
        Ok(location) => location,
        Err(e) => {
            let message = format!("the link cannot be followed ({e}): the pack is left out");
            notes.note(Severity::Problem, Topic::Symlink, label, message);
            return None;
        }
    };
    if linked && context.root.starts_with(&location) {
        let message = "links to a folder it is itself in: left out";
        notes.note(Severity::Problem, Topic::Symlink, label, message);
        return None;
    }
    let kind = if location.is_dir() {
        if linked { PackKind::Link } else { kind_of(&location) }
    } else if location.is_file() {
        let python = name.trim_end_matches(".disabled").ends_with(".py");
        if !python {
            let message = "neither a folder nor a Python file: ComfyUI does not load it; left out";
            notes.note(Severity::Info, Topic::Excluded, label, message);
            return None;
        }
        PackKind::File
    } else {
        let message = "a FIFO, socket or device; left out";
        notes.note(Severity::Warning, Topic::SpecialFile, label, message);
        return None;
    };
    if linked && enabled {
        notes.outside.push(outside(&label, &location));
    }
    Some(Found { name: name.to_string(), label, kind, enabled, location })
}

/// `None`: a single file that stays out, as its notes say.
fn read(context: &Context<'_>, found: &Found) -> (Option<Pack>, Notes) {
    let mut notes = Notes::default();
    let mut pack = Pack {
        name: found.name.clone(),
        kind: found.kind,
        enabled: found.enabled,
        location: found.location.clone(),
        git: None,
        nested: Vec::new(),
        tree: Tree::default(),
        weights: Vec::new(),
        own_paths: Vec::new(),
        pythons: Vec::new(),
        size: 0,
        stat_digest: None,
    };
    if !found.enabled {
        return (Some(pack), notes);
    }
    let leave_out = |path: &[u8], _: &NodeKind| context.excluded(&found.label, path);
    let policy = Policy {
        label: &found.label,
        models: &context.models,
        left_out: &context.options.left_out,
        split_weights: true,
        config_secrets: true,
        leave_out: &leave_out,
    };
    let mut collected = collect(&found.location, &policy);
    notes.take(&mut collected);
    if found.kind == PackKind::File && collected.tree.is_empty() {
        return (None, notes);
    }
    if found.kind != PackKind::File {
        let dir = &found.location;
        (pack.git, pack.nested) =
            repositories(context, &found.label, dir, &collected, &leave_out, &mut notes);
    }
    for weight in &collected.weights {
        let path = format!("{}/{}", found.label, show(weight.path.as_bytes()));
        let message = format!("a model weight of {} bytes: ships as an entry of its own", weight.size);
        notes.note(Severity::Info, Topic::Weights, path, message);
    }
    for own in own_python::find(&collected.tree, &found.location) {
        let path = format!("{}/{}", found.label, show(&own.folder));
        let (severity, message) = own_python::judge(&own, &found.location);
        notes.note(severity, Topic::Runtime, path, message);
        pack.pythons.push(own);
    }
    pack.size = collected.size;
    pack.stat_digest = collected.stat_digest(context.options.started_at);
    pack.tree = collected.tree;
    pack.weights = collected.weights;
    pack.own_paths = collected.own_paths;
    (Some(pack), notes)
}
