//! comfy-pack's `.cpack.zip`: `snapshot.json`, `requirements.txt`, the workflow, and the files that it wants in `input/`. The
//! members may lie in one folder, as an archive made again by hand has them, and have backslashes, as Windows makes them.
use super::model::{
    Dependencies, Description, DescriptionError, Member, Model, folder_of, malformed, slashes,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Seek};

const WHAT: &str = "a comfy-pack package";

/// Of a member that is read whole: these are texts that people wrote.
const MOST: u64 = 16 << 20;

/// Each member, and what it is called without the folder around all of it.
fn inside(names: Vec<String>) -> Result<Vec<(String, String)>, DescriptionError> {
    let known: Vec<(String, String)> = names.into_iter().map(|name| (slashes(&name), name)).collect();
    let is_snapshot = |path: &str| path.split('/').next_back() == Some("snapshot.json");
    let mut folders: Vec<&str> = known
        .iter()
        .filter(|(path, _)| is_snapshot(path) && path.matches('/').count() <= 1)
        .map(|(path, _)| path.strip_suffix("snapshot.json").unwrap_or_default())
        .collect();
    folders.sort();
    let around = match folders[..] {
        ["", ..] => String::new(),
        [one] => one.to_string(),
        [] => return Err(malformed(WHAT, "it has no snapshot.json")),
        [one, other, ..] => {
            return Err(malformed(
                WHAT,
                format!("both {one}snapshot.json and {other}snapshot.json are there"),
            ));
        }
    };
    let within = |(path, name): (String, String)| {
        let path = path.strip_prefix(&around).map_or_else(|| format!("../{path}"), String::from);
        (name, path)
    };
    Ok(known.into_iter().map(within).collect())
}

/// A path that stays in the folder that it is put into.
fn stays(path: &str) -> bool {
    path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', ':']))
}

/// What an operating system leaves in archives, and no program reads.
fn litter(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "__MACOSX" | ".DS_Store" | "Thumbs.db" | "desktop.ini"))
}

pub fn of_comfy_pack(archive: impl Read + Seek) -> Result<Description, DescriptionError> {
    let mut zip = zip::ZipArchive::new(archive).map_err(|e| malformed(WHAT, e))?;
    let members = inside(zip.file_names().map(String::from).collect())?;
    let mut text = |wanted: &str| -> Result<String, DescriptionError> {
        let found = members.iter().find(|(_, path)| path == wanted);
        let (name, _) = found.ok_or_else(|| malformed(WHAT, format!("it has no {wanted}")))?;
        let file = zip.by_name(name).map_err(|e| malformed(WHAT, format!("{wanted}: {e}")))?;
        let mut text = String::new();
        file.take(MOST).read_to_string(&mut text).map_err(|e| malformed(WHAT, format!("{wanted}: {e}")))?;
        Ok(text)
    };
    let snapshot: Snapshot = serde_json::from_str(&text("snapshot.json")?)
        .map_err(|e| malformed(WHAT, format!("snapshot.json: {e}")))?;
    let requirements = text("requirements.txt")?;
    let mut out = Description {
        format: "comfy-pack package",
        python: snapshot.python,
        dependencies: Dependencies::Frozen,
        ..Description::default()
    };
    out.main(None, snapshot.comfyui.as_deref());
    for node in snapshot.custom_nodes {
        match node.disabled {
            true => out.disabled(format!("pack {} of {}", folder_of(&node.url), node.url)),
            false => out.pack(folder_of(&node.url), Some(&node.url), node.commit_hash.as_deref()),
        }
    }
    out.requirements(&requirements);
    for model in snapshot.models {
        let path = slashes(&model.filename);
        if model.disabled {
            out.disabled(format!("model {path}"));
            continue;
        }
        let url = model.source["download_url"].as_str().map(String::from);
        out.models.push(Model { path, sha256: model.sha256, url });
    }
    snapshot.other.iter().for_each(|(name, value)| out.unknown(name, value));
    for (member, path) in members {
        match path.as_str() {
            "snapshot.json" | "requirements.txt" => {}
            folder if folder.ends_with('/') || folder.is_empty() || litter(folder) => {}
            // ComfyUI lists what lies there.
            "workflow.json" | "workflow_api.json" => {
                out.members.push(Member { member, path: format!("user/default/workflows/{path}") })
            }
            input if input.starts_with("input/") && stays(input) => out.members.push(Member { member, path }),
            _ => out.unresolved.push(format!("member {member}: no part of the format that is known here")),
        }
    }
    Ok(out)
}

/// Opens a member of the archive to be read to its end, which must be a file.
pub fn member<R>(
    archive: impl Read + Seek,
    name: &str,
    read: impl FnOnce(&mut dyn Read) -> R,
) -> Result<R, DescriptionError> {
    let mut zip = zip::ZipArchive::new(archive).map_err(|e| malformed(WHAT, e))?;
    let mut file = zip.by_name(name).map_err(|e| malformed(WHAT, format!("{name}: {e}")))?;
    match file.is_file() {
        true => Ok(read(&mut file)),
        false => Err(malformed(WHAT, format!("{name} is not a file"))),
    }
}

#[derive(Deserialize)]
struct Snapshot {
    python: Option<String>,
    comfyui: Option<String>,
    #[serde(default)]
    custom_nodes: Vec<PackNode>,
    #[serde(default)]
    models: Vec<PackModel>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct PackNode {
    url: String,
    commit_hash: Option<String>,
    #[serde(default)]
    disabled: bool,
}

#[derive(Deserialize)]
struct PackModel {
    filename: String,
    sha256: Option<String>,
    #[serde(default)]
    source: Value,
    #[serde(default)]
    disabled: bool,
}
