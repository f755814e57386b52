//! Jobs as the gateway, the agent and the workstation speak of them: what a service asks of a gateway that owns
//! them, and what that gateway tells of each.
use crate::protocol::deliveries::{Deliveries, DeliveryRow, DeliveryState, JobUpload};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// How a gateway keeps the jobs of its service. A service without it leaves them to its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// How many may wait, and of one client.
    pub waiting: u64,
    pub waiting_per_client: u64,
    /// How often a job is begun before it has failed.
    pub tries: u32,
    pub drain_running: DrainRunning,
    /// Without progress and without an answer of its instance for so long, a job is tried elsewhere.
    pub stuck_ms: u64,
    /// What waits longer has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_ms: Option<u64>,
    pub keep: Keep,
    /// None: nothing is sent to anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Deliveries>,
}

/// What becomes of a job that still runs when the drain limit of its instance has passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DrainRunning {
    /// It is interrupted and waits again.
    #[default]
    Requeue,
    /// It is interrupted and has failed.
    Fail,
}

/// What is kept of jobs that have ended: whatever is beyond one of these goes, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "KeptJobs"))]
#[serde(deny_unknown_fields)]
pub struct Keep {
    pub age_ms: u64,
    pub count: u64,
    /// Of prompts and histories together, as they are stored.
    pub bytes: u64,
}

impl Default for Jobs {
    fn default() -> Self {
        Jobs {
            waiting: 10_000,
            waiting_per_client: 1_000,
            tries: 3,
            drain_running: DrainRunning::Requeue,
            stuck_ms: 600_000,
            expire_ms: None,
            keep: Keep { age_ms: 30 * 86_400_000, count: 100_000, bytes: 10 << 30 },
            deliveries: None,
        }
    }
}

/// The same for the gateway's own process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobsSettings {
    /// The database. Its folder is there and is the gateway's own (systemd's StateDirectory=).
    pub file: PathBuf,
    pub rules: Jobs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// In the gateway alone.
    Queued,
    /// Given to an instance, or about to be.
    Dispatched,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// It waited longer than it may.
    Expired,
}

impl JobState {
    pub const ALL: [JobState; 7] = [
        JobState::Queued,
        JobState::Dispatched,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Expired,
    ];
    pub const OVER: [JobState; 4] =
        [JobState::Succeeded, JobState::Failed, JobState::Cancelled, JobState::Expired];

    pub fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Dispatched => "dispatched",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Expired => "expired",
        }
    }

    pub fn of_name(name: &str) -> Option<JobState> {
        JobState::ALL.into_iter().find(|state| state.name() == name)
    }

    pub fn is_over(self) -> bool {
        JobState::OVER.contains(&self)
    }
}

/// Why a try or a job ended as it did: programs decide by the kind, the message is for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct JobReason {
    pub kind: JobReasonKind,
    pub message: String,
    /// What the instance said, where that says more: `{"error": …, "node_errors": …}` of a refusal,
    /// `execution_error`'s data of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum JobReasonKind {
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
    /// The GPU, or this process's access to it, failed: nothing runs there until the process is another one.
    GpuFailed,
    /// The instance had to be stopped before the job was over.
    Drained,
    /// The instance no longer knows of it.
    Forgotten,
    /// As many tries as there may be have ended like this.
    TriesUsedUp,
    /// One that this program does not know: the host's is newer.
    #[serde(other)]
    Other,
}

impl JobReasonKind {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            JobReasonKind::Refused => "refused by the instance",
            JobReasonKind::NodeFailed => "a node failed",
            JobReasonKind::OutOfMemory => "the GPU had no memory left",
            JobReasonKind::Interrupted => "interrupted",
            JobReasonKind::InstanceDied => "the instance ended",
            JobReasonKind::InstanceStuck => "the instance was stuck",
            JobReasonKind::GpuFailed => "the GPU failed",
            JobReasonKind::Drained => "the instance had to be stopped",
            JobReasonKind::Forgotten => "the instance no longer knew of it",
            JobReasonKind::TriesUsedUp => "all tries are used up",
            JobReasonKind::Other => "another reason",
        }
    }
}

/// One try that its instance did not live to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct JobTry {
    pub instance: String,
    pub generation: u64,
    /// Milliseconds since 1970.
    pub began: u64,
    pub ended: u64,
    pub reason: JobReason,
}

/// A job without its bodies. Times in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct JobRow {
    /// ComfyUI's `prompt_id`.
    pub id: String,
    /// The order of acceptance, from 1.
    pub seq: u64,
    pub state: JobState,
    /// Higher runs sooner.
    pub priority: i32,
    /// ComfyUI's `number`: lower runs sooner among the jobs of one owner.
    pub number: f64,
    /// Whose it is: a digest of the API key, else the client's id, else the client's address.
    pub owner: String,
    /// ComfyUI's `client_id`.
    pub client: Option<String>,
    pub workflow: Option<String>,
    pub accepted: u64,
    pub started: Option<u64>,
    pub ended: Option<u64>,
    /// Where it is or was last: `s0-g7`.
    pub instance: Option<String>,
    pub generation: Option<u64>,
    /// Tries that ended without an end of the job, oldest first.
    pub tries: Vec<JobTry>,
    /// Why it failed or was cancelled.
    pub reason: Option<JobReason>,
    /// Of one that waits: how many run before it.
    pub position: Option<u64>,
    /// What it waits for besides its turn, while no instance is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

/// A job with its bodies, as far as they are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct JobDetail {
    #[serde(flatten)]
    pub row: JobRow,
    /// The node graph.
    pub prompt: Option<Value>,
    /// As it was sent, without what is secret in it.
    pub extra_data: Option<Value>,
    /// The entry of ComfyUI's `/history`: outputs, status, messages.
    pub history: Option<Value>,
    /// Its files on their way to where files go, or there.
    #[serde(default)]
    pub uploads: Vec<JobUpload>,
}

/// In which order jobs are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobsOrder {
    /// The newest first.
    #[default]
    Accepted,
    /// Whatever ended last first; what has not ended comes last.
    Ended,
}

/// What a gateway can be asked of its jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum JobsAsk {
    List {
        /// Empty: all.
        #[serde(default)]
        states: Vec<JobState>,
        #[serde(default)]
        owner: Option<String>,
        #[serde(default)]
        order: JobsOrder,
        #[serde(default)]
        offset: u64,
        limit: u64,
    },
    Show {
        id: String,
    },
    /// Ends these; with `waiting`, all that wait.
    Cancel {
        #[serde(default)]
        ids: Vec<String>,
        #[serde(default)]
        waiting: bool,
    },
    /// What has ended waits again, as if it were new.
    Requeue {
        ids: Vec<String>,
    },
    /// The next jobs by `seq`, with their bodies: at most `limit`, and no more once they have about 8 MiB together.
    Export {
        after: u64,
        limit: u64,
        /// Accepted then or later, in milliseconds since 1970.
        #[serde(default)]
        since: Option<u64>,
    },
    /// A consistent copy of the database into a file that is not there yet, beside the database itself: this
    /// process may write nowhere else.
    Backup {
        to: PathBuf,
    },
    /// Webhooks and uploads, the newest first.
    Deliveries {
        /// Empty: all.
        #[serde(default)]
        states: Vec<DeliveryState>,
        #[serde(default)]
        job: Option<String>,
        limit: u64,
    },
    /// Those that wait are tried at once, those that were given up as if they were new; with `failed`, all that were.
    Redeliver {
        #[serde(default)]
        ids: Vec<String>,
        #[serde(default)]
        failed: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum JobsAnswer {
    List {
        jobs: Vec<JobRow>,
        /// How many there are without offset and limit.
        total: u64,
        /// How many wait, and how many are with instances, of all.
        waiting: u64,
        running: u64,
    },
    Show {
        /// None: no such job is known.
        job: Option<Box<JobDetail>>,
    },
    /// Of `Cancel`, `Requeue` and `Redeliver`, one for each job that was named.
    Acted { jobs: Vec<JobActed> },
    Export {
        jobs: Vec<JobDetail>,
        /// The `after` of the next page; none: this was the last.
        next: Option<u64>,
    },
    /// The copy is on disk.
    BackedUp { bytes: u64 },
    Deliveries {
        deliveries: Vec<DeliveryRow>,
        /// How many there are without the limit.
        total: u64,
        /// How many of all wait, and how many were given up.
        waiting: u64,
        failed: u64,
    },
}

/// What became of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct JobActed {
    pub id: String,
    pub done: bool,
    /// Why not: "no such job", "it has ended".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What the agent sends a line at a time, where an answer is long or goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum JobsLine {
    /// Of an export.
    Job { job: Box<JobDetail> },
    /// Of what is followed: a job that is new or in another state.
    Changed { job: Box<JobRow> },
    /// An export is whole, and had so many.
    End { jobs: u64 },
    /// So many bytes of a database follow, and nothing after them.
    Backup { bytes: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_the_serialised_ones() {
        for state in JobState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
            assert_eq!(JobState::of_name(state.name()), Some(state));
        }
        let newer: JobReasonKind = serde_json::from_value(json!("melted")).unwrap();
        assert_eq!(newer, JobReasonKind::Other);
    }

    #[test]
    fn a_question_may_leave_out_what_it_does_not_ask() {
        let ask: JobsAsk = serde_json::from_value(json!({"ask": "list", "limit": 3})).unwrap();
        let order = JobsOrder::Accepted;
        assert_eq!(ask, JobsAsk::List { states: vec![], owner: None, order, offset: 0, limit: 3 });
        assert!(serde_json::from_value::<JobsAsk>(json!({"ask": "list", "limit": 3, "x": 1})).is_err());
    }
}
