//! What `jobs` and its subcommands print. Times of jobs are milliseconds since 1970.
use crate::protocol::deliveries::DeliveryRow;
use crate::protocol::jobs::{JobActed, JobDetail, JobRow};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize, JsonSchema)]
pub struct Jobs {
    /// The newest first.
    pub jobs: Vec<JobRow>,
    /// How many fit what was asked for, shown or not.
    pub total: u64,
    /// How many of all wait in the gateway, and how many are with instances.
    pub waiting: u64,
    pub running: u64,
}

#[derive(Serialize, JsonSchema)]
pub struct JobShown {
    /// Null where the host knows no such job.
    pub job: Option<JobDetail>,
}

#[derive(Serialize, JsonSchema)]
pub struct JobsCancelled {
    /// What became of each that was named; with `--waiting`, of each that waited.
    pub cancelled: Vec<JobActed>,
}

#[derive(Serialize, JsonSchema)]
pub struct JobsRequeued {
    pub requeued: Vec<JobActed>,
}

#[derive(Serialize, JsonSchema)]
pub struct JobDeliveries {
    /// The newest first.
    pub deliveries: Vec<DeliveryRow>,
    /// How many fit what was asked for, shown or not.
    pub total: u64,
    /// How many of all wait, and how many were given up and are kept.
    pub waiting: u64,
    pub failed: u64,
}

#[derive(Serialize, JsonSchema)]
pub struct DeliveriesRetried {
    /// What became of each that was named; with `--failed`, of each that had been given up.
    pub retried: Vec<JobActed>,
}

#[derive(Serialize, JsonSchema)]
pub struct BackedUp {
    pub host: String,
    /// A SQLite database.
    pub file: PathBuf,
    pub bytes: u64,
}

/// A line of `jobs export`.
#[derive(Serialize, JsonSchema)]
pub struct JobLine {
    pub host: String,
    #[serde(flatten)]
    pub job: JobDetail,
}

/// A line of `jobs --watch`: a job that is new or in another state.
#[derive(Serialize, JsonSchema)]
pub struct JobChange {
    pub host: String,
    #[serde(flatten)]
    pub job: JobRow,
}
