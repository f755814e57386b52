//! What is to be told others of a job, or sent to them: written with what it tells of, and tried until it is delivered,
//! given up, or no longer wanted. Nothing of a job waits for it.
use crate::jobs::model::Time;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Webhook,
    Upload,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Webhook => "webhook",
            Kind::Upload => "upload",
        }
    }

    pub fn of_name(name: &str) -> Option<Kind> {
        [Kind::Webhook, Kind::Upload].into_iter().find(|kind| kind.name() == name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// For its next try.
    Waiting,
    Delivered,
    /// Given up.
    Failed,
    /// The receiver wants no more of this job.
    Gone,
}

impl State {
    pub const ALL: [State; 4] = [State::Waiting, State::Delivered, State::Failed, State::Gone];

    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Delivered => "delivered",
            State::Failed => "failed",
            State::Gone => "gone",
        }
    }

    pub fn of_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// What a receiver tells a second try from a second message by.
    pub id: String,
    pub job: String,
    pub kind: Kind,
    /// What fails together: the service's own webhook, its own uploads, or an origin that jobs name.
    pub place: String,
    /// Of what a job asked for itself; none: wherever the service's settings say by then.
    pub address: Option<String>,
    /// A webhook's payload, or the file of an upload.
    pub content: Value,
    pub state: State,
    pub made: Time,
    /// Not before.
    pub due: Time,
    pub tries: u32,
    pub ended: Option<Time>,
    /// What came of the last try, where it failed.
    pub why: Option<String>,
    /// Of a file that is there.
    pub bytes: Option<u64>,
}

impl Delivery {
    /// Due at once.
    pub fn new(id: String, job: &str, kind: Kind, place: &str, content: Value, at: Time) -> Delivery {
        Delivery {
            id,
            job: job.into(),
            kind,
            place: place.into(),
            address: None,
            content,
            state: State::Waiting,
            made: at,
            due: at,
            tries: 0,
            ended: None,
            why: None,
            bytes: None,
        }
    }
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub id: String,
    /// *Gone* ends all that waits for the same receiver of the same job.
    pub state: State,
    pub at: Time,
    /// Of one that waits on.
    pub due: Time,
    pub why: Option<String>,
    pub bytes: Option<u64>,
}

/// Which deliveries a reader wants, the newest first.
#[derive(Debug, Clone, Default)]
pub struct FindDeliveries {
    /// Empty: all.
    pub states: Vec<State>,
    pub ids: Vec<String>,
    pub job: Option<String>,
    pub kind: Option<Kind>,
    pub limit: Option<u64>,
}
