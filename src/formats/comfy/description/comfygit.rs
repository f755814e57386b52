//! comfygit's `pyproject.toml`: `[tool.comfygit]`, and of the standards and of uv what says which packages are meant.
use super::model::{Dependencies, Description, DescriptionError, Model, malformed, slashes};
use super::uv;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub fn of_comfygit(text: &str) -> Result<Description, DescriptionError> {
    const WHAT: &str = "a comfygit manifest";
    let read: Pyproject = toml::from_str(text).map_err(|e| malformed(WHAT, e.message()))?;
    let Some(own) = read.tool.comfygit else { return Err(malformed(WHAT, "it has no [tool.comfygit]")) };
    let mut out = Description {
        format: "comfygit manifest",
        python: own.python_version,
        dependencies: Dependencies::Wanted,
        ..Description::default()
    };
    let version = own.comfyui_version.filter(|v| v != "snapshot" && v != "latest");
    out.main(own.comfyui_repository.as_deref(), own.comfyui_commit_sha.as_deref().or(version.as_deref()));
    for (id, node) in own.nodes {
        let kind = node.source.or(node.source_type).unwrap_or_default();
        let name = node.name.unwrap_or_else(|| id.clone());
        match kind.as_str() {
            "bundled" => out
                .unresolved
                .push(format!("pack {name}: its files lie beside the manifest, not in a repository")),
            "registry" => out.registry_pack(&name, &node.version.unwrap_or_default(), "commit"),
            _ => {
                let commit = node.pinned_commit.or(node.tracked_commit).or(node.version);
                out.pack(&name, node.repository.or(node.github_url).as_deref(), commit.as_deref());
            }
        }
    }
    let mut lines = read.project.dependencies;
    for (group, members) in read.dependency_groups {
        for line in members {
            match line {
                Value::String(line) => lines.push(line),
                other => out.unresolved.push(format!("dependency group {group}: {other} is no requirement")),
            }
        }
    }
    uv::requirements(&mut out, lines, read.tool.uv);
    for (extra, lines) in read.project.optional_dependencies {
        for line in lines {
            out.unresolved.push(format!("optional dependency {line}: only the extra {extra} wants it"));
        }
    }
    if let (None, Some(wanted)) = (&out.python, read.project.requires_python) {
        out.unresolved.push(format!("requires-python {wanted}: no version is named"));
    }
    for (hash, model) in own.models {
        let path = slashes(&format!("models/{}", model.relative_path.unwrap_or(model.filename)));
        // Its hashes are of a beginning and an end of the file: no SHA-256.
        let url = model.sources.first().and_then(|s| s.as_str().or(s["url"].as_str())).map(String::from);
        if url.is_none() {
            out.unresolved.push(format!("model {path} (short hash {hash}): no source is named"));
        }
        out.models.push(Model { path, sha256: None, url });
    }
    for workflow in own.workflows.keys() {
        out.unresolved.push(format!("workflow {workflow}: its file lies beside the manifest"));
    }
    // Which index has such builds, a source says; without one nothing does.
    if let Some(backend) = own.torch_backend
        && !out.indexes.iter().any(|index| index.packages.contains("torch"))
    {
        out.unresolved.push(format!("torch backend {backend}: no index is named for it"));
    }
    // What of the manifest is about the manifest.
    let labels = ["schema_version", "comfyui_version_type"];
    for (name, value) in own.other.iter().filter(|(name, _)| !labels.contains(&name.as_str())) {
        out.unknown(&format!("[tool.comfygit] {name}"), value);
    }
    Ok(out)
}

#[derive(Default, Deserialize)]
struct Pyproject {
    #[serde(default)]
    project: Project,
    #[serde(default)]
    tool: Tool,
    #[serde(default, rename = "dependency-groups")]
    dependency_groups: BTreeMap<String, Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Project {
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    optional_dependencies: BTreeMap<String, Vec<String>>,
    requires_python: Option<String>,
}

#[derive(Default, Deserialize)]
struct Tool {
    comfygit: Option<Comfygit>,
    #[serde(default)]
    uv: uv::Uv,
}

#[derive(Deserialize)]
struct Comfygit {
    comfyui_version: Option<String>,
    comfyui_commit_sha: Option<String>,
    comfyui_repository: Option<String>,
    python_version: Option<String>,
    torch_backend: Option<String>,
    #[serde(default)]
    nodes: BTreeMap<String, Node>,
    #[serde(default)]
    models: BTreeMap<String, NodeModel>,
    #[serde(default)]
    workflows: BTreeMap<String, Value>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Node {
    name: Option<String>,
    version: Option<String>,
    /// Of schema 1; `source_type` of some writers.
    source: Option<String>,
    source_type: Option<String>,
    repository: Option<String>,
    github_url: Option<String>,
    pinned_commit: Option<String>,
    tracked_commit: Option<String>,
}

#[derive(Deserialize)]
struct NodeModel {
    #[serde(default)]
    filename: String,
    relative_path: Option<String>,
    #[serde(default)]
    sources: Vec<Value>,
}
