//! The workstation's engine: takes a snapshot to its hosts, and back again, over one conversation with each.
//! It prints nothing: whoever calls it is told by typed events (`events`), and gives what it needs as values.
//!
//! ```text
//! fleet ─▶ plan (a host's way up to its activation) ─▶ rollout (stage by stage) ─▶ records
//! ```
pub mod again;
pub mod changes;
mod copying;
pub mod deployment;
pub mod detach;
pub mod drift;
pub mod events;
pub mod fleet;
pub mod history;
pub mod host_result;
pub mod jobs;
pub mod life;
pub mod look;
pub mod maintenance;
mod one_order;
pub mod own_command;
pub mod plan;
pub mod prepare;
pub mod project;
pub mod questions;
pub mod records;
pub mod renaming;
pub mod rollback;
pub mod rollout;
pub mod send;
#[cfg(test)]
#[path = "simulated_fleet_tests.rs"]
mod simulated_fleet;
pub mod stages;
pub mod values;
