//! A host that is under maintenance: what served there was stopped, and nothing is brought there until it returns.
use serde::{Deserialize, Serialize};

pub const MAINTENANCE_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    pub version: u32,
    /// `user@workstation`.
    pub by: String,
    /// Milliseconds since 1970.
    pub since: u64,
    /// What served when it began, of whatever project: these services start again when it ends.
    pub services: Vec<String>,
    /// It is about to end: services may be started.
    #[serde(default)]
    pub returning: bool,
}
