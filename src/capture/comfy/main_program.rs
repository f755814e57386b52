//! The main program: everything of the environment's folder that is not packs, models, user data,
//! cache, Python environment or the tools' own files.
use crate::capture::comfy::context::{Context, Notes, repositories};
use crate::capture::files::collect::{Policy, add_file, collect};
use crate::capture::files::paths::{below, read_small};
use crate::capture::files::rules;
use crate::capture::files::walk::NodeKind;
use crate::capture::git;
use crate::capture::git::compare;
use crate::capture::model::inventory::MainProgram;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

/// A file of `custom_nodes` that comes with ComfyUI, when no repository can say.
const COMES_WITH_COMFYUI: [&[u8]; 1] = [b"example_node.py.example"];

const TEXT_LIMIT: u64 = 4 * 1024 * 1024;

/// The files directly in `custom_nodes` that belong to the main program: what it tracks and does not
/// load. A `.py` there is a pack, whoever tracks it (ComfyUI's own websocket_image_save.py): packs are
/// loaded from the base directory, which is not the program's own when it is served.
pub fn own_files(context: &Context<'_>) -> BTreeSet<Vec<u8>> {
    let mut names = git::read_head(context.root)
        .and_then(|head| compare::tracked_in(&head, "custom_nodes"))
        .unwrap_or_else(|| COMES_WITH_COMFYUI.iter().map(|name| name.to_vec()).collect());
    names.retain(|name| !name.ends_with(b".py"));
    names
}

/// Folders of data in which ComfyUI's own repository has files, too: configurations of models, an example picture.
const DATA: [&str; 2] = ["models", "input"];

/// A larger file of ComfyUI's repository would be a model.
const DATA_LIMIT: u64 = 4 * 1024 * 1024;

/// What the program's commit has in `models` and `input`, as it is on disk. The rest of these folders is the user's.
/// Its empty files only mark which folder a model belongs in.
fn own_data(context: &Context<'_>) -> BTreeSet<Vec<u8>> {
    let tracked = git::read_head(context.root).and_then(|head| compare::tracked_below(&head, &DATA));
    let mut tracked = tracked.unwrap_or_default();
    tracked.retain(|path| {
        let size = std::fs::symlink_metadata(below(context.root, path)).map_or(0, |meta| meta.len());
        (1..DATA_LIMIT).contains(&size) && !rules::is_weight(path, size) && !context.excluded("", path)
    });
    tracked
}

pub fn scan(context: &Context<'_>, kept: &BTreeSet<Vec<u8>>) -> (MainProgram, Notes) {
    let apart = apart(context);
    let data = own_data(context);
    let leave_out = |path: &[u8], kind: &NodeKind| {
        let mut parts = path.splitn(2, |b| *b == b'/');
        let first = parts.next().unwrap_or(path);
        let rest = parts.next();
        if first == b"custom_nodes" {
            return match rest {
                None => matches!(kind, NodeKind::Symlink(_)),
                Some(inner) => !kept.contains(inner) || context.excluded("", path),
            };
        }
        (apart.contains(first) && !data.contains(path)) || context.excluded("", path)
    };
    let policy = Policy {
        label: "",
        models: &context.models,
        left_out: &context.options.left_out,
        split_weights: false,
        config_secrets: true,
        leave_out: &leave_out,
    };
    let mut collected = collect(context.root, &policy);
    let data: Vec<&Vec<u8>> =
        data.iter().filter(|path| add_file(&mut collected, context.root, &policy, path)).collect();
    let mut notes = Notes::default();
    notes.take(&mut collected);
    let (git, _) = repositories(context, "", context.root, &collected, &leave_out, &mut notes);
    let main = MainProgram {
        version: version(context),
        git,
        size: collected.size,
        stat_digest: collected.stat_digest(context.options.started_at),
        flags: flags(context),
        models: folders_of_models(&data),
        input: data.iter().any(|path| path.starts_with(b"input/")),
        own_paths: collected.own_paths,
        tree: collected.tree,
    };
    (main, notes)
}

/// `configs` of `models/configs/v1-inference.yaml`.
fn folders_of_models(data: &[&Vec<u8>]) -> Vec<String> {
    let folder = |path: &&Vec<u8>| {
        let rest = path.strip_prefix(b"models/")?;
        let (folder, _) = std::str::from_utf8(rest).ok()?.split_once('/')?;
        Some(folder.to_string())
    };
    data.iter().filter_map(folder).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Names at the top of every environment that are no part of the program.
const APART: [&str; 17] = [
    "models",
    "input",
    "output",
    "temp",
    "user",
    ".cache",
    ".git",
    "hosts",
    "flake.nix",
    "flake.lock",
    "snapshots",
    "stillframe.toml",
    "stillframe.lock",
    "pylock.toml",
    "extra_model_paths.yaml",
    ".stillframe",
    "python_embeded",
];

/// Whether what the program makes at this path, relative to its folder, is no part of it, in any environment.
pub fn is_apart(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or(path);
    first == "custom_nodes" || APART.contains(&first)
}

/// Names at the top of the environment that are no part of the program.
fn apart(context: &Context<'_>) -> BTreeSet<Vec<u8>> {
    let mut apart: BTreeSet<Vec<u8>> = APART.iter().map(|name| name.as_bytes().to_vec()).collect();
    for python in &context.options.python {
        if let Ok(inside) = python.strip_prefix(context.root)
            && let Some(first) = inside.components().next()
        {
            apart.insert(first.as_os_str().as_bytes().to_vec());
        }
    }
    // An unreadable root is reported by the walk.
    for entry in std::fs::read_dir(context.root).into_iter().flatten().flatten() {
        let name = entry.file_name().as_bytes().to_vec();
        let place = entry.path();
        let python = ["pyvenv.cfg", "conda-meta"].iter().any(|m| place.join(m).exists());
        let log = name.ends_with(b".log") || name.starts_with(b"comfyui.db");
        if python || log {
            apart.insert(name);
        }
    }
    apart
}

fn text(context: &Context<'_>, path: &str) -> Option<String> {
    let content = read_small(&context.root.join(path), TEXT_LIMIT)?;
    Some(String::from_utf8_lossy(&content).into_owned())
}

fn version(context: &Context<'_>) -> Option<String> {
    let assigned = |text: &str, key: &str| {
        text.lines().find_map(|line| {
            let value = line.trim().strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            value[1..].split(quote).next().filter(|v| !v.is_empty()).map(str::to_string)
        })
    };
    text(context, "comfyui_version.py")
        .and_then(|text| assigned(&text, "__version__"))
        .or_else(|| assigned(&text(context, "pyproject.toml")?, "version"))
}

/// Every `"--option"` of the argument parser's source, read as text: nothing is imported.
fn flags(context: &Context<'_>) -> Vec<String> {
    let Some(text) = text(context, "comfy/cli_args.py") else {
        return Vec::new();
    };
    let mut flags = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        for quote in ['"', '\''] {
            for piece in line.split(quote).skip(1).step_by(2) {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                if piece.len() > 2 && piece.starts_with("--") && piece.chars().all(word) {
                    flags.insert(piece.to_string());
                }
            }
        }
    }
    flags.into_iter().collect()
}
