//! What an activation's own process is to do: written by the conversation, read by that process and by the
//! one that goes on after it was killed.
use crate::host::layout::Service;
use crate::host::state::ServiceState;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::messages::{Outcome, Status, Stopped};
use crate::protocol::spec::{Spec, Wanted};
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use serde::{Deserialize, Serialize};

const GOAL_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    New(Box<Wanted>),
    /// A rollback to a generation that is still there.
    Kept(u64),
    /// Back to what served before, as if what serves had never done so.
    Restored {
        to: u64,
        why: String,
    },
    /// There was nothing before.
    Withdraw {
        why: String,
    },
    /// These instances of what serves, one after the other.
    Restart {
        instances: Vec<InstanceId>,
    },
    Stop {
        stopped: Stopped,
    },
    /// The generation that served when the service was stopped.
    Start(u64),
    /// Everything of the service.
    Remove {
        data: bool,
    },
}

impl Goal {
    /// The generation that is there already.
    pub fn target(&self) -> Option<u64> {
        match self {
            Goal::Kept(number) | Goal::Start(number) | Goal::Restored { to: number, .. } => Some(*number),
            Goal::New(_)
            | Goal::Withdraw { .. }
            | Goal::Restart { .. }
            | Goal::Stop { .. }
            | Goal::Remove { .. } => None,
        }
    }

    /// Whether the state says that this was carried out.
    pub fn is_reached(&self, state: &ServiceState, attempt: u64) -> bool {
        match self {
            Goal::New(_) => {
                let serving = state.serving.and_then(|n| state.generations.get(&n));
                serving.is_some_and(|generation| generation.attempt == attempt)
            }
            Goal::Kept(_) | Goal::Start(_) | Goal::Restored { .. } => state.serving == self.target(),
            Goal::Withdraw { .. } => state.serving.is_none(),
            // The state is the same before and after.
            Goal::Restart { .. } | Goal::Remove { .. } => false,
            Goal::Stop { stopped } => state.serving.is_none() && state.stopped.as_ref() == Some(stopped),
        }
    }

    /// The deployment whose cancellation stops this: none for the way back, which is what a cancellation asks for.
    pub fn cancelled_with<'a>(&self, deployment: &'a str) -> Option<&'a str> {
        match self {
            Goal::New(_)
            | Goal::Kept(_)
            | Goal::Restart { .. }
            | Goal::Stop { .. }
            | Goal::Start(_)
            | Goal::Remove { .. } => Some(deployment),
            Goal::Restored { .. } | Goal::Withdraw { .. } => None,
        }
    }

    /// What is said of this goal once it is reached: who was taken back hears why.
    pub fn reached(&self, outcome: Outcome) -> Outcome {
        match self {
            Goal::New(_)
            | Goal::Kept(_)
            | Goal::Restart { .. }
            | Goal::Stop { .. }
            | Goal::Start(_)
            | Goal::Remove { .. } => outcome,
            Goal::Restored { why, .. } | Goal::Withdraw { why } => {
                Outcome { status: Status::Reverted, ..outcome }.saying(why)
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(flatten)]
    goal: Goal,
}

pub fn write(service: &Service, attempt: u64, goal: &Goal) -> Result<()> {
    let file = File { version: GOAL_VERSION, goal: goal.clone() };
    let bytes =
        serde_json::to_vec(&file).map_err(|e| Error::new(Kind::Io, "cannot write the goal").caused_by(e))?;
    files::write_atomic(&service.goal(attempt), &bytes)
}

pub fn read(service: &Service, attempt: u64) -> Result<Goal> {
    let path = service.goal(attempt);
    let broken = |why: String| Error::new(Kind::Io, format!("{} is no goal: {why}", path.display()));
    let mut document: serde_json::Value =
        serde_json::from_slice(&files::read(&path)?).map_err(|e| broken(e.to_string()))?;
    // The first ones had no version, and were as version 1 is.
    if let Some(fields) = document.as_object_mut() {
        fields.entry("version").or_insert(GOAL_VERSION.into());
    }
    version::check_document(&document, GOAL_VERSION).map_err(|e| broken(e.to_string()))?;
    if let Some(new) = document.get("new") {
        Spec::check_document(&new["spec"]).map_err(|e| broken(format!("what is wanted is of {e}")))?;
    }
    let file: File = serde_json::from_value(document).map_err(|e| broken(e.to_string()))?;
    Ok(file.goal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cancel;
    use crate::host::effects::HostWorld;
    use crate::host::layout::Layout;
    use crate::host::world::World;

    #[test]
    fn only_the_way_forward_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        std::fs::create_dir_all(&service.home).unwrap();
        cancel::request(&service, "d1", "a@b").unwrap();
        let why = || "beta failed".to_string();
        for (goal, stops) in [
            (Goal::Kept(1), true),
            (Goal::Restored { to: 1, why: why() }, false),
            (Goal::Withdraw { why: why() }, false),
        ] {
            let mut world = HostWorld::new(&service, None, goal.cancelled_with("d1")).unwrap();
            assert_eq!(world.wait(0).is_err(), stops, "{goal:?}");
        }
    }
}
