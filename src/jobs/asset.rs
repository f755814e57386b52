//! Files that clients put in beforehand, and what else is kept beside jobs: which job uses which of them, the labels
//! that a client finds its jobs by, and the keys that keep it from asking twice. The files themselves are the gateway's.
use crate::jobs::model::{Keep, Owner, Time};
use crate::sys::error::Result;

/// What somebody has of a file. Several may have the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    pub id: String,
    pub owner: Owner,
    /// BLAKE3 of its bytes, hexadecimal.
    pub hash: String,
    pub size: u64,
    pub content_type: String,
    pub file_path: Option<String>,
    pub created: Time,
    /// When it was last put in or used by a job: it is kept from then on.
    pub touched: Time,
    /// For how many milliseconds, where its client has said so.
    pub lasts: Option<u64>,
}

/// A file that a job needs, by the name that its workflow has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub asset: String,
    pub hash: String,
    pub size: u64,
    pub name: String,
}

/// A key for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub owner: Owner,
    pub key: String,
    pub job: String,
    pub at: Time,
}

/// Keys are good again after a day.
pub const CLAIMED: u64 = 86_400_000;

#[derive(Debug, Clone, Default)]
pub struct FindAsset {
    pub id: Option<String>,
    pub hash: Option<String>,
    /// None: anybody's.
    pub owner: Option<Owner>,
}

/// Beside `Store`, on the same connection.
pub trait Beside {
    /// The newest first.
    fn assets(&mut self, find: &FindAsset) -> Result<Vec<Asset>>;
    /// Whether a job that has not ended needs it.
    fn is_used(&mut self, asset: &str) -> Result<bool>;
    fn used_by(&mut self, job: &str) -> Result<Vec<Used>>;
    /// The job that a key was used for.
    fn claimed(&mut self, owner: &str, key: &str, now: Time) -> Result<Option<String>>;
    /// Name and value, by the job's `seq`.
    fn labels(&mut self, seqs: &[u64]) -> Result<Vec<(u64, String, String)>>;
    /// Deletes records that `keep` no longer covers, but for those that a job needs that has not ended; at most `most`.
    /// Says how many went.
    fn expire_assets(&mut self, keep: &Keep, now: Time, most: u64) -> Result<u64>;
    /// Which of these hashes nobody has any more.
    fn unknown_hashes(&mut self, hashes: &[String]) -> Result<Vec<String>>;
}
