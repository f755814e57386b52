//! A workflow in ComfyUI's API format: an object of nodes, each with `class_type` and `inputs`. What the
//! editor saves by default is another format, with lists of nodes and links, which the server does not take.
use serde_json::Value;
use std::collections::BTreeSet;

/// File names that ComfyUI's loaders offer.
const MODEL_SUFFIXES: &[&str] =
    &[".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorkflowError {
    #[error("it is no JSON: {0}")]
    Json(String),
    #[error("it is the editor's own format: export it with \"Export (API)\"")]
    Editor,
    #[error("node {0} has no class_type")]
    NoClass(String),
    #[error("it has no node")]
    Empty,
}

pub fn parse(text: &[u8]) -> Result<Value, WorkflowError> {
    let value: Value = serde_json::from_slice(text).map_err(|e| WorkflowError::Json(e.to_string()))?;
    if value["nodes"].is_array() {
        return Err(WorkflowError::Editor);
    }
    let nodes = value.as_object().filter(|nodes| !nodes.is_empty()).ok_or(WorkflowError::Empty)?;
    match nodes.iter().find(|(_, node)| !node["class_type"].is_string()) {
        Some((id, _)) => Err(WorkflowError::NoClass(id.clone())),
        None => Ok(value),
    }
}

/// The model files that its nodes name, relative to a folder of models of one kind.
pub fn model_files(workflow: &Value) -> BTreeSet<String> {
    let nodes = workflow.as_object().into_iter().flatten();
    let inputs = nodes.filter_map(|(_, node)| node["inputs"].as_object()).flatten();
    let texts = inputs.filter_map(|(_, value)| value.as_str());
    texts
        .filter(|text| MODEL_SUFFIXES.iter().any(|suffix| text.ends_with(suffix)))
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_and_the_models_it_names() {
        let text = br#"{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/v15.safetensors"}},
            "2": {"class_type": "LoraLoader", "inputs": {"lora_name": "a.safetensors", "model": ["1", 0], "strength": 1.0}},
            "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}}}"#;
        let files = model_files(&parse(text).unwrap());
        assert_eq!(files.into_iter().collect::<Vec<_>>(), ["a.safetensors", "sd/v15.safetensors"]);
    }

    #[test]
    fn what_the_server_would_not_take() {
        assert_eq!(parse(br#"{"nodes": [], "links": []}"#), Err(WorkflowError::Editor));
        assert_eq!(parse(b"{}"), Err(WorkflowError::Empty));
        assert_eq!(parse(b"[]"), Err(WorkflowError::Empty));
        assert_eq!(parse(br#"{"1": {"inputs": {}}}"#), Err(WorkflowError::NoClass("1".into())));
        assert!(matches!(parse(b"{"), Err(WorkflowError::Json(_))));
    }
}
