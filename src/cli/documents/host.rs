//! What commands that look after hosts print.
use crate::deploy::maintenance::Drained;
use crate::deploy::prepare::Step;
use crate::deploy::renaming::Renamed;
use crate::protocol::integrity::Integrity;
use crate::protocol::overview::Repaired;
use crate::ship::preflight::{Facts, Problem};
use crate::ship::send::Sent;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Serialize, JsonSchema)]
pub struct Described {
    pub hosts: Vec<DescribedHost>,
}

#[derive(Serialize, JsonSchema)]
pub struct DescribedHost {
    pub name: String,
    pub file: PathBuf,
    /// What the file says (`stillframe schema host`).
    pub config: Value,
}

#[derive(Serialize, JsonSchema)]
pub struct CheckedHost {
    pub address: String,
    pub tags: Vec<String>,
    pub facts: Facts,
    /// What would stop a deployment.
    pub problems: Vec<Problem>,
    /// What is not safe about its Nix, and stops no deployment.
    pub notes: Vec<Problem>,
    /// Of the files that it serves from, with `--deep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
}

#[derive(Serialize, JsonSchema)]
pub struct Prepared {
    /// What was done.
    pub done: Vec<Step>,
}

#[derive(Serialize, JsonSchema)]
pub struct RepairedHost {
    pub services: Vec<Repaired>,
}

#[derive(Serialize, JsonSchema)]
pub struct SentHost {
    pub missing_paths: u64,
    pub missing_bytes: u64,
    pub sent: Sent,
}

#[derive(Serialize, JsonSchema)]
pub struct DrainedHost {
    #[serde(flatten)]
    pub done: Drained,
}

#[derive(Serialize, JsonSchema)]
pub struct Retired {
    /// Always true.
    pub retired: bool,
}

#[derive(Serialize, JsonSchema)]
pub struct HostAdded {
    pub name: String,
    pub file: PathBuf,
}

#[derive(Serialize, JsonSchema)]
pub struct HostForgotten {
    pub name: String,
    pub file: PathBuf,
    /// What it is called now.
    pub put_aside: PathBuf,
}

#[derive(Serialize, JsonSchema)]
pub struct RenamedHost {
    #[serde(flatten)]
    pub done: Renamed,
}
