//! What the workstation asks a host to serve. It is kept with each generation, so that going back to one
//! needs nothing from anywhere else.
use crate::run::control::Limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub const SPEC_VERSION: u32 = 1;

/// How new instances take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// The new ones start beside the old ones.
    Surge,
    /// The old one of a slot stops first: for a GPU that cannot hold both.
    Replace,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub path: String,
    pub interval_ms: u64,
    /// How many passes in a row, over at least `minimum_ms`.
    pub passes: u32,
    pub minimum_ms: u64,
    /// From the start to the last pass.
    pub deadline_ms: u64,
    /// One answer may take this long.
    pub timeout_ms: u64,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            path: "/system_stats".into(),
            interval_ms: 500,
            passes: 3,
            minimum_ms: 2_000,
            deadline_ms: 300_000,
            timeout_ms: 5_000,
        }
    }
}

/// A folder of the host that instances see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    pub path: String,
    /// Where, relative to ComfyUI's base directory.
    pub at: String,
    pub writable: bool,
}

/// What is kept of generations that no longer serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// How many besides the serving one.
    pub generations: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { generations: 3 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub version: u32,
    pub service: String,
    pub listen: IpAddr,
    pub port: u16,
    /// SHA-256 (hex) of each API key.
    pub api_keys: Vec<String>,
    pub gateway: Limits,
    /// Where Prometheus finds the gateway, on loopback.
    pub metrics_port: Option<u16>,
    /// The GPUs of each slot; one item a slot, empty for CPU alone.
    pub slots: Vec<Vec<String>>,
    /// How many instances run (at most one a slot).
    pub instances: u32,
    pub memory_bytes: Option<u64>,
    /// Of one core, as systemd's CPUQuota.
    pub cpu_percent: Option<u32>,
    pub models: String,
    pub folders: Vec<Folder>,
    /// Further arguments and variables of this host.
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Instances listen on these loopback ports.
    pub ports: (u16, u16),
    pub health: Health,
    pub rotation: Rotation,
    pub drain_ms: u64,
    pub retention: Retention,
}

/// One deployment to this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The deployment's id, the same on all its hosts.
    pub deployment: String,
    /// Absolute store paths.
    pub snapshot: String,
    pub agent: String,
    /// `user@workstation`.
    pub by: String,
    #[serde(default)]
    pub label: Option<String>,
    pub spec: Spec,
}

/// Names become parts of unit names and paths.
pub fn valid_service(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}
