//! ComfyUI-Manager's snapshot: the main program's commit, the packs, the pip freeze. It is JSON, or YAML below the key
//! `custom_nodes` (`cm-cli save-snapshot --output x.yaml`; comfy-cli's `comfy-lock.yaml` has the same key).
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagerSnapshotError {
    #[error("not a ComfyUI-Manager snapshot: {0}")]
    Malformed(String),
    #[error("not a ComfyUI-Manager snapshot: it names no version of ComfyUI, no pack and no package")]
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerSnapshot {
    /// The main program's commit.
    pub comfyui: Option<String>,
    /// By repository URL.
    #[serde(default, deserialize_with = "or_empty")]
    pub git_custom_nodes: BTreeMap<String, GitNode>,
    /// Registry packs: id to version.
    #[serde(default, deserialize_with = "texts")]
    pub cnr_custom_nodes: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub file_custom_nodes: Vec<FileNode>,
    /// What `pip freeze` printed: each line a key with an empty value, but `NAME @ ADDRESS` as NAME with the value ADDRESS
    /// (ComfyUI-Manager, `get_installed_pip_packages`).
    #[serde(default, deserialize_with = "texts")]
    pub pips: BTreeMap<String, String>,
    /// What is not known here.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A key without a value is an empty one, in YAML above all.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let read: Option<BTreeMap<String, Option<String>>> = Option::deserialize(from)?;
    Ok(read.unwrap_or_default().into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect())
}

/// Below its key, or for itself.
#[derive(Deserialize)]
struct Wrapped {
    custom_nodes: Option<ManagerSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitNode {
    pub hash: Option<String>,
    #[serde(default)]
    pub disabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNode {
    pub filename: String,
    #[serde(default)]
    pub disabled: bool,
}

impl ManagerSnapshot {
    pub fn parse(bytes: &[u8]) -> Result<Self, ManagerSnapshotError> {
        let json = |e: serde_json::Error| ManagerSnapshotError::Malformed(e.to_string());
        let value: Value = serde_json::from_slice(bytes).map_err(json)?;
        match value.get("custom_nodes") {
            Some(inner) => Self::deserialize(inner.clone()).map_err(json)?.known(),
            None => Self::deserialize(value).map_err(json)?.known(),
        }
    }

    /// Read as texts, not as YAML's guesses: a commit of digits is no number, and 1.10 is not 1.1.
    pub fn parse_yaml(text: &str) -> Result<Self, ManagerSnapshotError> {
        let yaml = |e: serde_saphyr::Error| ManagerSnapshotError::Malformed(e.to_string());
        match serde_saphyr::from_str::<Wrapped>(text).map_err(yaml)?.custom_nodes {
            Some(inner) => inner.known(),
            None => serde_saphyr::from_str::<Self>(text).map_err(yaml)?.known(),
        }
    }

    fn known(self) -> Result<Self, ManagerSnapshotError> {
        let none = self.comfyui.is_none() && self.git_custom_nodes.is_empty() && self.pips.is_empty();
        if none && self.cnr_custom_nodes.is_empty() && self.file_custom_nodes.is_empty() {
            return Err(ManagerSnapshotError::Other);
        }
        Ok(self)
    }

    /// The pips as lines of a requirements file.
    pub fn pip_lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.pips.iter().map(|(name, address)| match address.trim() {
            "" => Cow::Borrowed(name.as_str()),
            address => Cow::Owned(format!("{} @ {address}", name.trim())),
        })
    }

    /// The pinned pips as (name, version).
    pub fn pinned_pips(&self) -> impl Iterator<Item = (&str, &str)> {
        let plain = self.pips.iter().filter(|(_, address)| address.is_empty());
        plain.filter_map(|(line, _)| line.split_once("=="))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_looking() {
        let s = ManagerSnapshot::parse(
            br#"{"comfyui":"27870ec3c30e56be9707d89a120eb7f0e2836be1",
            "git_custom_nodes":{"https://git.example/a/ComfyUI-Impact-Pack":{"hash":"ab12","disabled":false},
              "https://git.example/b/x.git":{"hash":"cd34","disabled":true}},
            "cnr_custom_nodes":{"comfyui-manager":"3.30.4"},
            "file_custom_nodes":[{"filename":"websocket_image_save.py","disabled":false}],
            "pips":{"absl-py==2.1.0":"","mine @ file:///x":""}}"#,
        )
        .unwrap();
        assert_eq!(s.comfyui.as_deref(), Some("27870ec3c30e56be9707d89a120eb7f0e2836be1"));
        assert!(s.git_custom_nodes["https://git.example/b/x.git"].disabled);
        assert_eq!(s.cnr_custom_nodes["comfyui-manager"], "3.30.4");
        assert_eq!(s.file_custom_nodes[0].filename, "websocket_image_save.py");
        assert_eq!(s.pinned_pips().collect::<Vec<_>>(), [("absl-py", "2.1.0")]);
    }

    #[test]
    fn errors() {
        let text = |b: &[u8]| ManagerSnapshot::parse(b).unwrap_err().to_string();
        assert_eq!(
            text(b"{\"a\":1}"),
            "not a ComfyUI-Manager snapshot: it names no version of ComfyUI, no pack and no package"
        );
        assert_eq!(text(b"x"), "not a ComfyUI-Manager snapshot: expected value at line 1 column 1");
        assert_eq!(
            text(b"{\"comfyui\":5}"),
            "not a ComfyUI-Manager snapshot: invalid type: integer `5`, expected a string"
        );
    }
}
