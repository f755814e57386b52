//! What agent and gateway say to each other: the gateway's settings file, its routing table, and the
//! requests of its control socket (one JSON document a line, one answer a line).
//!
//! The gateway writes the table to `table` (temporary file, sync, rename) before it answers `set`, so a
//! restarted gateway routes as the last one did without asking anybody.
pub use crate::protocol::callers::Callers;
use crate::protocol::deliveries::Secrets;
pub use crate::protocol::jobs::{JobsAnswer, JobsAsk, JobsSettings};
pub use crate::protocol::scaling::{ScalingSettings, ScalingView};
pub use crate::protocol::spec::{Check, Limits};
pub use crate::sys::address::Address;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

pub const GATEWAY_VERSION: u32 = 1;

/// The gateway's settings file: written by the agent, read at start and at `reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewaySettings {
    pub version: u32,
    pub service: String,
    /// Where to listen when no socket unit passes the socket in (LISTEN_FDS).
    pub listen: SocketAddr,
    /// Prometheus metrics; loopback only.
    pub metrics: Option<SocketAddr>,
    /// The control socket.
    pub control: PathBuf,
    /// The routing table of the last `set`.
    pub table: PathBuf,
    /// SHA-256 (hex) of each accepted API key; empty: no key is asked for.
    pub api_keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Callers::is_empty")]
    pub callers: Callers,
    pub limits: Limits,
    pub check: Check,
    /// None: the jobs are the instances' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<JobsSettings>,
    /// None: the number of instances does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingSettings>,
}

/// One instance as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `s0-g7`: slot and generation.
    pub id: String,
    pub address: Address,
    pub slot: u32,
    pub generation: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub version: u32,
    pub targets: Vec<Target>,
    /// Ids of those that have just been started, and nobody has looked at: they have requests once they answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub starting: Vec<String>,
    /// The generation of all of them, also where there is none of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// From now on new requests go to these alone. What is no longer named goes on with what it has.
    Set { table: Table },
    /// Every instance that is named or still has something open.
    Status,
    /// Ends what is still open on an instance that is no longer named. Jobs that this process owns wait again or have
    /// failed, on disk, when it is answered.
    Cut { id: String },
    /// Reads the settings file again; an error leaves the old settings in force.
    Reload,
    /// Values of the gateway's own secrets, which replace those that it has. They are nowhere but in its memory.
    Secrets { secrets: Secrets },
    /// Hands the listening socket to another version of this program, which answers from then on. This
    /// process goes on with what it has, for at most `limit_ms`, and ends.
    Upgrade { program: String, limit_ms: u64 },
    /// Of the jobs, where this process owns them.
    Jobs { ask: JobsAsk },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub targets: Vec<TargetStatus>,
    /// Requests that wait for an instance.
    pub held: usize,
    /// Jobs that wait in this process; none where it does not own the jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_jobs: Option<u64>,
    /// Where the number of instances changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingView>,
    /// The answer to `Jobs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<JobsAnswer>,
}

impl Reply {
    pub fn failed(message: impl Into<String>) -> Reply {
        Reply { error: Some(message.into()), ..Reply::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    pub id: String,
    pub address: Address,
    pub generation: u64,
    /// Not in the table any more.
    pub draining: bool,
    /// Whether it has new requests; `reason` says why not.
    pub healthy: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Requests begun and not ended, upgraded connections apart.
    pub requests: u64,
    pub websockets: u64,
    /// Jobs of the gateway's own that it was given and that have not ended for the gateway.
    #[serde(default)]
    pub jobs: u64,
    pub served: u64,
    /// Answers that the gateway had to make itself (502, 504).
    pub failed: u64,
}
