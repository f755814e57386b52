//! What a job made, as `/api/jobs` sums it up: how many files, how many of them can be looked at, and the one that stands
//! for the job. Read from an entry of the history, where each node has lists of items by kind.
use serde_json::{Map, Value, json};

/// Kinds whose items can all be looked at.
const KINDS: [&str; 5] = ["images", "video", "audio", "3d", "text"];
const MODELS_3D: [&str; 5] = [".obj", ".fbx", ".gltf", ".glb", ".usdz"];
const TEXTS: [&str; 3] = [".txt", ".md", ".json"];
/// A text that stands for a job is cut after so many characters.
const TEXT_LENGTH: usize = 1024;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub previewable: u64,
    pub preview: Option<Value>,
}

/// What stands for a job, the best first; of one rank the first that comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// A saved picture, video, sound or 3D model.
    Saved,
    /// One that is not kept.
    Temporary,
    TextFile,
    /// Words alone: no file, and not counted.
    Words,
}

pub fn summary(outputs: &Value) -> Summary {
    let mut summary = Summary::default();
    let mut best: Option<(Rank, Value)> = None;
    let mut offer = |rank: Rank, make: &dyn Fn() -> Value| {
        if best.as_ref().is_none_or(|(other, _)| rank < *other) {
            best = Some((rank, make()));
        }
    };
    for (node, kind, items) in lists(outputs) {
        for item in items {
            let converted = model_3d(item);
            let Some(members) = converted.as_ref().or(Some(item)).and_then(Value::as_object) else {
                if kind == "text" {
                    offer(Rank::Words, &|| words(item, node));
                }
                continue;
            };
            summary.count += 1;
            if !previewable(kind, members) {
                continue;
            }
            summary.previewable += 1;
            let rank = match members.get("type").and_then(Value::as_str) {
                _ if kind == "text" || has_suffix(members, &TEXTS) => Rank::TextFile,
                Some("output") => Rank::Saved,
                _ => Rank::Temporary,
            };
            offer(rank, &|| {
                let mut members = members.clone();
                members.insert("nodeId".into(), node.into());
                members.entry("mediaType").or_insert_with(|| kind.into());
                Value::Object(members)
            });
        }
    }
    summary.preview = best.map(|(_, preview)| preview);
    summary
}

/// A file that an output node saved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    pub subfolder: String,
    pub filename: String,
}

/// The files of a job that are kept, each once. What a node names outside of its folder is none.
pub fn saved(outputs: &Value) -> Vec<File> {
    let mut files = Vec::new();
    for item in lists(outputs).flat_map(|(_, _, items)| items) {
        let converted = model_3d(item);
        let item = converted.as_ref().unwrap_or(item);
        let (Some(filename), Some("output")) = (item["filename"].as_str(), item["type"].as_str()) else {
            continue;
        };
        let file = File {
            subfolder: item["subfolder"].as_str().unwrap_or_default().into(),
            filename: filename.into(),
        };
        if !filename.is_empty() && !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

/// Each node's lists: other members, such as `animated`, are flags.
fn lists(outputs: &Value) -> impl Iterator<Item = (&str, &str, &Vec<Value>)> {
    let nodes = outputs.as_object().into_iter().flatten();
    let kinds = nodes.flat_map(|(node, kinds)| {
        kinds.as_object().into_iter().flatten().map(move |(kind, items)| (node, kind, items))
    });
    kinds.filter_map(|(node, kind, items)| {
        let items = items.as_array().filter(|_| kind != "animated")?;
        Some((node.as_str(), kind.as_str(), items))
    })
}

/// Nodes for 3D models name their file with nothing but a text.
fn model_3d(item: &Value) -> Option<Value> {
    let name = item.as_str().filter(|name| ends_with(name, &MODELS_3D))?;
    Some(json!({"filename": name, "type": "output", "subfolder": "", "mediaType": "3d"}))
}

fn previewable(kind: &str, item: &Map<String, Value>) -> bool {
    let format = item.get("format").and_then(Value::as_str).unwrap_or_default();
    KINDS.contains(&kind)
        || ["video/", "audio/"].iter().any(|start| format.starts_with(start))
        || has_suffix(item, &MODELS_3D)
        || has_suffix(item, &TEXTS)
}

fn has_suffix(item: &Map<String, Value>, suffixes: &[&str]) -> bool {
    item.get("filename").and_then(Value::as_str).is_some_and(|name| ends_with(name, suffixes))
}

fn ends_with(name: &str, suffixes: &[&str]) -> bool {
    let name = name.to_lowercase();
    suffixes.iter().any(|suffix| name.ends_with(suffix))
}

fn words(item: &Value, node: &str) -> Value {
    let text = match item {
        Value::String(text) => text.clone(),
        // A tuple of one, which JSON writes as a list.
        Value::Array(list) => list.first().and_then(Value::as_str).unwrap_or_default().into(),
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        other => other.to_string(),
    };
    let content: String = text.chars().take(TEXT_LENGTH).collect();
    let mut preview = if content.len() < text.len() {
        json!({"content": content, "truncated": true})
    } else {
        json!({"content": content})
    };
    preview["nodeId"] = node.into();
    preview["mediaType"] = "text".into();
    preview
}

/// The outputs as `/api/jobs/{id}` shows them: 3D models as files, and nothing in the place of nothing.
pub fn normalized(outputs: &Value) -> Value {
    let mut outputs = outputs.clone();
    for (_, kinds) in outputs.as_object_mut().into_iter().flatten() {
        for (kind, items) in kinds.as_object_mut().into_iter().flatten() {
            if let Value::Array(items) = items
                && kind != "animated"
            {
                items.retain(|item| !item.is_null());
                for item in items {
                    if let Some(model) = model_3d(item) {
                        *item = model;
                    }
                }
            }
        }
    }
    outputs
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
