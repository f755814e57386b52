//! `stillframe-agent repair`, and what `boot` does first: makes the state of each service readable again, and the service what its state says.
//! Where neither the state nor its copy can be read, it is built anew from the generations' own files, the profile
//! and the units.
use crate::host::activating;
use crate::host::layout::{BOOT_UNIT, Layout, Service, Unit};
use crate::host::lease;
use crate::host::renaming;
use crate::host::slots;
use crate::host::state::{Generation, STATE_VERSION, ServiceState};
use crate::host::state_file::{self, Found};
use crate::host::{journal, overview, reserve};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::messages::{AttemptKind, Holder, Stopped};
use crate::protocol::overview::Repaired;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use crate::sys::say::say;
use crate::sys::systemd;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

pub fn repair(layout: &Layout, only: Option<&str>, by: &str) -> Result<Vec<Repaired>> {
    let names = layout.known().into_iter().filter(|name| only.is_none_or(|only| only == name));
    let mut all: Vec<Repaired> = names
        .map(|name| {
            let mut done = Vec::new();
            let error = one(layout, &name, by, &mut done).err().map(|e| e.report());
            Repaired { service: name, done, error }
        })
        .collect();
    all.extend(only.filter(|_| all.is_empty()).map(|name| Repaired {
        service: name.into(),
        done: vec!["was never deployed here".into()],
        error: None,
    }));
    // Where another service is still broken, the boot service would fail again.
    let mended = all.iter().all(|one| one.error.is_none()) && overview::problems(layout).is_empty();
    if mended && boot_failed() {
        // It has used up its starts; a stop makes systemd forget them.
        systemd::stop(BOOT_UNIT)?;
        systemd::start_and_wait(BOOT_UNIT)?;
    }
    Ok(all)
}

fn boot_failed() -> bool {
    systemd::show(BOOT_UNIT, &["ActiveState"])
        .is_ok_and(|unit| unit.get("ActiveState").is_some_and(|state| state == "failed"))
}

fn one(layout: &Layout, name: &str, by: &str, done: &mut Vec<String>) -> Result<()> {
    let service = layout.service(name);
    reserve::keep(layout)?;
    let holder = Holder {
        deployment: lease::REPAIR.into(),
        kind: AttemptKind::Deploy,
        by: by.into(),
        since: clock::now_ms(),
        attempt: 0,
    };
    let _lease = lease::take(&service, &holder)?.map_err(|holder| {
        let text = format!("a deployment of {name} is under way, begun by {}", holder.by);
        Error::new(Kind::Busy, text).hint("repair it when that has ended")
    })?;
    let state = readable(&service, done)?;
    for (number, generation) in &state.generations {
        activating::link(&service, *number, generation)?;
    }
    let stray = slots::others(&service, &state.serving.map(|n| state.instances(n)).unwrap_or_default())?;
    activating::boot_service(layout, name)?;
    if !stray.is_empty() && state.serving.is_some() {
        let names: Vec<String> = stray.iter().map(InstanceId::to_string).collect();
        done.push(format!("{}: ended, since the state says that they do not serve", names.join(", ")));
    }
    Ok(())
}

/// The state, which can be read from now on.
fn readable(service: &Service, done: &mut Vec<String>) -> Result<ServiceState> {
    let file = service.state();
    let (state, text) = match ServiceState::read(&file, &service.name) {
        Ok(Found { state, warning: None }) => return Ok(state),
        Ok(Found { state, warning: Some(warning) }) => {
            (state, format!("{warning}, and is the state from now on"))
        }
        Err(e) if !state_file::may_be_replaced(&file) => return Err(e),
        Err(e) => {
            let state = rebuilt(service, &state_file::read_generations(&file))?;
            let text = format!("{}: built anew: {}", e.full(), told(&state));
            (state, text)
        }
    };
    set_aside(&file, done)?;
    state.save(&file)?;
    done.push(text);
    Ok(state)
}

/// `stillframe-agent boot`: a service whose state cannot be read is down now, and comes back as what is there says.
pub fn boot(layout: &Layout) -> Result<()> {
    if let Err(e) = renaming::settle(layout) {
        // The other services come back all the same.
        say(format_args!("{}", e.full()));
    }
    for name in layout.known() {
        let service = layout.service(&name);
        let file = service.state();
        if ServiceState::read(&file, &name).is_ok() || state_file::read_generations(&file).is_empty() {
            continue;
        }
        let mut done = Vec::new();
        let rebuild = || readable(&service, &mut done);
        let rebuilt = fault::around(&name, "boot/rebuild", || lease::undisturbed(&service, rebuild));
        if let Err(e) = rebuilt {
            say(format_args!("{name}: {}", e.full()));
        }
        done.iter().for_each(|line| say(format_args!("{name}: {line}")));
    }
    activating::boot(layout)
}

fn told(state: &ServiceState) -> String {
    let numbers: Vec<String> = state.generations.keys().map(u64::to_string).collect();
    match state.serving {
        Some(serving) => format!("generation {serving} serves; there are {}", numbers.join(", ")),
        None if state.stopped.is_some() => "it is stopped".into(),
        None => format!("nothing serves; the next generation is {}", state.next_generation),
    }
}

/// What was there is kept for a person to look at.
fn set_aside(file: &Path, done: &mut Vec<String>) -> Result<()> {
    let aside = file.with_file_name("state.broken.json");
    match fs::rename(file, &aside) {
        Ok(()) => done.push(format!("what could not be read is kept as {}", aside.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("move aside", file, e)),
    }
    Ok(())
}

/// What serves is what the profile points to; where that is gone, the newest generation that runs.
fn rebuilt(service: &Service, generations: &BTreeMap<u64, Generation>) -> Result<ServiceState> {
    let running: BTreeSet<u64> = slots::loaded(service)?
        .iter()
        .filter_map(|unit| match service.unit(unit)? {
            Unit::Instance(id) => Some(id.generation),
            _ => None,
        })
        .collect();
    let pointed = fs::read_link(service.profile()).ok().and_then(|link| number_of(service, link.to_str()?));
    let (next, stopped) = state_file::next_generation(&service.state());
    let used = linked(service).into_iter().chain(recorded(service)).chain(next.checked_sub(1)).max();
    let state = built_anew(&service.name, generations, pointed, &running, used.unwrap_or(0));
    Ok(with_stop(state, stopped))
}

/// The state that what is there amounts to. `pointed`: the profile's generation; `used`: the highest number that was ever given
/// to one. A number is never used twice, whatever became of it.
pub fn built_anew(
    service: &str,
    generations: &BTreeMap<u64, Generation>,
    pointed: Option<u64>,
    running: &BTreeSet<u64>,
    used: u64,
) -> ServiceState {
    let is_there = |number: &u64| generations.contains_key(number);
    let serving = pointed.filter(is_there).or_else(|| running.iter().rev().copied().find(is_there));
    let seen = generations.keys().chain(running).copied().max().unwrap_or(0).max(used);
    ServiceState {
        version: STATE_VERSION,
        next_generation: seen + 1,
        serving,
        generations: generations.clone(),
        ..ServiceState::new(service)
    }
}

/// A service that was stopped stays so, where nothing of it runs.
pub fn with_stop(state: ServiceState, stopped: Option<Stopped>) -> ServiceState {
    let stopped = stopped
        .filter(|stopped| state.serving.is_none() && state.generations.contains_key(&stopped.generation));
    ServiceState { stopped, ..state }
}

fn number_of(service: &Service, link: &str) -> Option<u64> {
    link.strip_prefix(&format!("stillframe-{}-", service.name))?.strip_suffix("-link")?.parse().ok()
}

/// Generations that the profile has links of.
fn linked(service: &Service) -> Vec<u64> {
    let profile = service.profile();
    let entries =
        profile.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    entries.filter_map(|entry| number_of(service, entry.file_name().to_str()?)).collect()
}

/// Generations that records speak of.
fn recorded(service: &Service) -> Vec<u64> {
    let numbers = journal::numbers(service).into_iter();
    let records = numbers.filter_map(|number| journal::read(service, number).ok());
    records.filter_map(|record| record.outcome()?.generation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_read_from_the_names_of_links() {
        let service = Layout::new(Path::new("/")).service("demo");
        for (name, number) in [
            ("stillframe-demo-12-link", Some(12)),
            ("stillframe-demo", None),
            ("stillframe-demo-two-1-link", None),
            ("stillframe-other-1-link", None),
        ] {
            assert_eq!(number_of(&service, name), number, "{name}");
        }
    }
}
