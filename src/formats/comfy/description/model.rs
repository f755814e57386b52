//! The form that every reader fills, item by item.
use super::requirement::{Judged, is_commit, judge, name_of};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Where the main program is, when a file does not say.
pub const COMFYUI: &str = "https://github.com/comfyanonymous/ComfyUI";

/// What ComfyUI's own repository has in `custom_nodes`: ComfyUI-Manager lists it as a single file of the environment.
pub const OF_COMFYUI: &[&str] = &["websocket_image_save.py"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    #[error("{0}")]
    Malformed(String),
    #[error(
        "it is none of: a ComfyUI-Manager snapshot (.json, .yaml), a comfy-pack package (.cpack.zip), a comfygit manifest (pyproject.toml), comfy-build.yaml"
    )]
    Unknown,
}

pub(super) fn malformed(what: &str, e: impl std::fmt::Display) -> DescriptionError {
    DescriptionError::Malformed(format!("not {what}: {e}"))
}

/// A git repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Source {
    pub repository: String,
    pub revision: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pack {
    /// The folder in `custom_nodes`.
    pub name: String,
    #[serde(flatten)]
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Model {
    /// Relative to the environment: `models/loras/x.safetensors`.
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// An index of packages, and the packages that come from there and from nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Index {
    pub name: String,
    pub url: String,
    pub packages: BTreeSet<String>,
}

/// A file that an archive brings along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Member {
    /// As the archive calls it.
    pub member: String,
    /// Relative to the environment.
    pub path: String,
}

/// What the requirements are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
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

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Description {
    /// Whose file it is.
    pub format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comfyui: Option<Source>,
    pub packs: Vec<Pack>,
    /// Packs of one file. Only those of ComfyUI's own repository can be had.
    pub files: Vec<String>,
    /// Lines of a requirements file.
    pub requirements: Vec<String>,
    /// Lines of a constraints file.
    pub constraints: Vec<String>,
    pub indexes: Vec<Index>,
    pub dependencies: Dependencies,
    /// What the archive itself brings.
    pub members: Vec<Member>,
    /// Shared storage: nobody fetches them here.
    pub models: Vec<Model>,
    /// What the file itself says is switched off.
    pub disabled: Vec<String>,
    pub unresolved: Vec<String>,
    /// Packages among the unresolved ones, by their normalised names: nothing else of such a name may take their place.
    #[serde(skip)]
    pub lacking: BTreeSet<String>,
}

/// A name that can be a folder of `custom_nodes`, and nothing else.
fn folder(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0', '\n'])
}

/// Of a repository's address: what git clone would call the folder.
pub(super) fn folder_of(url: &str) -> &str {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    last.strip_suffix(".git").unwrap_or(last)
}

/// git takes a word that begins with a dash for an option, and `ext::` addresses run programs.
fn is_repository(url: &str) -> bool {
    ["https://", "http://", "ssh://", "git://", "file:///"].iter().any(|scheme| url.starts_with(scheme))
        || (url.starts_with("git@") && !url.contains("::"))
}

/// As programs on Windows write paths.
pub(super) fn slashes(path: &str) -> String {
    path.replace('\\', "/")
}

impl Description {
    pub(super) fn pack(&mut self, name: &str, repository: Option<&str>, commit: Option<&str>) {
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
            (Some(repository), None) => {
                let said = commit.filter(|c| !c.is_empty()).map(|c| format!(" at {c:?}"));
                self.unresolved.push(format!(
                    "pack {name} of {repository}{}: no commit is named",
                    said.unwrap_or_default()
                ))
            }
            (None, _) => {
                let said = repository.filter(|r| !r.is_empty()).map(|r| format!(" of {r:?}"));
                self.unresolved
                    .push(format!("pack {name}{}: no repository is named", said.unwrap_or_default()))
            }
        }
    }

    pub(super) fn registry_pack(&mut self, name: &str, version: &str, lacks: &str) {
        let named = format!("{name} {version}");
        self.unresolved
            .push(format!("pack {}: the Comfy registry has it, no {lacks} is named", named.trim_end()));
    }

    /// A pack of one file.
    pub(super) fn file(&mut self, name: &str) {
        let name = slashes(name);
        match folder(&name) && name.ends_with(".py") {
            true => self.files.push(name),
            false => self.unresolved.push(format!("pack {name:?}: no name for a file of custom_nodes")),
        }
    }

    /// Files that nobody has, as far as the description itself shows.
    pub fn files_of_others(&self) -> Vec<String> {
        self.without(|name| OF_COMFYUI.contains(&name))
    }

    /// Files that are lacking where `there` says which are there.
    pub fn without(&self, there: impl Fn(&str) -> bool) -> Vec<String> {
        let lacking = self.files.iter().filter(|name| !there(name));
        lacking.map(|name| format!("pack {name}: a single file that only its machine has")).collect()
    }

    pub(super) fn disabled(&mut self, what: impl Into<String>) {
        self.disabled.push(what.into());
    }

    /// A requirements file, or one requirement, whose text may hold line breaks too: each line is judged by itself.
    pub(super) fn requirements(&mut self, text: &str) {
        for line in lines(text) {
            match judge(&line, self.dependencies == Dependencies::Frozen) {
                Judged::Nothing => {}
                Judged::Taken(taken) => self.requirements.push(taken.text),
                Judged::Lacks(name, why) => self.lacks(name, format!("requirement {line}: {why}")),
            }
        }
    }

    /// What may not be replaced by something else of its name.
    pub(super) fn lacks(&mut self, name: Option<String>, item: String) {
        self.lacking.extend(name);
        self.unresolved.push(item);
    }

    /// Whether a requirement or a constraint names the package.
    pub fn names(&self, package: &str) -> bool {
        let both = self.requirements.iter().chain(&self.constraints);
        both.filter_map(|line| name_of(line)).any(|name| name == package)
    }

    pub(super) fn main(&mut self, repository: Option<&str>, revision: Option<&str>) {
        let repository = repository.unwrap_or(COMFYUI);
        match revision.filter(|r| !r.is_empty() && !r.starts_with('-') && !r.contains(char::is_whitespace)) {
            _ if !is_repository(repository) => {
                self.unresolved.push(format!("ComfyUI: {repository:?} is no repository"))
            }
            Some(revision) => {
                self.comfyui = Some(Source { repository: repository.into(), revision: revision.into() })
            }
            None => {
                let said = revision.filter(|r| !r.is_empty()).map(|r| format!("{r:?} is no version"));
                let said = said.unwrap_or_else(|| "no version is named".into());
                self.unresolved.push(format!("ComfyUI: {said}"))
            }
        }
    }

    /// A part of the file that its reader does not know.
    pub(super) fn unknown(&mut self, name: &str, value: &Value) {
        let empty = match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        // An empty one has no item.
        if !empty {
            let shown: String = value.to_string().chars().take(200).collect();
            self.unresolved.push(format!("{name} {shown}: no part of the format that is known here"));
        }
    }
}

/// The logical lines of a requirements file (pip, "Requirements File Format"): joined, without comments and blanks.
fn lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let without_comment = |line: &str| {
        let line = if line.trim_start().starts_with('#') { "" } else { line };
        let end = line.match_indices('#').find(|(at, _)| line[..*at].ends_with([' ', '\t']));
        line[..end.map_or(line.len(), |(at, _)| at)].split_whitespace().collect::<Vec<_>>().join(" ")
    };
    joined.split(['\n', '\r']).map(without_comment).filter(|line| !line.is_empty()).collect()
}
