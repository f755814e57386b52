//! What came of a deployment on one host, as this workstation keeps it and tells it.
use crate::protocol::messages::{Outcome, Status};
use crate::sys::error::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What came of a deployment on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostResult {
    pub host: String,
    pub status: Status,
    /// What serves now.
    pub generation: Option<u64>,
    /// Why it did not succeed; of a success, the first thing that is worth knowing. Whether it is one, `status` says.
    pub error: Option<String>,
    pub hint: Option<String>,
    /// The host has a record of its own.
    pub on_host: bool,
    /// Whether another generation serves than before; null where that is not known.
    #[serde(default)]
    pub changed: Option<bool>,
}

impl HostResult {
    /// What a host itself says.
    pub fn of(host: &str, outcome: &Outcome) -> HostResult {
        HostResult {
            host: host.into(),
            status: outcome.status,
            generation: outcome.generation,
            error: outcome.error.clone().or_else(|| outcome.warnings.first().cloned()),
            hint: outcome.hint.clone(),
            on_host: true,
            changed: Some(outcome.status == Status::Succeeded && outcome.generation != outcome.previous),
        }
    }

    /// What this workstation knows of a host that said nothing to the end.
    pub fn failed(host: &str, error: &Error, on_host: bool) -> HostResult {
        HostResult {
            host: host.into(),
            status: Status::of(error),
            generation: None,
            error: Some(error.message.clone()),
            hint: error.hint.clone(),
            on_host,
            changed: Some(false),
        }
    }

    /// The host goes on by itself, and nobody knows where to.
    pub fn unknown(host: &str, error: &Error) -> HostResult {
        HostResult { status: Status::Unknown, changed: None, ..HostResult::failed(host, error, true) }
    }
}
