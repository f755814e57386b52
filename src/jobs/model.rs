//! What a job is, and which state follows which. *Lost* is no state: what had not ended when its instance did
//! waits again, or has failed with the reason of each try.
//!
//! State, try, reason and keeping are the protocol's: what is told of a job is what is known of it.
pub use crate::protocol::jobs::{
    JobReason as Reason, JobReasonKind as ReasonKind, JobState as State, JobTry as Try, Keep,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Milliseconds since 1970-01-01 UTC.
pub type Time = u64;

impl State {
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
    /// A client or an operator has taken it back, and its instance has not ended it yet.
    pub cancelled: bool,
    /// Tries that ended without an end of the job, oldest first.
    pub tries: Vec<Try>,
    /// Why it failed or was cancelled.
    pub reason: Option<Reason>,
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

/// A body as it is kept: what is only shown is not taken apart.
#[derive(Debug, Deserialize)]
pub struct BodyText<'a> {
    #[serde(borrow)]
    pub prompt: &'a RawValue,
    #[serde(borrow)]
    pub extra_data: &'a RawValue,
    #[serde(borrow, default)]
    pub outputs_to_execute: Option<&'a RawValue>,
}

/// What is left of a job that an instance ended: the entry of its `/history`, as it stands there.
pub type History = Value;
