//! What is listed and not captured: models, user data, and the folders that
//! `extra_model_paths.yaml` names.
use crate::capture::comfy::context::{Context, Notes};
use crate::capture::files::paths::{lexical, read_small};
use crate::capture::model::inventory::{ModelFolder, OutsidePath};
use crate::capture::model::report::{Severity, Topic};
use crate::words::show;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const EXTRA: &str = "extra_model_paths.yaml";

/// One folder that `extra_model_paths.yaml` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraPath {
    /// `checkpoints`, `loras`, `custom_nodes`, …
    pub key: String,
    pub location: PathBuf,
}

/// Reads `extra_model_paths.yaml`. It is configuration of the host, so it stays out; what it names
/// is reported.
pub fn extra_paths(root: &Path, notes: &mut Notes) -> Vec<ExtraPath> {
    let place = root.join(EXTRA);
    if place.symlink_metadata().is_err() {
        return Vec::new();
    }
    let Some(content) = read_small(&place, 1 << 20) else {
        let message = "cannot be read: the folders it names are not in this report";
        notes.note(Severity::Problem, Topic::Unreadable, EXTRA, message);
        return Vec::new();
    };
    let paths = parse(&String::from_utf8_lossy(&content), root);
    let message = format!(
        "says where models are on this machine ({} folders): not captured; the service's \
         configuration says it for a host",
        paths.len()
    );
    notes.note(Severity::Info, Topic::Outside, EXTRA, message);
    for path in &paths {
        let to = show(path.location.as_os_str().as_bytes());
        if !path.location.exists() {
            let message = format!("names {to} for {}, which does not exist", path.key);
            notes.note(Severity::Warning, Topic::Outside, EXTRA, message);
        }
        let captured = path.key == "custom_nodes";
        let real = path.location.canonicalize();
        if !real.as_ref().unwrap_or(&path.location).starts_with(root) {
            notes.outside.push(OutsidePath { from: EXTRA.to_string(), to, captured });
        }
    }
    paths
}

/// The subset of YAML that ComfyUI's example shows: sections of `key: path`, `base_path`, and block
/// scalars with a path a line.
fn parse(text: &str, root: &Path) -> Vec<ExtraPath> {
    let mut out = Vec::new();
    let mut section: Vec<(String, String)> = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for raw in text.lines().chain(std::iter::once("end:")) {
        let indent = raw.len() - raw.trim_start().len();
        let line = raw.split(" #").next().unwrap_or(raw).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((depth, key)) = &block {
            if indent > *depth {
                let value = line.trim_start_matches("- ");
                section.push((key.clone(), value.to_string()));
                continue;
            }
            block = None;
        }
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
        if indent == 0 {
            finish(&mut section, root, &mut out);
        } else if value.is_empty() || value.starts_with(['|', '>']) {
            block = Some((indent, key.to_string()));
        } else {
            section.push((key.to_string(), value.to_string()));
        }
    }
    out
}

fn finish(section: &mut Vec<(String, String)>, root: &Path, out: &mut Vec<ExtraPath>) {
    let base = section.iter().find(|(key, _)| key == "base_path").map(|(_, v)| expand(v));
    let base = base.map_or_else(|| root.to_path_buf(), |base| root.join(base));
    for (key, value) in section.drain(..) {
        if key != "base_path" && key != "is_default" {
            // As ComfyUI's `normpath`: equal places compare equal.
            out.push(ExtraPath { key, location: lexical(&base.join(expand(&value))) });
        }
    }
}

/// `~` and `$NAME`, as ComfyUI expands them.
fn expand(path: &str) -> PathBuf {
    let home = || std::env::var("HOME").unwrap_or_default();
    let path = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => home() + rest,
        _ => path.to_string(),
    };
    let parts = path.split('/').map(|part| match part.strip_prefix('$') {
        Some(name) => std::env::var(name.trim_matches(['{', '}'])).unwrap_or(part.to_string()),
        None => part.to_string(),
    });
    PathBuf::from(parts.collect::<Vec<_>>().join("/"))
}

/// Canonical models folders: the environment's and the extra ones.
pub fn model_folders(root: &Path, extra: &[ExtraPath]) -> Vec<PathBuf> {
    let own = root.join("models");
    let inner = std::fs::read_dir(&own).into_iter().flatten().flatten().map(|e| e.path());
    let mut folders: Vec<PathBuf> = std::iter::once(own.clone())
        .chain(inner.filter(|path| path.is_symlink()))
        .chain(extra.iter().filter(|e| e.key != "custom_nodes").map(|e| e.location.clone()))
        .filter_map(|path| std::fs::canonicalize(path).ok())
        // One that holds the environment itself would make everything a model.
        .filter(|path| !root.starts_with(path) && path.is_dir())
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

/// The size of every models folder.
pub fn models(context: &Context<'_>, extra: &[ExtraPath]) -> Vec<ModelFolder> {
    let own = context.root.join("models");
    let mut names: Vec<_> =
        std::fs::read_dir(&own).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    let mut out = Vec::new();
    let mut loose = ModelFolder { path: "models".to_string(), files: 0, bytes: 0 };
    for name in names {
        let place = own.join(&name);
        if place.is_dir() {
            out.push(measure(format!("models/{}", show(name.as_bytes())), &place));
        } else if let Ok(meta) = std::fs::metadata(&place) {
            loose.files += 1;
            loose.bytes += meta.len();
        }
    }
    if loose.files > 0 {
        out.insert(0, loose);
    }
    let mut seen = HashSet::new();
    for path in extra.iter().filter(|path| path.key != "custom_nodes") {
        if path.location.is_dir() && seen.insert(path.location.clone()) {
            out.push(measure(show(path.location.as_os_str().as_bytes()), &path.location));
        }
    }
    out
}

/// Where those of the environment's own folders lead that are links: none is captured.
pub fn links(root: &Path, extra: &[ExtraPath], notes: &mut Notes) {
    let models = root.join("models");
    let inner = std::fs::read_dir(&models).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<PathBuf> =
        ["models", "user", "input", "output"].iter().map(|name| root.join(name)).collect();
    all.extend(inner);
    all.extend(extra.iter().filter(|path| path.key != "custom_nodes").map(|path| path.location.clone()));
    all.sort();
    all.dedup();
    for path in &all {
        let from = show(path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes());
        if path.is_dir()
            && let Err(e) = std::fs::read_dir(path)
        {
            notes.note(
                Severity::Warning,
                Topic::Unreadable,
                &from,
                format!("cannot be listed: its size is not known: {e}"),
            );
        }
        let Ok(target) = std::fs::read_link(path) else { continue };
        match std::fs::canonicalize(path) {
            Ok(to) if to.starts_with(root) => {}
            Ok(to) => {
                let to = show(to.as_os_str().as_bytes());
                notes.outside.push(OutsidePath { from, to, captured: false });
            }
            Err(e) => {
                let to = show(target.as_os_str().as_bytes());
                let message =
                    format!("links to {to}, which cannot be followed now: its size is not known: {e}");
                notes.note(Severity::Warning, Topic::Outside, from, message);
            }
        }
    }
}

/// User data: kept on the host in slots, listed here so that nobody expects it in a snapshot.
pub fn user(context: &Context<'_>) -> Vec<ModelFolder> {
    ["user", "input", "output"]
        .iter()
        .map(|name| (name, context.root.join(name)))
        .filter(|(_, place)| place.is_dir())
        .map(|(name, place)| measure((*name).to_string(), &place))
        .collect()
}

/// Files and bytes below a folder, links to folders followed once each.
fn measure(path: String, place: &Path) -> ModelFolder {
    let mut out = ModelFolder { path, files: 0, bytes: 0 };
    let mut seen = HashSet::new();
    let mut pending = vec![place.to_path_buf()];
    while let Some(folder) = pending.pop() {
        let Ok(meta) = std::fs::metadata(&folder) else {
            continue;
        };
        if !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = std::fs::metadata(entry.path()) else {
                continue;
            };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.is_file() {
                out.files += 1;
                out.bytes += meta.len();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_example_of_comfyui() {
        let text = "\
# comment
comfyui:
    base_path: /data/comfy/
    is_default: true
    checkpoints: models/checkpoints/
    clip: |
        models/clip
        models/text_encoders # newer
    custom_nodes: /srv/packs
a111:
  base_path: rel
  loras: l
plain:
  vae: /x/vae/../vae/.
  custom_nodes: ../root/custom_nodes
";
        let paths = parse(text, Path::new("/root"));
        let shown: Vec<String> =
            paths.iter().map(|p| format!("{}={}", p.key, p.location.display())).collect();
        assert_eq!(
            shown,
            [
                "checkpoints=/data/comfy/models/checkpoints",
                "clip=/data/comfy/models/clip",
                "clip=/data/comfy/models/text_encoders",
                "custom_nodes=/srv/packs",
                "loras=/root/rel/l",
                "vae=/x/vae",
                "custom_nodes=/root/custom_nodes",
            ]
        );
    }
}
