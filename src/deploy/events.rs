//! What happens during a deployment, a rollback or an `attach`, as it happens. The stream that `--json` prints
//! (docs/json.md) is these types, one document a line; `stillframe schema events` prints their schema.
use crate::deploy::host_result::HostResult;
use crate::protocol::messages::{self, Act, Attempt, Back, Outcome, Serving, Stopped};
use crate::protocol::removal::Removal;
use crate::protocol::spec::Spec;
use crate::ship::send::Sent;
use crate::snapshot::report::Report;
use crate::sys::progress::Progress;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Raised when a field changes its meaning or goes away.
pub const STREAM_VERSION: u32 = 1;

/// Who is told what happens, as it happens: several hosts speak at once.
pub trait Observer: Sync {
    fn event(&self, event: &Event);

    /// Copying so many bytes to a host begins; how far it is goes to what this gives.
    fn copying(&self, host: &str, bytes: u64) -> Box<dyn Progress>;
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// A new snapshot was taken.
    Snapshot {
        version: u32,
        /// The document of `stillframe snapshot --json`.
        snapshot: Box<Report>,
    },
    /// All that can be wrong on this workstation is right.
    Begin {
        version: u32,
        /// Its id, the same on all hosts.
        deployment: String,
        #[serde(flatten)]
        goal: Goal,
        hosts: Vec<String>,
    },
    /// A host cannot be reached, or refuses.
    Unavailable { host: String, error: Failure },
    /// A host was looked at: what is about to happen there.
    Plan(Box<Planned>),
    /// A host has all paths.
    Copied { host: String, sent: Sent },
    /// The line to a host was cut while it worked: it is asked again for a while.
    Lost { host: String, error: Failure },
    /// What the removal of the service takes from a host, and what stays there.
    Removal { host: String, removal: Box<Removal> },
    /// What a host's store has let go of, in bytes.
    Freed { host: String, bytes: u64 },
    /// A step on a host.
    Event { host: String, event: messages::Event },
    /// The deployment that `attach` follows on a host.
    Attempt { version: u32, host: String, attempt: Attempt },
    /// The last line.
    Result(Ended),
}

/// Where hosts are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Goal {
    Snapshot {
        /// The store path.
        snapshot: String,
        id: String,
        label: Option<String>,
    },
    Rollback {
        rollback: Back,
    },
    /// The service as a whole.
    Act {
        act: Act,
    },
}

/// What is about to happen on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Planned {
    pub host: String,
    /// What serves there; null before the first deployment.
    pub serving: Option<Serving>,
    /// Nothing serves, because somebody stopped it: this starts the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    pub missing_paths: usize,
    pub missing_bytes: u64,
    /// Of the missing paths, those that the host had with other files than they must have.
    #[serde(default)]
    pub wrong_paths: usize,
    /// All paths of the closure.
    pub paths: usize,
    pub spec: Spec,
    /// What changes against what serves, a line each.
    pub changes: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Ended {
    /// Of a deployment or a rollback.
    Deployment {
        deployment: String,
        /// How many hosts.
        failed: usize,
        seconds: f64,
        hosts: Vec<HostResult>,
    },
    DryRun {
        /// Always true.
        dry_run: bool,
        failed: usize,
    },
    /// Of `attach`.
    Attached { failed: usize, hosts: Vec<Attached> },
}

/// What `attach` heard of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Attached {
    Followed {
        host: String,
        attempt: Box<Attempt>,
        /// Null where the line ended before the attempt did.
        outcome: Option<Outcome>,
    },
    Lost {
        host: String,
        error: Failure,
    },
}

/// An error as documents and streams have it.
pub type Failure = crate::sys::error::Report;

/// A line of the stream: an event, or the error that ended it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Line {
    Event(Box<Event>),
    Error { error: Failure },
}

impl Line {
    /// None of a line that is no document of ours: other programs print to the same file.
    pub fn read(text: &str) -> Option<Line> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
