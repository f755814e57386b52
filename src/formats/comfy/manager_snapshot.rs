//! ComfyUI-Manager's snapshot JSON: the main program's commit, the packs, the pip freeze.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagerSnapshotError {
    #[error("not a ComfyUI-Manager snapshot: {0}")]
    Json(String),
    #[error("not a ComfyUI-Manager snapshot: it has neither \"comfyui\" nor \"git_custom_nodes\"")]
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerSnapshot {
    /// The main program's commit.
    pub comfyui: Option<String>,
    /// By repository URL.
    #[serde(default)]
    pub git_custom_nodes: BTreeMap<String, GitNode>,
    /// Registry packs: id to version.
    #[serde(default)]
    pub cnr_custom_nodes: BTreeMap<String, String>,
    #[serde(default)]
    pub file_custom_nodes: Vec<FileNode>,
    /// `name==version` or `name @ url`, as `pip freeze` prints; the values are empty.
    #[serde(default)]
    pub pips: BTreeMap<String, String>,
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
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| ManagerSnapshotError::Json(e.to_string()))?;
        if value.get("comfyui").is_none() && value.get("git_custom_nodes").is_none() {
            return Err(ManagerSnapshotError::Other);
        }
        serde_json::from_value(value).map_err(|e| ManagerSnapshotError::Json(e.to_string()))
    }

    /// The pinned pips as (name, version).
    pub fn pinned_pips(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pips.keys().filter_map(|line| line.split_once("=="))
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
            "not a ComfyUI-Manager snapshot: it has neither \"comfyui\" nor \"git_custom_nodes\""
        );
        assert_eq!(text(b"x"), "not a ComfyUI-Manager snapshot: expected value at line 1 column 1");
        assert_eq!(
            text(b"{\"comfyui\":5}"),
            "not a ComfyUI-Manager snapshot: invalid type: integer `5`, expected a string"
        );
    }
}
