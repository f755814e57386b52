//! What others' files say of an environment, in one form: ComfyUI-Manager's snapshot, comfy-pack's `.cpack.zip`, comfygit's
//! `pyproject.toml`, and `comfy-build.yaml` (schema comfy-build/1). What a file does not say well enough to be fetched
//! again exactly is named in `unresolved`, never guessed.
use super::manager_snapshot::ManagerSnapshot;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{Read, Seek};

/// Where the main program is, when a file does not say.
pub const COMFYUI: &str = "https://github.com/comfyanonymous/ComfyUI";

/// Of a member of an archive: these are texts that people wrote.
const MOST: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    #[error("{0}")]
    Malformed(String),
    #[error(
        "it is none of: a ComfyUI-Manager snapshot (.json), a comfy-pack package (.cpack.zip), a comfygit manifest (pyproject.toml), comfy-build.yaml"
    )]
    Unknown,
}

/// A git repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    pub repository: String,
    pub revision: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pack {
    /// The folder in `custom_nodes`.
    pub name: String,
    #[serde(flatten)]
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Model {
    /// Relative to the environment: `models/loras/x.safetensors`.
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What the requirements are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dependencies {
    /// All that was installed: nothing is resolved.
    Frozen,
    /// What is wanted, from which an installer finds the rest.
    Wanted,
    /// Besides those that the main program and the packs name themselves.
    #[default]
    Besides,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Whose file it is.
    pub format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comfyui: Option<Source>,
    pub packs: Vec<Pack>,
    /// Lines of a requirements file.
    pub requirements: Vec<String>,
    pub dependencies: Dependencies,
    /// Shared storage: nobody fetches them here.
    pub models: Vec<Model>,
    pub unresolved: Vec<String>,
}

fn malformed(what: &str, e: impl std::fmt::Display) -> DescriptionError {
    DescriptionError::Malformed(format!("not {what}: {e}"))
}

/// A name that can be a folder of `custom_nodes`, and nothing else.
fn folder(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0', '\n'])
}

/// Of a repository's address: what git clone would call the folder.
fn folder_of(url: &str) -> &str {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    last.strip_suffix(".git").unwrap_or(last)
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// git takes a word that begins with a dash for an option, and `ext::` addresses run programs.
fn is_repository(url: &str) -> bool {
    ["https://", "http://", "ssh://", "git://", "file:///"].iter().any(|scheme| url.starts_with(scheme))
        || (url.starts_with("git@") && !url.contains("::"))
}

impl Description {
    fn pack(&mut self, name: &str, repository: Option<&str>, commit: Option<&str>) {
        match (repository.filter(|r| is_repository(r)), commit.filter(|c| is_commit(c))) {
            _ if !folder(name) => self.unresolved.push(format!("pack {name:?}: no name for a folder")),
            _ if self.packs.iter().any(|p| p.name == name) => {
                let from = repository.unwrap_or("nowhere");
                self.unresolved.push(format!("pack {name} of {from}: another has its folder"));
            }
            (Some(repository), Some(commit)) => self.packs.push(Pack {
                name: name.into(),
                source: Source { repository: repository.into(), revision: commit.into() },
            }),
            (Some(_), None) => {
                self.unresolved.push(format!("pack {name}: no commit is named, only its repository"))
            }
            (None, _) => self.unresolved.push(format!("pack {name}: no repository is named")),
        }
    }

    /// A requirements file, or one requirement, whose text may hold line breaks too: each line is judged by itself.
    fn requirements(&mut self, text: &str) {
        text.replace("\\\r\n", " ")
            .replace("\\\n", " ")
            .split(['\n', '\r'])
            .for_each(|line| self.requirement(line));
    }

    /// A line that names a version or an address; a path of another machine is none.
    fn requirement(&mut self, line: &str) {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            return;
        }
        let local = line.starts_with("-e")
            || line.starts_with("--editable")
            || line.contains("file:")
            || line.starts_with(['/', '.', '~']);
        if local {
            self.unresolved.push(format!("requirement {line}: it is on another machine"));
        } else if line.starts_with('-') {
            self.unresolved.push(format!("requirement {line}: an option of an installer"));
        } else {
            self.requirements.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }

    fn main(&mut self, repository: Option<&str>, revision: Option<&str>) {
        let repository = repository.unwrap_or(COMFYUI);
        match revision.filter(|r| !r.is_empty() && !r.starts_with('-') && !r.contains(char::is_whitespace)) {
            _ if !is_repository(repository) => {
                self.unresolved.push(format!("ComfyUI: {repository:?} is no repository"))
            }
            Some(revision) => {
                self.comfyui = Some(Source { repository: repository.into(), revision: revision.into() })
            }
            None => self.unresolved.push("ComfyUI: no version is named".into()),
        }
    }

    pub fn of_manager_snapshot(bytes: &[u8]) -> Result<Description, DescriptionError> {
        let read = ManagerSnapshot::parse(bytes).map_err(|e| DescriptionError::Malformed(e.to_string()))?;
        let mut out = Description { format: "ComfyUI-Manager snapshot", ..Description::default() };
        out.main(None, read.comfyui.as_deref());
        for (url, node) in read.git_custom_nodes.iter().filter(|(_, node)| !node.disabled) {
            out.pack(folder_of(url), Some(url), node.hash.as_deref());
        }
        for (id, version) in &read.cnr_custom_nodes {
            out.unresolved
                .push(format!("pack {id} {version}: the Comfy registry has it, no repository is named"));
        }
        for file in read.file_custom_nodes.iter().filter(|file| !file.disabled) {
            out.unresolved.push(format!("pack {}: a single file that only its machine has", file.filename));
        }
        read.pips.keys().for_each(|line| out.requirements(line));
        if !read.pips.is_empty() {
            out.dependencies = Dependencies::Frozen;
        }
        Ok(out)
    }

    pub fn of_comfy_pack(archive: impl Read + Seek) -> Result<Description, DescriptionError> {
        const WHAT: &str = "a comfy-pack package";
        let mut zip = zip::ZipArchive::new(archive).map_err(|e| malformed(WHAT, e))?;
        let mut member = |name: &str| -> Result<String, DescriptionError> {
            let file = zip.by_name(name).map_err(|_| malformed(WHAT, format!("it has no {name}")))?;
            let mut text = String::new();
            file.take(MOST).read_to_string(&mut text).map_err(|e| malformed(WHAT, format!("{name}: {e}")))?;
            Ok(text)
        };
        let snapshot: PackSnapshot = serde_json::from_str(&member("snapshot.json")?)
            .map_err(|e| malformed(WHAT, format!("snapshot.json: {e}")))?;
        let requirements = member("requirements.txt")?;
        let mut out =
            Description { format: "comfy-pack package", python: snapshot.python, ..Description::default() };
        out.main(None, snapshot.comfyui.as_deref());
        for node in snapshot.custom_nodes.iter().filter(|node| !node.disabled) {
            out.pack(folder_of(&node.url), Some(&node.url), Some(&node.commit_hash));
        }
        out.requirements(&requirements);
        out.dependencies = Dependencies::Frozen;
        for model in snapshot.models.into_iter().filter(|model| !model.disabled) {
            let url = model.source["download_url"].as_str().map(String::from);
            out.models.push(Model { path: model.filename, sha256: model.sha256, url });
        }
        Ok(out)
    }

    pub fn of_comfygit(text: &str) -> Result<Description, DescriptionError> {
        const WHAT: &str = "a comfygit manifest";
        let read: Pyproject = toml::from_str(text).map_err(|e| malformed(WHAT, e.message()))?;
        let Some(own) = read.tool.comfygit else { return Err(malformed(WHAT, "it has no [tool.comfygit]")) };
        let mut out =
            Description { format: "comfygit manifest", python: own.python_version, ..Description::default() };
        let version = own.comfyui_version.filter(|v| v != "snapshot" && v != "latest");
        out.main(own.comfyui_repository.as_deref(), own.comfyui_commit_sha.as_deref().or(version.as_deref()));
        for (id, node) in own.nodes {
            let kind = node.source.or(node.source_type).unwrap_or_default();
            let name = node.name.unwrap_or_else(|| id.clone());
            match kind.as_str() {
                "bundled" => out
                    .unresolved
                    .push(format!("pack {name}: its files lie beside the manifest, not in a repository")),
                "registry" => {
                    let version = node.version.unwrap_or_default();
                    out.unresolved.push(format!(
                        "pack {name} {version}: the Comfy registry has it, no commit is named"
                    ));
                }
                _ => {
                    let commit = node.pinned_commit.or(node.tracked_commit).or(node.version);
                    out.pack(&name, node.repository.or(node.github_url).as_deref(), commit.as_deref());
                }
            }
        }
        read.project.dependencies.iter().for_each(|line| out.requirements(line));
        out.dependencies = Dependencies::Wanted;
        for (group, lines) in read.dependency_groups {
            for line in lines {
                match line.as_str() {
                    Some(line) => out.requirements(line),
                    None => {
                        out.unresolved.push(format!("dependency group {group}: {line} is no requirement"))
                    }
                }
            }
        }
        for (hash, model) in own.models {
            let path = format!("models/{}", model.relative_path.unwrap_or(model.filename));
            // Its hashes are of a beginning and an end of the file: no SHA-256.
            let url = model.sources.first().and_then(|s| s.as_str().or(s["url"].as_str())).map(String::from);
            if url.is_none() {
                out.unresolved.push(format!("model {path} (short hash {hash}): no source is named"));
            }
            out.models.push(Model { path, sha256: None, url });
        }
        Ok(out)
    }

    pub fn of_comfy_build(text: &str) -> Result<Description, DescriptionError> {
        const WHAT: &str = "a comfy-build.yaml";
        let read: Build = serde_saphyr::from_str(text).map_err(|e| malformed(WHAT, e))?;
        if read.schema != "comfy-build/1" {
            return Err(malformed(WHAT, format!("its schema is {:?}, not comfy-build/1", read.schema)));
        }
        let definition = read.definition;
        let mut out = Description { format: "comfy-build.yaml", ..Description::default() };
        out.python = definition.environment["pythonVersion"].as_str().map(String::from);
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
                out.unresolved.push(format!(
                    "pack {} {version}: the Comfy registry has it, no repository is named",
                    node.name
                ));
            } else {
                out.unresolved.push(format!("pack {}: only Comfy's platform has its files", node.name));
            }
        }
        out.requirements(&definition.pip_dependencies.unwrap_or_default());
        for model in definition.models {
            let name =
                model.filename.or_else(|| model.source_uri.as_deref()?.rsplit('/').next().map(String::from));
            let path = format!("models/{}/{}", model.kind, name.unwrap_or_default());
            if model.source_uri.is_none() {
                out.unresolved.push(format!("model {path}: only Comfy's platform has it"));
            }
            out.models.push(Model { path, sha256: model.sha256, url: model.source_uri });
        }
        Ok(out)
    }
}

#[derive(Deserialize)]
struct PackSnapshot {
    python: Option<String>,
    comfyui: Option<String>,
    #[serde(default)]
    custom_nodes: Vec<PackNode>,
    #[serde(default)]
    models: Vec<PackModel>,
}

#[derive(Deserialize)]
struct PackNode {
    url: String,
    commit_hash: String,
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

#[derive(Default, Deserialize)]
struct Pyproject {
    #[serde(default)]
    project: Project,
    #[serde(default)]
    tool: Tool,
    #[serde(default, rename = "dependency-groups")]
    dependency_groups: std::collections::BTreeMap<String, Vec<Value>>,
}

#[derive(Default, Deserialize)]
struct Project {
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Tool {
    comfygit: Option<Comfygit>,
}

#[derive(Deserialize)]
struct Comfygit {
    comfyui_version: Option<String>,
    comfyui_commit_sha: Option<String>,
    comfyui_repository: Option<String>,
    python_version: Option<String>,
    #[serde(default)]
    nodes: std::collections::BTreeMap<String, Node>,
    #[serde(default)]
    models: std::collections::BTreeMap<String, NodeModel>,
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

#[derive(Deserialize)]
struct Build {
    #[serde(default)]
    schema: String,
    definition: Definition,
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
    environment: Value,
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

#[cfg(test)]
#[path = "description_tests.rs"]
mod tests;
