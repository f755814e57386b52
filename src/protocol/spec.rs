//! What the workstation asks a host to serve. It is kept with each generation, so that going back to one
//! needs nothing from anywhere else.
use crate::formats::comfy::api::paths;
use crate::protocol::callers::Callers;
use crate::protocol::jobs::Jobs;
use crate::protocol::scaling::Policy;
use crate::protocol::version::{self, OtherVersion};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub const SPEC_VERSION: u32 = 1;

/// How new instances take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// The new ones start beside the old ones.
    Surge,
    /// The old one of a slot stops first: for a GPU that cannot hold both.
    Replace,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
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
    /// A workflow in ComfyUI's API format that each new instance must run before it has traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<serde_json::Value>,
    /// How long it may take.
    pub smoke_ms: u64,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            path: paths::SYSTEM_STATS.into(),
            interval_ms: 500,
            passes: 3,
            minimum_ms: 2_000,
            deadline_ms: 300_000,
            timeout_ms: 5_000,
            smoke: None,
            smoke_ms: 300_000,
        }
    }
}

/// A folder of the host that instances see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Folder {
    pub path: String,
    /// Where, relative to ComfyUI's base directory.
    pub at: String,
    pub writable: bool,
}

/// A secret that an instance gets: its value is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretUse {
    /// The credential's name: a file of that name in `$CREDENTIALS_DIRECTORY`.
    pub name: String,
    /// Also as this environment variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Also as this file of the instance's own tree, by its place in the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// What is kept of generations that no longer serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
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

/// The gateway's limits. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest request body.
    pub body: u64,
    /// From the first byte of a request to the end of its head.
    pub head_ms: u64,
    pub connect_ms: u64,
    /// From the end of the request to the head of the response.
    pub response_ms: u64,
    /// How long a connection may stay silent.
    pub idle_ms: u64,
    /// How long a request waits while no instance is ready.
    pub hold_ms: u64,
    /// The most requests that may wait.
    pub held: usize,
    /// Client connections at once.
    pub connections: usize,
    /// Those of one client, which is an address of IPv4 or the first 64 bits of one of IPv6. None: a part of
    /// all. So for the next three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_held: Option<usize>,
    /// Open requests with one API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_requests: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_held: Option<usize>,
    /// Wrong keys of one client within a minute; what comes after them is answered 429. None: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong_keys: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 1 << 30,
            head_ms: 10_000,
            connect_ms: 2_000,
            response_ms: 300_000,
            idle_ms: 75_000,
            hold_ms: 15_000,
            held: 256,
            connections: 4_096,
            client_connections: None,
            client_held: None,
            key_requests: None,
            key_held: None,
            wrong_keys: None,
        }
    }
}

impl Limits {
    /// A quarter, so that three more clients find room. With few in all, a quarter would stop a browser.
    pub fn of_client(&self) -> usize {
        self.client_connections.unwrap_or((self.connections / 4).max(64)).min(self.connections)
    }

    pub fn held_of_client(&self) -> usize {
        self.client_held.unwrap_or((self.held / 4).max(16)).min(self.held)
    }

    /// Where all have the same key it is no client's.
    pub fn of_key(&self, keys: usize) -> usize {
        let part = if keys > 1 { self.connections / 2 } else { self.connections };
        self.key_requests.unwrap_or(part).clamp(1, self.connections)
    }

    pub fn wrong_of_client(&self) -> u32 {
        self.wrong_keys.unwrap_or(20)
    }

    pub fn held_of_key(&self, keys: usize) -> usize {
        let part = if keys > 1 { self.held.div_ceil(2) } else { self.held };
        self.key_held.unwrap_or(part).min(self.held)
    }
}

/// How the gateway checks whether an instance answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub path: String,
    /// Between two checks of an instance that answers.
    pub interval_ms: u64,
    /// The longest that a check may take; ComfyUI answers late while a node computes.
    pub timeout_ms: u64,
    /// Consecutive failed checks before the gateway stops routing to an instance. One refused connection is enough.
    pub failures: u32,
}

impl Default for Check {
    fn default() -> Self {
        Check { path: paths::SYSTEM_STATS.into(), interval_ms: 2_000, timeout_ms: 10_000, failures: 3 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub version: u32,
    pub service: String,
    pub listen: IpAddr,
    pub port: u16,
    /// SHA-256 (hex) of each API key.
    pub api_keys: Vec<String>,
    pub gateway: Limits,
    #[serde(default, skip_serializing_if = "Callers::is_empty")]
    pub callers: Callers,
    /// Where Prometheus finds the gateway, on loopback.
    pub metrics_port: Option<u16>,
    /// The GPUs of each slot; one item a slot, empty for CPU alone.
    pub slots: Vec<Vec<String>>,
    /// How many instances run always (at most one a slot), and how many may at most.
    pub instances: u32,
    pub maximum: u32,
    /// None: their number does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Policy>,
    pub memory_bytes: Option<u64>,
    /// Of one core, as systemd's CPUQuota.
    pub cpu_percent: Option<u32>,
    /// A user of the host; none: one of the service's own that exists while an instance does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub models: String,
    /// Where instances write their pictures; none: in the service's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    pub folders: Vec<Folder>,
    /// Folders of the instance's own tree that outlive it, relative to ComfyUI's base directory.
    pub keep: Vec<String>,
    pub secrets: Vec<SecretUse>,
    /// Further arguments and variables of this host.
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// A folder of the GPU driver's libraries, where they are in no usual place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// What instances of earlier agents listened on. They have Unix sockets now, and nothing reads this.
    pub ports: (u16, u16),
    pub health: Health,
    pub rotation: Rotation,
    pub drain_ms: u64,
    pub retention: Retention,
    /// None: the jobs are the instances' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Jobs>,
}

#[cfg(test)]
impl Spec {
    /// One instance on the CPU.
    pub fn example(service: &str) -> Spec {
        Spec {
            version: SPEC_VERSION,
            service: service.into(),
            listen: IpAddr::from([127, 0, 0, 1]),
            port: 8188,
            api_keys: Vec::new(),
            gateway: Limits::default(),
            callers: Callers::default(),
            metrics_port: None,
            slots: vec![Vec::new()],
            instances: 1,
            maximum: 1,
            memory_bytes: None,
            cpu_percent: None,
            user: None,
            models: "/srv/models".into(),
            output: None,
            folders: Vec::new(),
            keep: Vec::new(),
            secrets: Vec::new(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            driver: None,
            ports: (20_000, 20_099),
            health: Health::default(),
            rotation: Rotation::Surge,
            drain_ms: 5_000,
            retention: Retention::default(),
            jobs: None,
            scaling: None,
        }
    }
}

impl Spec {
    pub fn check_version(&self) -> Result<(), OtherVersion> {
        version::check(self.version, SPEC_VERSION)
    }

    /// The same of one that is not understood yet.
    pub fn check_document(spec: &serde_json::Value) -> Result<(), OtherVersion> {
        version::check_document(spec, SPEC_VERSION)
    }
}

/// What the environment's own server has besides node classes, as far as its probe told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offered {
    /// Packs that it could import, by the names of their folders or files.
    pub packs: BTreeSet<String>,
    /// The scripts that its pages load.
    pub extensions: BTreeSet<String>,
    /// Method and path.
    pub routes: BTreeSet<String>,
}

impl Offered {
    pub fn is_empty(&self) -> bool {
        *self == Offered::default()
    }
}

/// One deployment to this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Absolute store paths.
    pub snapshot: String,
    pub agent: String,
    /// The name of the launch file in the snapshot.
    pub launch: String,
    /// Node classes that the environment's own server had, and the pack or module of each.
    pub classes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Offered::is_empty")]
    pub offered: Offered,
    pub spec: Spec,
}

/// Names become parts of unit names, paths and user names, which have at most 31 characters (systemd's
/// USER_NAMES).
pub fn valid_service(name: &str) -> bool {
    (1..=27).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}
