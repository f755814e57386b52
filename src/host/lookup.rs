//! What a conversation asks of the state: what serves, whether that is what is wanted, where a rollback goes.
use crate::host::journal;
use crate::host::layout::{Layout, Service};
use crate::host::state::{Generation, ServiceState};
use crate::host::units;
use crate::protocol::messages::{Attempt, Back, Project, Serving};
use crate::protocol::spec::Wanted;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::systemd;

pub fn serving(state: &ServiceState) -> Option<Serving> {
    let number = state.serving?;
    let wanted = &state.generations.get(&number)?.wanted;
    Some(Serving { generation: number, snapshot: wanted.snapshot.clone(), port: wanted.spec.port })
}

/// The serving generation, if it is exactly what is wanted.
pub fn exactly<'a>(state: &'a ServiceState, wanted: &Wanted) -> Option<(u64, &'a Generation)> {
    let number = state.serving?;
    let generation = state.generations.get(&number)?;
    (generation.wanted == *wanted).then_some((number, generation))
}

/// Whether every instance of a generation runs.
pub fn runs(state: &ServiceState, number: u64) -> bool {
    let units = state.units(number);
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    systemd::show_all(&names, &["ActiveState"])
        .is_ok_and(|all| all.iter().all(|unit| unit.get("ActiveState").is_some_and(|s| s == "active")))
}

/// The attempt that brought what serves. A record that is gone or damaged says nothing of it, and must not be in the way.
pub fn brought(service: &Service, state: &ServiceState) -> Option<Attempt> {
    let generation = state.generations.get(&state.current()?)?;
    Some(journal::read(service, generation.attempt).ok()?.attempt)
}

/// Refuses what would change a service that another project's deployment brought, unless it is meant to take it over. A
/// rollback is refused to nobody: it brings back what its own project deployed.
pub fn allowed(service: &Service, state: &ServiceState, attempt: &Attempt) -> Result<()> {
    let Some(project) = attempt.project.as_ref().filter(|_| !attempt.take_over) else { return Ok(()) };
    let Some(brought) = brought(service, state) else { return Ok(()) };
    let keeps = |theirs: Project| theirs.keeps(&brought.by, &service.name, project, attempt);
    brought.project.and_then(keeps).map_or(Ok(()), Err)
}

/// What an activation did, so that it can be undone.
pub struct Done {
    pub previous: Option<u64>,
    pub changed: bool,
}

impl Done {
    /// Of an earlier conversation of the same deployment, whose line was cut.
    pub fn earlier(service: &Service, deployment: &str) -> Result<Done> {
        let state = ServiceState::load(&service.state(), &service.name)?;
        let serving = state.serving.and_then(|number| state.generations.get(&number));
        if let Some(generation) = serving
            && journal::read(service, generation.attempt).is_ok_and(|r| r.attempt.deployment == deployment)
        {
            let previous = generation.before.filter(|_| generation.after_stop.is_none());
            return Ok(Done { previous, changed: true });
        }
        Ok(Done { previous: state.serving, changed: false })
    }
}

pub fn resolve(state: &ServiceState, to: &Back) -> Result<u64> {
    let known = || {
        let all: Vec<String> = state.generations.keys().map(u64::to_string).collect();
        if all.is_empty() {
            "it has none: deploy first".into()
        } else {
            format!("it has: {}", all.join(", "))
        }
    };
    let none = |what: String| Error::new(Kind::Input, what).hint(known());
    match to {
        Back::Generation(number) if state.generations.contains_key(number) => Ok(*number),
        Back::Generation(number) => Err(none(format!("{} has no generation {number}", state.service))),
        Back::Previous => state
            .current()
            .and_then(|n| state.generations.get(&n)?.before)
            .filter(|n| state.generations.contains_key(n))
            .ok_or_else(|| none(format!("no generation of {} served before this one", state.service))),
        Back::Snapshot(snapshot) => {
            let base = |g: &Generation| g.wanted.snapshot.rsplit('/').next().unwrap_or_default().to_string();
            let fits =
                |g: &Generation| g.wanted.snapshot == *snapshot || base(g).starts_with(snapshot.as_str());
            let found = state.generations.iter().rev().find(|(_, g)| fits(g));
            found.map(|(n, _)| *n).ok_or_else(|| {
                none(format!("no generation of {} has the snapshot {snapshot}", state.service))
            })
        }
    }
}

/// The newest agent of this host: it can read what the state says.
pub fn own_program(layout: &Layout) -> Result<String> {
    let link = layout.agent();
    let path = std::fs::read_link(&link).map_err(|e| {
        Error::io("read the link", &link, e).hint("prepare the host: stillframe host prepare")
    })?;
    Ok(units::program(&path.display().to_string()))
}
