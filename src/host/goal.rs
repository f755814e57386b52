//! What an activation's own process is to do: written by the conversation, read by that process and by the
//! one that goes on after it was killed.
use crate::host::layout::Service;
use crate::protocol::spec::Wanted;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    New(Box<Wanted>),
    /// A rollback to a generation that is still there.
    Kept(u64),
    /// Back to what served before, as if nothing had been.
    Restored {
        to: u64,
        why: String,
    },
    /// There was nothing before.
    Withdraw {
        why: String,
    },
}

pub fn write(service: &Service, attempt: u64, task: &Task) -> Result<()> {
    let bytes =
        serde_json::to_vec(task).map_err(|e| Error::new(Kind::Io, "cannot write the goal").caused_by(e))?;
    files::write_atomic(&service.goal(attempt), &bytes)
}

pub fn read(service: &Service, attempt: u64) -> Result<Task> {
    let path = service.goal(attempt);
    serde_json::from_slice(&files::read(&path)?)
        .map_err(|e| Error::new(Kind::Io, format!("{} is no goal: {e}", path.display())))
}
