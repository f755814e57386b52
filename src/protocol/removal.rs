//! What the removal of a service takes from a host, and what stays: the answer to `removal`, shown before anything is done.
use crate::protocol::messages::Stopped;
use serde::{Deserialize, Serialize};

pub const REMOVAL_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Removal {
    pub version: u32,
    pub service: String,
    /// What serves, and finishes what it has first.
    pub serving: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    pub going: Vec<Part>,
    pub staying: Vec<Part>,
}

/// Things of one kind, and where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Part {
    pub what: String,
    pub places: Vec<String>,
}
