//! What a conversation asks for of a service as a whole, as a goal for an activation's process: whether it can be done
//! is said before that begins.
use crate::host::goal::Goal;
use crate::host::life;
use crate::host::state::ServiceState;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::messages::{Act, Stopped};
use crate::sys::error::{Error, Kind, Result};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// With what the record says of it.
    Do(Goal, String),
    /// It is so already: why nothing is done.
    Already(String),
}

/// `by` and `now`: who asks, and when.
pub fn asked(state: &ServiceState, act: &Act, by: &str, now: u64) -> Result<Asked> {
    let name = &state.service;
    match (act, state.serving, &state.stopped) {
        (Act::Restart { instances }, Some(serving), _) => {
            let instances = named(state, serving, instances)?;
            let text = format!("to restart {} of generation {serving}", counted(instances.len()));
            Ok(Asked::Do(Goal::Restart { instances }, text))
        }
        (Act::Stop, None, Some(stopped)) => Ok(Asked::Already(life::told(name, stopped))),
        (Act::Stop, Some(generation), _) => {
            let stopped = Stopped { generation, by: by.into(), since: now };
            Ok(Asked::Do(Goal::Stop { stopped }, format!("to stop generation {generation}")))
        }
        (Act::Start, Some(serving), _) => {
            Ok(Asked::Already(format!("generation {serving} of {name} serves already")))
        }
        (Act::Start, None, Some(stopped)) => {
            let number = stopped.generation;
            Ok(Asked::Do(Goal::Start(number), format!("to start generation {number}")))
        }
        // Also where little is left of it, or nothing ever was: whatever is there goes.
        (Act::Remove { data }, ..) => {
            let what = if *data { "to remove it with its data" } else { "to remove it" };
            Ok(Asked::Do(Goal::Remove { data: *data }, what.into()))
        }
        (Act::Restart { .. } | Act::Stop | Act::Start, None, _) => Err(life::not_serving(state)),
    }
}

fn counted(instances: usize) -> String {
    if instances == 1 { "1 instance".into() } else { format!("{instances} instances") }
}

/// Those of the serving generation that are meant, in the order of their slots.
fn named(state: &ServiceState, serving: u64, names: &[String]) -> Result<Vec<InstanceId>> {
    let all = state.instances(serving);
    let unknown = names.iter().find(|name| !all.iter().any(|id| id.to_string() == **name));
    if let Some(name) = unknown {
        let has: Vec<String> = all.iter().map(InstanceId::to_string).collect();
        let text = format!("{} has no instance {name} that serves", state.service);
        return Err(Error::new(Kind::Input, text).hint(format!("it has: {}", has.join(", "))));
    }
    Ok(all.into_iter().filter(|id| names.is_empty() || names.contains(&id.to_string())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::state::{Generation, Place};
    use crate::protocol::spec::{Spec, Wanted};

    fn state(serving: Option<u64>) -> ServiceState {
        let places = [1, 0].map(|slot| Place { slot, port: None });
        let wanted = Wanted {
            snapshot: "/nix/store/a".into(),
            agent: "/nix/store/b".into(),
            launch: "demo".into(),
            classes: Default::default(),
            offered: Default::default(),
            spec: Spec::example("demo"),
        };
        let instances = places.to_vec();
        let generation =
            Generation { wanted, created: 0, attempt: 1, instances, before: None, after_stop: None };
        let state = ServiceState { serving, ..ServiceState::new("demo") };
        ServiceState { generations: [(3, generation)].into(), ..state }
    }

    fn stopped() -> Stopped {
        Stopped { generation: 3, by: "a@b".into(), since: 86_400_000 }
    }

    fn done(state: &ServiceState, act: &Act) -> std::result::Result<Asked, String> {
        asked(state, act, "c@d", 7).map_err(|e| format!("{e} ({})", e.hint.as_deref().unwrap_or_default()))
    }

    #[test]
    fn what_cannot_be_done_is_said_before_anything_is() {
        let restart =
            |names: &[&str]| Act::Restart { instances: names.iter().map(|n| n.to_string()).collect() };
        let serves = state(Some(3));
        let ids =
            |slots: &[u32]| slots.iter().map(|slot| InstanceId { slot: *slot, generation: 3 }).collect();
        let goal = |instances: Vec<InstanceId>, text: &str| {
            Ok(Asked::Do(Goal::Restart { instances }, format!("to restart {text} of generation 3")))
        };
        assert_eq!(done(&serves, &restart(&[])), goal(ids(&[1, 0]), "2 instances"));
        assert_eq!(done(&serves, &restart(&["s0-g3"])), goal(ids(&[0]), "1 instance"));
        assert_eq!(
            done(&serves, &restart(&["s0-g2"])),
            Err("demo has no instance s0-g2 that serves (it has: s1-g3, s0-g3)".into())
        );
        let stop = Stopped { generation: 3, by: "c@d".into(), since: 7 };
        let to_stop = Asked::Do(Goal::Stop { stopped: stop }, "to stop generation 3".into());
        assert_eq!(done(&serves, &Act::Stop), Ok(to_stop));
        assert_eq!(
            done(&serves, &Act::Start),
            Ok(Asked::Already("generation 3 of demo serves already".into()))
        );
        let rests = ServiceState { stopped: Some(stopped()), ..state(None) };
        let since = "demo was stopped by a@b at 1970-01-02T00:00:00Z";
        assert_eq!(done(&rests, &Act::Stop), Ok(Asked::Already(since.into())));
        assert_eq!(done(&rests, &Act::Start), Ok(Asked::Do(Goal::Start(3), "to start generation 3".into())));
        assert_eq!(done(&rests, &restart(&[])), Err(format!("{since} (start it: stillframe start)")));
        let none = "nothing of demo is served here (deploy it: stillframe deploy)";
        for act in [Act::Start, Act::Stop, restart(&[])] {
            assert_eq!(done(&ServiceState::new("demo"), &act), Err(none.into()));
        }
    }
}
