//! `comfy-build.yaml`, schema comfy-build/1.
use super::model::{Description, DescriptionError, Model, malformed, slashes};
use super::requirement::is_commit;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub fn of_comfy_build(text: &str) -> Result<Description, DescriptionError> {
    const WHAT: &str = "a comfy-build.yaml";
    let read: Build = serde_saphyr::from_str(text).map_err(|e| malformed(WHAT, e))?;
    if read.schema != "comfy-build/1" {
        return Err(malformed(WHAT, format!("its schema is {:?}, not comfy-build/1", read.schema)));
    }
    let definition = read.definition;
    let mut out = Description { format: "comfy-build.yaml", ..Description::default() };
    for (name, value) in &definition.environment {
        match (name.as_str(), value.as_str()) {
            ("pythonVersion", Some(version)) => out.python = Some(version.into()),
            ("os", Some("linux")) => {}
            _ => out.unknown(&format!("environment {name}"), value),
        }
    }
    // As Comfy's own tool reads it: a bare version is a tag.
    let version = definition.base_comfy_version.map(|v| {
        match v.starts_with(|c: char| c.is_ascii_digit()) && !is_commit(&v) {
            true => format!("v{v}"),
            false => v,
        }
    });
    out.main(None, version.as_deref());
    for node in definition.custom_nodes {
        let commit = node.commit.or(node.git_ref);
        if node.repository.is_some() {
            out.pack(&node.name, node.repository.as_deref(), commit.as_deref());
        } else if let Some(version) = node.registry_version {
            out.registry_pack(&node.name, &version, "repository");
        } else {
            out.unresolved.push(format!("pack {}: only Comfy's platform has its files", node.name));
        }
    }
    out.requirements(&definition.pip_dependencies.unwrap_or_default());
    for model in definition.models {
        let name =
            model.filename.or_else(|| model.source_uri.as_deref()?.rsplit('/').next().map(String::from));
        let path = slashes(&format!("models/{}/{}", model.kind, name.unwrap_or_default()));
        if model.source_uri.is_none() {
            out.unresolved.push(format!("model {path}: only Comfy's platform has it"));
        }
        out.models.push(Model { path, sha256: model.sha256, url: model.source_uri });
    }
    // What names the file and its definition is no item of the environment.
    let labels = ["id", "name", "description", "syncedRevision", "schema"];
    let named = definition.other.into_iter().map(|(name, value)| (format!("definition {name}"), name, value));
    let outer = read.other.into_iter().map(|(name, value)| (name.clone(), name, value));
    for (shown, name, value) in named.chain(outer) {
        if !labels.contains(&name.as_str()) {
            out.unknown(&shown, &value);
        }
    }
    Ok(out)
}

#[derive(Deserialize)]
struct Build {
    #[serde(default)]
    schema: String,
    definition: Definition,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    base_comfy_version: Option<String>,
    #[serde(default)]
    custom_nodes: Vec<BuildNode>,
    #[serde(default)]
    models: Vec<BuildModel>,
    pip_dependencies: Option<String>,
    #[serde(default)]
    environment: BTreeMap<String, Value>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildNode {
    name: String,
    registry_version: Option<String>,
    repository: Option<String>,
    git_ref: Option<String>,
    commit: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildModel {
    #[serde(rename = "type")]
    kind: String,
    filename: Option<String>,
    source_uri: Option<String>,
    sha256: Option<String>,
}
