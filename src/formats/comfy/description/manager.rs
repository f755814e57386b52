//! ComfyUI-Manager's snapshot, as JSON and as the YAML of `cm-cli save-snapshot --output x.yaml`, which is the `custom_nodes` of
//! comfy-cli's `comfy-lock.yaml`.
use super::model::{Dependencies, Description, DescriptionError, Model, folder_of, malformed, slashes};
use crate::formats::comfy::manager_snapshot::ManagerSnapshot;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub fn of_manager_snapshot(bytes: &[u8]) -> Result<Description, DescriptionError> {
    let read = ManagerSnapshot::parse(bytes).map_err(|e| DescriptionError::Malformed(e.to_string()))?;
    let mut out = described(&read);
    around(serde_json::from_slice(bytes).map_err(|e| malformed("a comfy-lock.json", e))?, &mut out);
    Ok(out)
}

pub fn of_manager_yaml(text: &str) -> Result<Description, DescriptionError> {
    let read = ManagerSnapshot::parse_yaml(text).map_err(|e| DescriptionError::Malformed(e.to_string()))?;
    let mut out = described(&read);
    around(serde_saphyr::from_str(text).map_err(|e| malformed("a comfy-lock.yaml", e))?, &mut out);
    Ok(out)
}

/// What a comfy-lock has beside its `custom_nodes`. Without these, all of the file is the snapshot.
fn around(lock: Lock, out: &mut Description) {
    if lock.custom_nodes.is_some() {
        lock.models.unwrap_or_default().into_iter().for_each(|model| model.described(out));
        lock.other.iter().for_each(|(name, value)| out.unknown(name, value));
    }
}

fn described(read: &ManagerSnapshot) -> Description {
    let mut out = Description {
        format: "ComfyUI-Manager snapshot",
        dependencies: if read.pips.is_empty() { Dependencies::Besides } else { Dependencies::Frozen },
        ..Description::default()
    };
    out.main(None, read.comfyui.as_deref());
    for (url, node) in &read.git_custom_nodes {
        match node.disabled {
            true => out.disabled(format!("pack {} of {url}", folder_of(url))),
            false => out.pack(folder_of(url), Some(url), node.hash.as_deref()),
        }
    }
    for (id, version) in &read.cnr_custom_nodes {
        out.registry_pack(id, version, "repository");
    }
    for file in &read.file_custom_nodes {
        match file.disabled {
            true => out.disabled(format!("pack {}", file.filename)),
            false => out.file(&file.filename),
        }
    }
    read.pip_lines().for_each(|line| out.requirements(&line));
    read.other.iter().for_each(|(name, value)| out.unknown(name, value));
    out
}

#[derive(Deserialize)]
struct Lock {
    custom_nodes: Option<Value>,
    models: Option<Vec<LockModel>>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct LockModel {
    model: Option<String>,
    url: Option<String>,
    #[serde(default)]
    paths: Vec<LockPath>,
    #[serde(default)]
    hashes: Vec<LockHash>,
}

#[derive(Deserialize)]
struct LockPath {
    path: String,
}

#[derive(Deserialize)]
struct LockHash {
    hash: String,
    #[serde(rename = "type")]
    kind: String,
}

impl LockModel {
    fn described(self, out: &mut Description) {
        let sha256 = self.hashes.into_iter().find(|h| h.kind.eq_ignore_ascii_case("sha256")).map(|h| h.hash);
        let name = self.model.unwrap_or_default();
        if self.url.is_none() {
            out.unresolved.push(format!("model {name}: no source is named"));
        }
        if self.paths.is_empty() {
            out.unresolved.push(format!("model {name}: no path is named"));
        }
        for at in self.paths {
            let path = slashes(&at.path);
            out.models.push(Model { path, sha256: sha256.clone(), url: self.url.clone() });
        }
    }
}
