//! The conversation of a deployment: what the workstation tells `stillframe-agent order` and hears from it,
//! one JSON document a line; and the host's record of each attempt, which `attach` and `history` show.
//!
//! ```text
//! begin ─▶ held (or busy) ─▶ copying … ─▶ activate ─▶ event … ─▶ outcome ─▶ end (or take-back)
//! ```
//!
//! The host holds the service's lease as long as the conversation lives, and the activation holds it when
//! that ends earlier.
use crate::protocol::spec::Wanted;
use crate::sys::error::{self, Error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

pub const ORDERS_VERSION: u32 = 1;
/// Of an attempt's record, on a host's disk and in its answers.
pub const RECORD_VERSION: u32 = 1;

/// A workstation that was silent for so long is gone: a cut network says nothing.
pub const SILENCE_MS: u64 = 30_000;
/// So it says something this often.
pub const ALIVE_MS: u64 = 5_000;

/// Where an attempt is: what a user of an online service sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Queued,
    Copying,
    Starting,
    Checking,
    Rotating,
    Draining,
    Succeeded,
    Failed,
    Reverted,
    Cancelled,
    Interrupted,
    /// Of a workstation alone: the line to the host was cut, and what came of it is not known.
    Unknown,
}

impl Status {
    /// How an attempt ended that this error ended.
    pub fn of(error: &Error) -> Status {
        match error.kind {
            error::Kind::Interrupted => Status::Cancelled,
            _ => Status::Failed,
        }
    }

    pub fn is_final(self) -> bool {
        self >= Status::Succeeded
    }

    pub fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Copying => "copying",
            Status::Starting => "starting",
            Status::Checking => "checking",
            Status::Rotating => "rotating",
            Status::Draining => "draining",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Reverted => "reverted",
            Status::Cancelled => "cancelled",
            Status::Interrupted => "interrupted",
            Status::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "Purpose"))]
#[serde(rename_all = "kebab-case")]
pub enum AttemptKind {
    Deploy,
    Rollback,
    /// Another host of the same deployment failed.
    TakeBack,
    /// How many instances run: nothing is deployed.
    Scale,
    /// Its instances one after the other, of the generation that serves.
    Restart,
    Stop,
    Start,
    Remove,
    /// The service has another name.
    Rename,
}

impl AttemptKind {
    pub fn name(self) -> &'static str {
        match self {
            AttemptKind::Deploy => "deploy",
            AttemptKind::Rollback => "rollback",
            AttemptKind::TakeBack => "take-back",
            AttemptKind::Scale => "scale",
            AttemptKind::Restart => "restart",
            AttemptKind::Stop => "stop",
            AttemptKind::Start => "start",
            AttemptKind::Remove => "remove",
            AttemptKind::Rename => "rename",
        }
    }

    /// Whether it says what a host should serve from then on.
    pub fn brings(self) -> bool {
        matches!(self, AttemptKind::Deploy | AttemptKind::Rollback | AttemptKind::TakeBack)
    }
}

/// Who began an attempt, and what for: the first line of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Attempt {
    pub version: u32,
    pub attempt: u64,
    pub service: String,
    /// The same on all hosts of a deployment.
    pub deployment: String,
    pub kind: AttemptKind,
    /// `user@workstation`.
    pub by: String,
    /// The snapshot's store path; not known yet for a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// All hosts of the deployment, by name.
    pub hosts: Vec<String>,
    /// Milliseconds since 1970.
    pub began: u64,
    /// Whose service it is to be; none in records of before there were projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
    /// Also where it is another project's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_over: bool,
}

/// A project, as its hosts know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Project {
    /// Random, and the same in every checkout.
    pub id: String,
    /// Where it was deployed from, for people.
    pub folder: String,
}

impl Attempt {
    /// As a workstation asks for it: the host gives it its number, its version and its time.
    pub fn asked(deployment: &str, kind: AttemptKind, service: &str, by: &str, hosts: &[String]) -> Attempt {
        Attempt {
            version: 0,
            attempt: 0,
            service: service.into(),
            deployment: deployment.into(),
            kind,
            by: by.into(),
            snapshot: None,
            label: None,
            hosts: hosts.to_vec(),
            began: 0,
            project: None,
            take_over: false,
        }
    }
}

impl Project {
    /// The error where an attempt for `other` would change a service of this project, which `brought_by` brought.
    pub fn keeps(
        &self,
        brought_by: &str,
        service: &str,
        other: &Project,
        attempt: &Attempt,
    ) -> Option<Error> {
        let (mine, theirs, by) = (&self.folder, &other.folder, &attempt.by);
        let text = format!(
            "{service} is served for another project, {mine} of {brought_by}; this one is {theirs} of {by}"
        );
        let hint = match attempt.kind {
            AttemptKind::Deploy => {
                "give this service another name ([service] name), or take it over: stillframe deploy --take-over"
            }
            _ => "run it in that project's folder, or say that it is meant: --take-over",
        };
        (self.id != other.id).then(|| Error::new(error::Kind::Input, text).hint(hint))
    }
}

/// A step, and the last of them with the outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "Step"))]
pub struct Event {
    /// Milliseconds since 1970, on the host's clock.
    pub at: u64,
    pub status: Status,
    pub text: String,
    /// Bytes done and of how many, while copying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Outcome {
    pub status: Status,
    /// What serves now.
    pub generation: Option<u64>,
    /// Its snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What served before.
    pub previous: Option<u64>,
    /// Why not, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What went wrong after the commit: worth knowing, not undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Outcome {
    /// `generation` serves now, and `previous` did before.
    pub fn succeeded(generation: u64, previous: Option<u64>) -> Outcome {
        Outcome { previous, ..Outcome::unchanged(Status::Succeeded, Some(generation)) }
    }

    /// What served before serves on.
    pub fn unchanged(status: Status, serving: Option<u64>) -> Outcome {
        Outcome {
            status,
            generation: serving,
            snapshot: None,
            previous: serving,
            error: None,
            hint: None,
            warnings: Vec::new(),
        }
    }

    pub fn because(self, error: &Error) -> Outcome {
        Outcome { error: Some(error.full()), hint: error.hint.clone(), ..self }
    }

    /// Why, where no error is at hand.
    pub fn saying(self, error: impl Into<String>) -> Outcome {
        Outcome { error: Some(error.into()), ..self }
    }

    pub fn warning(self, warnings: Vec<String>) -> Outcome {
        Outcome { warnings, ..self }
    }
}

/// An attempt with all that happened: one item of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "AttemptRecord"))]
pub struct Record {
    #[serde(flatten)]
    pub attempt: Attempt,
    pub events: Vec<Event>,
}

impl Record {
    pub fn outcome(&self) -> Option<&Outcome> {
        self.events.last()?.outcome.as_ref()
    }

    pub fn status(&self) -> Status {
        self.events.last().map_or(Status::Queued, |e| e.status)
    }
}

/// Where a rollback goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Back {
    /// To the exact generation that served before the serving one.
    Previous,
    Generation(u64),
    /// To the newest generation of this snapshot: a store path or the beginning of its hash.
    Snapshot(String),
}

/// What is done with a service as a whole, without another generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Act {
    Restart {
        /// As `s0-g7`; all of those that serve where there is none.
        instances: Vec<String>,
    },
    Stop,
    /// Exactly the generation that served when it was stopped.
    Start,
    /// Everything of the service goes from the host.
    Remove {
        /// Also pictures, uploads, user data and the jobs.
        data: bool,
    },
}

impl Act {
    pub fn kind(&self) -> AttemptKind {
        match self {
            Act::Restart { .. } => AttemptKind::Restart,
            Act::Stop => AttemptKind::Stop,
            Act::Start => AttemptKind::Start,
            Act::Remove { .. } => AttemptKind::Remove,
        }
    }
}

/// Since when nothing of a service is served, by whose order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// What served then, and serves again once it is started.
    pub generation: u64,
    /// `user@workstation`.
    pub by: String,
    /// Milliseconds since 1970.
    pub since: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Order {
    /// Takes the lease and opens the attempt's record.
    Begin {
        version: u32,
        attempt: Box<Attempt>,
    },
    /// Nothing to say, still there.
    Alive,
    Copying {
        text: String,
        bytes: Option<(u64, u64)>,
    },
    /// Copy from a binary cache with this host's own Nix.
    Fetch {
        url: String,
        public_keys: Vec<String>,
        path: String,
    },
    /// `secrets`: name and value; they go into files that only root reads, and nowhere else.
    Activate {
        wanted: Box<Wanted>,
        secrets: BTreeMap<String, String>,
        /// Even if exactly this serves already.
        again: bool,
    },
    Return {
        to: Back,
    },
    Act {
        act: Act,
    },
    /// Undoes what this conversation's activation did.
    TakeBack {
        why: String,
    },
    /// Ends the attempt before its activation.
    GiveUp {
        status: Status,
        message: String,
        hint: Option<String>,
    },
    /// Stops the activation.
    Cancel {
        by: String,
    },
    End,
}

/// Who holds a service's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Holder {
    pub deployment: String,
    pub kind: AttemptKind,
    pub by: String,
    /// Milliseconds since 1970.
    pub since: u64,
    pub attempt: u64,
}

impl Holder {
    pub fn of(attempt: &Attempt) -> Holder {
        Holder {
            deployment: attempt.deployment.clone(),
            kind: attempt.kind,
            by: attempt.by.clone(),
            since: attempt.began,
            attempt: attempt.attempt,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Serving {
    pub generation: u64,
    pub snapshot: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Answer {
    Held {
        attempt: u64,
        serving: Option<Serving>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stopped: Option<Stopped>,
    },
    Busy {
        holder: Holder,
    },
    Fetched,
    Event {
        event: Event,
    },
    Outcome {
        outcome: Outcome,
    },
    /// It can go no further; the record says so too.
    Failed {
        status: Status,
        message: String,
        hint: Option<String>,
    },
}
