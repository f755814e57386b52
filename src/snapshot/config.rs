//! What stillframe.toml says of an environment, and of how it becomes a snapshot.
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PythonConfig {
    /// The environment's interpreter, when it is not found by itself.
    pub interpreter: Option<PathBuf>,
    /// A store path that stands in for the captured runtime.
    pub runtime: Option<String>,
    /// System libraries to ship beside the interpreter's own.
    pub libraries: Vec<PathBuf>,
    /// Distributions laid out as real files instead of links.
    pub real_files: Vec<String>,
    /// Whether packs are compiled ahead, for a quicker start (default: true). A ComfyUI with governance enabled
    /// refuses packs that have bytecode: say false for it.
    pub pack_bytecode: Option<bool>,
    /// Whether Python's garbage collector runs rarely until the server listens, for a quicker start (default: true).
    pub defer_gc: Option<bool>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ProbeConfig {
    /// Seconds to wait for the environment's server.
    pub timeout: u64,
    /// Further arguments for ComfyUI, for the probe alone: "--cpu" on a machine without a GPU.
    pub arguments: Vec<String>,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        ProbeConfig { timeout: 300, arguments: Vec::new() }
    }
}

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct StoreSection {
    /// As NIX_REMOTE: `local?root=/path` for a store of its own.
    pub remote: Option<String>,
}
