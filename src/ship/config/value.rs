//! A value that is not written into a configuration.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a value comes from: one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ValueConfig {
    /// A variable of the environment that stillframe runs in.
    pub env: Option<String>,
    /// A file, relative to the one that names it; a last line break does not count.
    #[schemars(extend("x-private" = true))]
    pub file: Option<PathBuf>,
    /// A command that prints it.
    pub command: Option<Vec<String>>,
}
