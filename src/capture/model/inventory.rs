//! What an environment contains, read once, without changing it. Plain data: the reading is in the
//! modules beside this one, the pinning in `lock`.
use crate::capture::model::report::Finding;
use crate::capture::trees::tree::Tree;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What git knows of a directory. Read without running anything the repository configures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitState {
    pub commit: Option<String>,
    pub branch: Option<String>,
    pub remote: Option<String>,
    /// `None`: could not be told (no git installed, objects missing).
    pub dirty: Option<bool>,
    /// Files that differ from the commit, at most 200 named.
    pub changed: Vec<String>,
    /// Files of the commit that a sparse checkout leaves out.
    #[serde(default)]
    pub not_checked_out: usize,
}

/// A repository below another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Nested {
    pub path: String,
    /// The `.gitmodules` of a repository around it names it.
    pub submodule: bool,
    #[serde(flatten)]
    pub git: GitState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PackKind {
    Git,
    Folder,
    File,
    /// A link in `custom_nodes` to a folder elsewhere, followed.
    Link,
}

/// A model weight file inside a pack: a store path of its own, put back at `path` at run time.
#[derive(Debug, Clone)]
pub struct Weight {
    pub path: String,
    pub size: u64,
    pub tree: Tree,
}

/// A Python environment of a pack's own, for what the pack runs as a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPython {
    /// Its folder, relative to the pack.
    pub folder: Vec<u8>,
    /// The real file of its interpreter; nothing where the link to it is broken.
    pub interpreter: Option<PathBuf>,
}

impl OwnPython {
    /// Whether a file of the pack's tree is this interpreter, by one of its names.
    pub fn is(&self, path: &[u8]) -> bool {
        let inner = path.strip_prefix(self.folder.as_slice()).and_then(|rest| rest.strip_prefix(b"/"));
        inner.and_then(|inner| inner.strip_prefix(b"bin/")).is_some_and(|name| name.starts_with(b"python"))
    }
}

#[derive(Debug, Clone)]
pub struct Pack {
    /// The name in `custom_nodes/` (`foo` or `foo.py`).
    pub name: String,
    pub kind: PackKind,
    pub enabled: bool,
    pub location: PathBuf,
    pub git: Option<GitState>,
    /// Repositories below the pack's own.
    pub nested: Vec<Nested>,
    pub tree: Tree,
    pub weights: Vec<Weight>,
    /// Files with marks in place of the environment's own paths.
    pub own_paths: Vec<String>,
    pub pythons: Vec<OwnPython>,
    pub size: u64,
    /// Digest of all metadata (`index` module); `None` when too fresh to be trusted.
    pub stat_digest: Option<String>,
}

#[derive(Debug, Clone)]
pub struct MainProgram {
    pub version: Option<String>,
    pub git: Option<GitState>,
    pub tree: Tree,
    pub size: u64,
    pub stat_digest: Option<String>,
    /// Option strings of `comfy/cli_args.py`, read as text.
    pub flags: Vec<String>,
    /// Folders below `models` in which the program's own repository has files.
    pub models: Vec<String>,
    /// Whether it has files in `input`.
    pub input: bool,
    /// Files with marks in place of the environment's own paths.
    pub own_paths: Vec<String>,
}

/// One entry of the cache (a hub repository, a checkpoint).
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// Relative to `.cache`.
    pub path: String,
    pub tree: Tree,
    pub size: u64,
    pub stat_digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFolder {
    pub path: String,
    pub files: u64,
    pub bytes: u64,
}

/// A path outside the environment that it points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutsidePath {
    pub from: String,
    pub to: String,
    /// True when its content is captured; false when it is only reported.
    pub captured: bool,
}

/// Everything but the Python distributions.
#[derive(Debug, Clone)]
pub struct Scan {
    pub root: PathBuf,
    pub main: MainProgram,
    pub packs: Vec<Pack>,
    pub cache: Vec<CacheEntry>,
    pub models: Vec<ModelFolder>,
    /// User data (`user/`, `input/`, `output/`): listed, not captured.
    pub user: Vec<ModelFolder>,
    pub outside: Vec<OutsidePath>,
    pub findings: Vec<Finding>,
    /// What the memo may keep, so that the next scan need not compare again.
    pub git_reads: Vec<GitRead>,
}

/// A repository's state under the key and digest by which the next scan asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitRead {
    pub key: String,
    pub digest: String,
    pub state: GitState,
}
