//! Whether the files of what a host serves are what they must be: the answer to `verify`. Data alone;
//! `host::integrity` finds out.
use serde::{Deserialize, Serialize};
use std::fmt;

pub const INTEGRITY_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Integrity {
    pub version: u32,
    /// How much was read.
    pub paths: u64,
    pub bytes: u64,
    pub milliseconds: u64,
    pub wrong: Vec<WrongPath>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct WrongPath {
    pub path: String,
    pub what: Wrong,
    /// Services that serve from it; none for the host's own agent.
    pub services: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// Nix does not know of it.
    Unregistered,
    /// Its files are not there.
    Gone,
    /// They are something else, or cannot be read.
    Differs,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::Unregistered => "is not in Nix's database",
            Wrong::Gone => "is gone",
            Wrong::Differs => "has other files than it must have",
        })
    }
}
