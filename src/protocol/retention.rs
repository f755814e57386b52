//! What a host keeps of its services, and why: the answer to `retention`. Data alone; `host::retention` decides.
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct KeptGeneration {
    pub service: String,
    pub generation: u64,
    pub snapshot: String,
    /// Seconds since 1970; in documents of `--json` a date (RFC 3339).
    #[cfg_attr(feature = "workstation", schemars(with = "String"))]
    pub created: u64,
    /// `None`: it goes.
    pub why: Option<String>,
    /// Bytes of its closure, and of them what no other generation of this host needs.
    pub bytes: u64,
    pub own_bytes: u64,
    /// Its snapshot or its agent is not in the store any more: nothing can go back to it.
    #[serde(default)]
    pub gone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct RetentionReport {
    pub generations: Vec<KeptGeneration>,
    /// Unfinished transfers.
    pub incoming_bytes: u64,
    /// What the garbage collector freed; `None` when it was not asked to.
    pub freed_bytes: Option<u64>,
    /// What an earlier crash had left behind, and what became of it.
    #[serde(default)]
    pub tidied: Vec<String>,
    /// Services that were passed over: all of theirs is kept.
    #[serde(default)]
    pub problems: Vec<String>,
}
