//! What keeps jobs. The ledger's threads alone call it. SQLite is behind it; the schema is portable, because
//! PostgreSQL is to be the second.
use crate::jobs::asset::{Asset, Beside, Claim};
use crate::jobs::delivery::{Delivery, FindDeliveries, Tried};
pub use crate::jobs::model::Keep;
use crate::jobs::model::{Body, History, Job, Reason, State, Time, Try};
use crate::sys::error::{Error, Result};
use std::collections::BTreeMap;

/// One change, on disk when the batch that it belongs to is.
#[derive(Debug, Clone)]
pub enum Write {
    Accept {
        job: Box<Job>,
        body: Box<Body>,
    },
    /// Written before the instance is told.
    Dispatch {
        id: String,
        instance: String,
        generation: u64,
        at: Time,
    },
    Start {
        id: String,
        at: Time,
    },
    /// It is taken back, wherever it is. Nothing comes of it where it has ended.
    Cancel {
        id: String,
    },
    /// Back among those that wait; a try is recorded if one was used up.
    Requeue {
        id: String,
        tried: Option<Try>,
    },
    /// Its end, with the entry of the instance's history where there is one.
    End {
        id: String,
        state: State,
        at: Time,
        reason: Option<Reason>,
        history: Option<Box<History>>,
    },
    /// Its owner or an operator no longer wants to see it (ComfyUI's POST /history delete).
    Forget {
        ids: Vec<String>,
    },
    /// A job that has ended waits again, as if it were new.
    Again {
        id: String,
    },
    /// With `Accept`: the files that it needs, each with its name in the workflow. Fails where one is not there.
    Uses {
        seq: u64,
        assets: Vec<(String, String)>,
        at: Time,
    },
    /// With `Accept`: what its client finds it by.
    Labels {
        seq: u64,
        labels: BTreeMap<String, String>,
    },
    /// With `Accept`: fails where the key is another job's.
    Claim(Box<Claim>),
    /// A new one, or one that was touched.
    Asset(Box<Asset>),
    /// Fails where a job needs it that has not ended.
    Discard {
        id: String,
    },
    /// In the transaction of what it tells of. A receiver that wants no more of this job has none of it.
    Deliver(Box<Delivery>),
    /// What came of a try to deliver.
    Tried(Tried),
    /// Deliveries that were given up wait again, as if they were new, and those that wait are due.
    Redeliver {
        ids: Vec<String>,
        at: Time,
    },
}

/// Which jobs a reader wants, newest first unless `oldest_first`.
#[derive(Debug, Clone, Default)]
pub struct Find {
    /// Empty: all.
    pub states: Vec<State>,
    pub owner: Option<String>,
    pub workflow: Option<String>,
    /// Those that have all of these.
    pub labels: BTreeMap<String, String>,
    /// Those with a higher `seq`, and those accepted then or later.
    pub after: Option<u64>,
    pub since: Option<Time>,
    /// Those with a lower `seq`.
    pub before: Option<u64>,
    pub sort: Sort,
    pub oldest_first: bool,
    pub offset: u64,
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    /// By `seq`.
    #[default]
    Accepted,
    /// By the end: what has none comes last.
    Ended,
    /// `ended - started`.
    Duration,
}

/// The source of an error that says that what is kept is not what was written.
#[derive(Debug)]
pub struct Damage(pub Box<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Damage {}

/// Whether an error says that what is kept is damaged, which nothing but a person mends.
pub fn is_damage(error: &Error) -> bool {
    error.source.as_deref().is_some_and(|source| source.is::<Damage>())
}

pub trait Store: Beside + Send {
    /// All of them in one transaction, on disk when this returns. A failed batch changes nothing. An empty one writes
    /// all the same: it tells whether that can be done. What can never be done, whatever the disk does, is an error of
    /// the kind *input*: an id that is there already, one that is not, a state that may not follow.
    fn write(&mut self, batch: &[Write]) -> Result<()>;
    /// Every job that has not ended, by `seq`, and the last `seq` that was given to any job.
    fn open_jobs(&mut self) -> Result<(Vec<Job>, u64)>;
    fn job(&mut self, id: &str) -> Result<Option<Job>>;
    fn body(&mut self, id: &str) -> Result<Option<Body>>;
    fn history(&mut self, id: &str) -> Result<Option<History>>;
    /// The same two as JSON texts.
    fn body_text(&mut self, id: &str) -> Result<Option<String>>;
    fn history_text(&mut self, id: &str) -> Result<Option<String>>;
    /// A page, and how many there are without offset and limit.
    fn find(&mut self, find: &Find) -> Result<(Vec<Job>, u64)>;
    fn deliveries(&mut self, find: &FindDeliveries) -> Result<(Vec<Delivery>, u64)>;
    /// Those of a place whose time has come, the longest due first. A webhook waits for its job's uploads.
    fn due(&mut self, place: &str, now: Time, most: u64) -> Result<Vec<Delivery>>;
    /// How many deliveries wait, and how many were given up.
    fn counts(&mut self) -> Result<(u64, u64)>;
    /// Places of waiting deliveries that are none of these.
    fn other_places(&mut self, known: &[String]) -> Result<Vec<String>>;
    /// Deletes what `keep` no longer covers; at most `most` jobs in one transaction. Says how many went.
    fn expire(&mut self, keep: &Keep, now: Time, most: u64) -> Result<u64>;
    /// A consistent copy into a file that must not exist.
    fn backup(&mut self, to: &std::path::Path) -> Result<()>;
    /// Looks through all of it for damage; takes a second for some hundred MiB.
    fn check(&mut self) -> Result<()>;
    /// One more connection to the same jobs, for what takes long.
    fn another(&self) -> Result<Box<dyn Store>>;
}
