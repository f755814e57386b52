//! What a host says of itself when it is asked: its services, their instances and generations, and who deploys.
//! Data alone; `host::overview` puts it together.
use crate::protocol::maintenance::Maintenance;
use crate::protocol::messages::{Holder, Project, Stopped};
use crate::protocol::scaling::ScalingView;
use crate::sys::address::Address;
use crate::sys::error::Report;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

pub const OVERVIEW_VERSION: u32 = 1;

/// How an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It runs and does not answer yet.
    Starting,
    Healthy,
    /// It runs, answered once, and does not now.
    Unhealthy,
    /// It has no new requests and finishes what it has.
    Draining,
    /// It ended and is started again.
    Restarting,
    Stopped,
    Failed,
}

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Condition::Starting => "starting",
            Condition::Healthy => "healthy",
            Condition::Unhealthy => "unhealthy",
            Condition::Draining => "draining",
            Condition::Restarting => "restarting",
            Condition::Stopped => "stopped",
            Condition::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct InstanceView {
    /// `s0-g7`.
    pub id: String,
    pub unit: String,
    pub generation: u64,
    pub slot: u32,
    pub gpus: Vec<String>,
    /// Where it listens: a Unix socket, or `IP:PORT` for an instance that an earlier agent deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    pub condition: Condition,
    /// Why it has no requests, in the gateway's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since its start, in seconds.
    pub age_s: Option<u64>,
    pub restarts: u64,
    /// Jobs that wait or run in it.
    pub queue: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub requests: u64,
    pub websockets: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct GenerationView {
    pub generation: u64,
    pub snapshot: String,
    /// Seconds since 1970; in documents of `--json` a date (RFC 3339).
    #[cfg_attr(feature = "workstation", schemars(with = "String"))]
    pub created: u64,
    pub attempt: u64,
    pub before: Option<u64>,
    /// Its snapshot or its agent is not in the store any more: nothing can go back to it.
    #[serde(default)]
    pub gone: bool,
    /// Of the one that serves, or did when the service was stopped: whose deployment brought it, where its record says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought: Option<Brought>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Brought {
    /// `user@workstation`.
    pub by: String,
    pub project: Project,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct ServiceView {
    pub service: String,
    pub serving: Option<u64>,
    /// Nothing serves, because somebody stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    pub address: Option<SocketAddr>,
    /// What the scaling policy asks for, and how many of them have requests.
    pub wanted: u32,
    pub ready: u32,
    /// Requests that wait for an instance.
    pub held: u64,
    /// Jobs that wait in the gateway; none where the instances have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_jobs: Option<u64>,
    /// How the number of instances changes; none where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingView>,
    /// Why the gateway does not answer, if it does not.
    pub gateway_error: Option<String>,
    pub instances: Vec<InstanceView>,
    pub generations: Vec<GenerationView>,
    /// The deployment under way, and whether its activation has begun.
    pub deployment: Option<Holder>,
    pub activating: bool,
    /// What is wrong with the state: where it cannot be read at all, nothing else is known of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What came of the repair of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Repaired {
    pub service: String,
    pub done: Vec<String>,
    pub error: Option<Report>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct HostView {
    pub version: u32,
    pub agent: String,
    pub services: Vec<ServiceView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}
