//! What a job is, and which state follows which. *Lost* is no state: what had not ended when its instance did
//! waits again, or has failed with the reason of each try.
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Milliseconds since 1970-01-01 UTC.
pub type Time = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In the gateway alone.
    Queued,
    /// Given to an instance, or about to be: which one is on disk before the instance is told.
    Dispatched,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// It waited longer than it may.
    Expired,
}

impl State {
    pub const ALL: [State; 7] = [
        State::Queued,
        State::Dispatched,
        State::Running,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
        State::Expired,
    ];

    pub fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Dispatched => "dispatched",
            State::Running => "running",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
        }
    }

    pub fn of_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }

    pub fn is_over(self) -> bool {
        !matches!(self, State::Queued | State::Dispatched | State::Running)
    }

    /// Whether `next` may follow. An end is final.
    pub fn may_become(self, next: State) -> bool {
        match self {
            State::Queued => {
                matches!(next, State::Dispatched | State::Failed | State::Cancelled | State::Expired)
            }
            State::Dispatched | State::Running => next != State::Expired && next != self,
            _ => false,
        }
    }
}

/// Whose a job is, for fairness, limits and "the caller's own": a digest of the API key, else the client's id,
/// else the client's address. Never the key itself.
pub type Owner = String;

/// A job without the bodies that only an instance or a reader of its history needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// ComfyUI's `prompt_id`.
    pub id: String,
    /// The order of acceptance, from 1; never given twice.
    pub seq: u64,
    /// ComfyUI's `number`: lower runs sooner among the jobs of one owner.
    pub number: f64,
    /// Higher runs sooner, whoever's it is.
    pub priority: i32,
    pub owner: Owner,
    /// ComfyUI's `client_id`: whose WebSocket hears of it.
    pub client: Option<String>,
    /// `extra_data.extra_pnginfo.workflow.id`, by which `/api/jobs` filters.
    pub workflow: Option<String>,
    /// SHA-256 of what was asked for: the same id with another sum is a conflict.
    pub sum: [u8; 32],
    /// Of the models that it names; an instance that has just run them has them in memory.
    pub warmth: u64,
    /// Whether it may be tried again after its instance died.
    pub retry: bool,
    pub state: State,
    pub accepted: Time,
    /// When it was given to the instance that has it or had it last; a try begins then.
    pub dispatched: Option<Time>,
    pub started: Option<Time>,
    pub ended: Option<Time>,
    /// Where it is or was last: `s0-g7`.
    pub instance: Option<String>,
    pub generation: Option<u64>,
    /// Tries that ended without an end of the job, oldest first.
    pub tries: Vec<Try>,
    /// Why it failed or was cancelled.
    pub reason: Option<Reason>,
}

/// One try that its instance did not live to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Try {
    pub instance: String,
    pub generation: u64,
    pub began: Time,
    pub ended: Time,
    pub reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub kind: ReasonKind,
    pub message: String,
    /// What the instance answered or its history says, where that says more: `{"error": …, "node_errors": …}` of
    /// a refusal, `execution_error`'s data of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// What programs decide by; the message is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonKind {
    /// The instance did not take it: an unknown class, a bad input.
    Refused,
    /// A node raised an exception.
    NodeFailed,
    /// The same, and the GPU had no memory left.
    OutOfMemory,
    /// Interrupted or cancelled by a client or an operator.
    Interrupted,
    /// The instance's process ended while it had the job.
    InstanceDied,
    /// No progress and no answer for longer than may be.
    InstanceStuck,
    /// The instance had to be stopped before the job was over.
    Drained,
    /// The instance no longer knows of it.
    Forgotten,
    /// As many tries as there may be have ended like this.
    TriesUsedUp,
}

/// What an instance is given, and `/queue` and `/history` show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// The node graph.
    pub prompt: Value,
    pub extra_data: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial_execution_targets: Option<Value>,
    /// The output nodes that an instance's validation found; `/queue` and `/history` show them.
    #[serde(default)]
    pub outputs_to_execute: Vec<Value>,
    /// Members of the request that we do not know, for packs that read them.
    #[serde(default)]
    pub others: serde_json::Map<String, Value>,
}

/// What is left of a job that an instance ended: the entry of its `/history`, as it stands there.
pub type History = Value;

/// What is kept of jobs that have ended: whatever is beyond one of these goes, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    pub age_ms: u64,
    pub count: u64,
    /// Of bodies and histories together.
    pub bytes: u64,
}
