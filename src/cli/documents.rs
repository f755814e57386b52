//! The documents of `--json`: a type for each, and by that its schema (`stillframe schema NAME`) and its part of docs/json.md. A
//! command prints nothing else: the printer takes only what is a document here. Streams are `deploy/events`.
use crate::capture::model::lock::Lock;
use crate::capture::model::used::{Proposal, Used};
use crate::closure::diff::Diff;
use crate::closure::registry::Record;
use crate::closure::verify;
use crate::deploy::drift::Standing;
use crate::deploy::events::Line;
use crate::deploy::host_result::HostResult;
use crate::formats::comfy::description::Description;
use crate::protocol::messages::{self, AttemptKind, Holder};
use crate::protocol::overview::{HostView, InstanceView};
use crate::protocol::retention::RetentionReport;
use crate::protocol::scaling::ScalingView;
use crate::snapshot::report::Report;
use crate::sys::clock;
use crate::sys::error;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

mod environment;
mod host;
mod jobs;

pub use environment::{Audit, Distribution, Inspected, Locked, MainProgram, Pack, Python, Sized};
pub use host::{
    CheckedHost, Described, DescribedHost, DrainedHost, HostAdded, HostForgotten, Prepared, RenamedHost,
    RepairedHost, Retired, SentHost,
};
pub use jobs::{
    BackedUp, DeliveriesRetried, JobChange, JobDeliveries, JobLine, JobShown, Jobs, JobsCancelled,
    JobsRequeued,
};

/// Raised when a field of one changes its meaning or goes away.
const VERSION: u32 = 1;

/// What a command prints with `--json`.
pub trait Document: Serialize + JsonSchema {
    /// By which `stillframe schema` knows it.
    const NAME: &'static str;
}

/// As it is printed.
#[derive(Serialize, JsonSchema)]
pub struct Versioned<'a, T> {
    /// Raised when a field changes its meaning or goes away.
    version: u32,
    #[serde(flatten)]
    document: &'a T,
}

impl<'a, T: Document> Versioned<'a, T> {
    pub fn of(document: &'a T) -> Self {
        Versioned { version: VERSION, document }
    }
}

/// What each host said.
#[derive(Serialize, JsonSchema)]
pub struct Hosts<T> {
    pub hosts: Vec<Answer<T>>,
    /// How many did not answer, or are not as they should be: the exit status is 1 where there are any.
    pub failed: usize,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Answer<T> {
    Said(Said<T>),
    Lost(Lost),
}

#[derive(Serialize, JsonSchema)]
pub struct Said<T> {
    pub host: String,
    #[serde(flatten)]
    pub said: T,
}

/// A host that did not answer.
#[derive(Serialize, JsonSchema)]
pub struct Lost {
    pub host: String,
    pub error: error::Report,
}

impl<T> Answer<T> {
    pub fn said(host: &str, said: T) -> Answer<T> {
        Answer::Said(Said { host: host.into(), said })
    }

    pub fn lost(host: &str, error: &error::Error) -> Answer<T> {
        Answer::Lost(Lost { host: host.into(), error: error.report() })
    }
}

/// What ended a command.
#[derive(Serialize, JsonSchema)]
pub struct Failed {
    pub error: error::Report,
}

#[derive(Serialize, JsonSchema)]
pub struct Snapshots {
    pub snapshots: Vec<Record>,
}

#[derive(Serialize, JsonSchema)]
pub struct Shown {
    pub record: Record,
    pub lock: Lock,
}

#[derive(Serialize, JsonSchema)]
pub struct Verified {
    pub id: String,
    /// Every hash is what was recorded.
    pub verified: bool,
    pub report: verify::Report,
}

#[derive(Serialize, JsonSchema)]
pub struct Removed {
    /// The id.
    pub removed: String,
    /// The store path.
    pub snapshot: String,
}

/// An instance in the foreground that answers.
#[derive(Serialize, JsonSchema)]
pub struct Running {
    pub id: String,
    pub url: String,
    pub pid: Option<u32>,
    pub ready_ms: u64,
    /// What the instance sees, and may write.
    pub slot: String,
    /// Where input, output and user data are kept.
    pub base: String,
}

/// What an instance in the foreground used of this machine, once it has ended.
#[derive(Serialize, JsonSchema)]
pub struct UsedHere {
    pub id: String,
    pub used: Used,
    /// What to write into stillframe.toml for it.
    pub lines: Vec<Proposal>,
}

#[derive(Serialize, JsonSchema)]
pub struct Detached {
    pub deployment: String,
    pub detached: bool,
    pub log: PathBuf,
}

#[derive(Serialize, JsonSchema)]
pub struct Drift {
    pub hosts: Vec<Standing>,
    /// How many do not run what they should: the exit status is 1 where there are any.
    pub drifted: usize,
}

#[derive(Serialize, JsonSchema)]
pub struct Cancelled {
    /// The deployment that is told to stop.
    pub cancelled: Holder,
}

#[derive(Serialize, JsonSchema)]
pub struct Scaled {
    pub scaling: ScalingView,
}

#[derive(Serialize, JsonSchema)]
pub struct Unlocked {
    /// Who had the lock; null where nobody did.
    pub unlocked: Option<Holder>,
}

#[derive(Serialize, JsonSchema)]
pub struct Status {
    #[schemars(with = "HostView")]
    pub view: Value,
}

#[derive(Serialize, JsonSchema)]
pub struct Instances {
    pub instances: Vec<InstanceView>,
}

#[derive(Serialize, JsonSchema)]
pub struct History {
    /// Newest first.
    pub deployments: Vec<Deployment>,
    /// Hosts that did not answer.
    pub failed: Vec<Lost>,
}

#[derive(Serialize, JsonSchema)]
pub struct Deployment {
    /// The same on all hosts.
    pub deployment: String,
    pub kind: AttemptKind,
    /// `user@workstation`.
    pub by: String,
    /// Milliseconds since 1970.
    pub began: u64,
    pub snapshot: Option<String>,
    pub hosts: Vec<Part>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Part {
    /// As the host recorded it.
    Recorded { host: String, record: Box<messages::Record> },
    /// As this workstation knows it, of a host that was never reached.
    Unrecorded { host: String, unrecorded: HostResult },
}

/// A line of a log.
#[derive(Serialize, JsonSchema)]
pub struct LogLine {
    pub host: String,
    /// systemd's journal has it in JSON, and this is that.
    pub entry: Value,
}

/// A service with another name.
#[derive(Serialize, JsonSchema)]
pub struct RenamedService {
    pub from: String,
    pub to: String,
    /// The file that says so now; null where a host failed, or where no file of the project does.
    pub file: Option<PathBuf>,
    #[serde(flatten)]
    pub hosts: Hosts<RenamedHost>,
}

#[derive(Serialize, JsonSchema)]
pub struct Retained {
    #[schemars(with = "RetentionReport")]
    pub report: Value,
}

#[derive(Serialize, JsonSchema)]
pub struct SentTo {
    /// The store path.
    pub snapshot: String,
    /// How many paths it needs.
    pub paths: usize,
    pub dry_run: bool,
    #[serde(flatten)]
    pub hosts: Hosts<SentHost>,
}

#[derive(Serialize, JsonSchema)]
pub struct Doctor {
    pub looks: Vec<Look>,
    /// How many problems there are: the exit status is 1 where there are any.
    pub failed: usize,
}

#[derive(Serialize, JsonSchema)]
pub struct Look {
    pub what: &'static str,
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<error::Report>,
}

#[derive(Serialize, JsonSchema)]
pub struct Codes {
    pub codes: Vec<Code>,
}

#[derive(Serialize, JsonSchema)]
pub struct Code {
    pub code: &'static str,
    /// What says it: an error, a line of the report, or the gateway.
    pub by: &'static str,
    pub means: &'static str,
    pub to_do: &'static str,
}

#[derive(Serialize, JsonSchema)]
pub struct Imported {
    /// Addresses are without credentials.
    #[schemars(with = "Description")]
    pub description: Value,
    /// The folder of the environment that was made.
    pub made: Option<PathBuf>,
}

#[derive(Serialize, JsonSchema)]
pub struct Initialised {
    pub project: PathBuf,
    pub environment: PathBuf,
    /// Relative to the project.
    pub written: Vec<PathBuf>,
    /// Hosts of an earlier project, whose files have other names now.
    pub put_aside: Vec<PathBuf>,
}

#[derive(Serialize, JsonSchema)]
pub struct Pages {
    pub written: Vec<String>,
}

macro_rules! documents {
    ($($name:literal $type:ty;)+) => {
        $(impl Document for $type {
            const NAME: &'static str = $name;
        })+

        /// Their names.
        pub const NAMES: &[&str] = &[$($name),+];

        /// The schema of one of them.
        pub fn schema(name: &str) -> Option<Value> {
            match name {
                $($name => Some(schema_of::<Versioned<'_, $type>>()),)+
                "snapshot" => Some(schema_of::<Report>()),
                "error" => Some(schema_of::<Failed>()),
                "logs" => Some(schema_of::<LogLine>()),
                "jobs-export" => Some(schema_of::<JobLine>()),
                "jobs-watch" => Some(schema_of::<JobChange>()),
                "events" => Some(schema_of::<Line>()),
                _ => None,
            }
        }
    };
}

documents! {
    "cancel" Hosts<Cancelled>;
    "deploy-detach" Detached;
    "doctor" Doctor;
    "drift" Drift;
    "explain" Codes;
    "history" History;
    "host-add" HostAdded;
    "host-check" Hosts<CheckedHost>;
    "host-drain" Hosts<DrainedHost>;
    "host-list" Described;
    "host-prepare" Hosts<Prepared>;
    "host-remove" HostForgotten;
    "host-repair" Hosts<RepairedHost>;
    "host-retire" Hosts<Retired>;
    "host-send" SentTo;
    "import" Imported;
    "init" Initialised;
    "inspect" Inspected;
    "instances" Hosts<Instances>;
    "jobs" Hosts<Jobs>;
    "jobs-backup" BackedUp;
    "jobs-cancel" Hosts<JobsCancelled>;
    "jobs-deliveries" Hosts<JobDeliveries>;
    "jobs-deliveries-retry" Hosts<DeliveriesRetried>;
    "jobs-requeue" Hosts<JobsRequeued>;
    "jobs-show" Hosts<JobShown>;
    "lock" Locked;
    "man" Pages;
    "rename" RenamedService;
    "retention" Hosts<Retained>;
    "run" Running;
    "run-used" UsedHere;
    "scale" Hosts<Scaled>;
    "snapshots-diff" Diff;
    "snapshots-list" Snapshots;
    "snapshots-remove" Removed;
    "snapshots-show" Shown;
    "snapshots-verify" Verified;
    "status" Hosts<Status>;
    "unlock" Hosts<Unlocked>;
}

/// Without a version of ours: what says its own, errors, and lines of streams.
pub const OTHERS: &[&str] = &["error", "events", "jobs-export", "jobs-watch", "logs", "snapshot"];

/// Dates as every document has them: hosts say seconds.
pub fn with_dates(mut value: Value, list: &str) -> Value {
    for item in value[list].as_array_mut().into_iter().flatten() {
        if let Some(created) = item["created"].as_u64() {
            item["created"] = clock::rfc3339(created).into();
        }
    }
    value
}

fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>().to_value()
}
