//! `stillframe-agent activate`: an activation's own process, in a unit of its own, so that a cut connection
//! changes nothing. Killed, it is started again by systemd and brings to an end what it had begun; after a
//! power loss the boot service does.
use crate::host::activation;
use crate::host::durable;
use crate::host::effects::HostWorld;
use crate::host::goal::{self, Goal};
use crate::host::journal::{self, Journal};
use crate::host::layout::{Layout, Service};
use crate::host::lease;
use crate::host::receive;
use crate::host::reserve;
use crate::host::scaling;
use crate::host::state::{Generation, ServiceState, Work};
use crate::host::world::World;
use crate::protocol::messages::{Attempt, Holder, Outcome, Status};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use crate::sys::files;
use crate::sys::progress::check_interrupt;
use crate::sys::say::say;
use std::path::{Path, PathBuf};

pub fn run(layout: &Layout, name: &str, attempt: u64) -> Result<()> {
    let service = layout.service(name);
    if !service.home.exists() {
        // It was killed in the last step of a removal.
        return sweep(&service);
    }
    let record = journal::read(&service, attempt)?;
    if let Some(outcome) = record.outcome() {
        // What follows the end of the record may have failed, for instance for want of space.
        let goal = goal::read(&service, attempt);
        return goal.map_or(Ok(()), |goal| finish(&service, attempt, &goal, outcome));
    }
    let _lease = lease::take_over(&service, &record.attempt)?;
    let mut state = ServiceState::load(&service.state(), name)?;
    let mut begun = record.status() > Status::Copying;
    if let Some(pending) = state.pending.clone() {
        let ours = pending.attempt == attempt;
        end_pending(&service, &mut state)?;
        if ours {
            return Ok(());
        }
        begun = false;
    }
    let goal = goal::read(&service, attempt)?;
    let mut journal = Journal::reopen(&service, attempt)?;
    if begun {
        // It was killed between the end of its work and the end of its record.
        let outcome = state.complete(ended(&state, attempt, &goal));
        reserve::spend(layout, || journal.end(&outcome))?;
        return finish(&service, attempt, &goal, &outcome);
    }
    if let Goal::New(wanted) = &goal {
        boots_with(&service, &wanted.agent)?;
    }
    let mut world = world(&service, Some(journal), goal.cancelled_with(&record.attempt.deployment))?;
    let result = activation::activate(&mut world, &mut state, &goal, attempt, clock::now());
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(e) => match ServiceState::load(&service.state(), name) {
            // Its last write is there all the same.
            Ok(now) if now.pending.is_none() && goal.is_reached(&now, attempt) => {
                ended(&now, attempt, &goal).warning(vec![e.full()])
            }
            // It could not even begin.
            Ok(now) if now.pending.is_none() => Outcome::unchanged(Status::Failed, now.serving).because(&e),
            // Not even the way back could be written down: started again, it tries once more.
            _ => return Err(e),
        },
    };
    let outcome = state.complete(outcome);
    reserve::spend(layout, || Journal::reopen(&service, attempt)?.end(&outcome))?;
    finish(&service, attempt, &goal, &outcome)
}

/// The host; in the tests' own agent, with the faults that they ask for.
fn world(service: &Service, journal: Option<Journal>, deployment: Option<&str>) -> Result<impl World> {
    let host = HostWorld::new(service, journal, deployment)?;
    #[cfg(feature = "fault-points")]
    let host = crate::host::faults::Faulty::new(host, &service.name);
    Ok(host)
}

/// The boot service must be able to read the state that this agent is about to write. A newer agent reads what an
/// older one wrote, so it stays whatever becomes of the activation.
fn boots_with(service: &Service, agent: &str) -> Result<()> {
    if std::fs::read_link(service.layout.agent()).is_ok_and(|now| now == Path::new(agent)) {
        return Ok(());
    }
    durable::sync_store(&receive::store_config(None), &service.layout.nix, &mut check_interrupt)?;
    files::replace_link(&service.layout.agent_roots().join("agent"), Path::new(agent))?;
    files::replace_link(&service.layout.agent(), Path::new(agent))
}

/// What became of an attempt whose work is over, told by the state.
fn ended(state: &ServiceState, attempt: u64, goal: &Goal) -> Outcome {
    let serving = state.serving;
    if !goal.is_reached(state, attempt) {
        let outcome = Outcome::unchanged(Status::Interrupted, serving);
        return Outcome { previous: before(state), ..outcome }.saying("the activation was interrupted");
    }
    let outcome = Outcome::unchanged(Status::Succeeded, serving);
    goal.reached(Outcome { previous: before(state), ..outcome })
}

fn before(state: &ServiceState) -> Option<u64> {
    state.serving.and_then(|n| state.generations.get(&n)?.before)
}

fn finish(service: &Service, attempt: u64, goal: &Goal, outcome: &Outcome) -> Result<()> {
    if matches!(goal, Goal::Remove { .. }) && outcome.status == Status::Succeeded {
        return erase(service);
    }
    if let Goal::New(_) = goal
        && outcome.status != Status::Succeeded
    {
        // Where the generation did not come to be, its secrets have nobody left.
        files::remove_tree(&service.secrets(attempt))?;
    }
    files::remove(&service.cancel())?;
    for root in service.attempt_roots(attempt) {
        files::remove(&root)?;
    }
    files::remove(&service.goal(attempt))?;
    if let Err(e) = reserve::keep(&service.layout) {
        // The next deployment needs it, and says so.
        say(format_args!("no room is held for the next activation: {}", e.full()));
    }
    Ok(())
}

/// The last of a service that is removed: its state, its records, its lease.
pub fn erase(service: &Service) -> Result<()> {
    let gone = service.layout.removed(&service.name);
    // Of an earlier one, whose process was killed here.
    files::remove_tree(&gone)?;
    match std::fs::rename(&service.home, &gone) {
        Ok(()) => files::sync_dir(&service.layout.services())?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("move aside", &service.home, e)),
    }
    sweep(service)
}

/// Deletes what a removal has put aside.
fn sweep(service: &Service) -> Result<()> {
    files::remove_tree(&service.layout.removed(&service.name))
}

/// Brings to an end what the state says is under way, and writes it into the record of that attempt.
pub fn end_pending(service: &Service, state: &mut ServiceState) -> Result<()> {
    let Some(pending) = state.pending.clone() else { return Ok(()) };
    // One that is started again and a new deployment may both be here, where no lease could be written.
    let _kept = journal::keep(service, pending.attempt).ok();
    *state = ServiceState::load(&service.state(), &service.name)?;
    if state.pending.as_ref() != Some(&pending) {
        return Ok(());
    }
    let journal = Journal::reopen(service, pending.attempt).ok();
    let mut world = world(service, journal, None)?;
    let goal = goal::read(service, pending.attempt).ok();
    if let Some(outcome) = activation::recover(&mut world, state, goal.as_ref())? {
        let outcome = state.complete(outcome);
        if let Ok(mut journal) = Journal::reopen(service, pending.attempt)
            && journal::read(service, pending.attempt).is_ok_and(|r| r.outcome().is_none())
        {
            reserve::spend(&service.layout, || journal.end(&outcome))?;
        }
        if let Work::Remove { .. } = pending.work
            && outcome.status == Status::Succeeded
        {
            // Also where its goal cannot be read any more.
            return erase(service);
        }
        if let Some(goal) = goal {
            finish(service, pending.attempt, &goal, &outcome)?;
        }
    }
    Ok(())
}

/// Ends the records of attempts that nobody works on any more.
pub fn end_abandoned(service: &Service) -> Result<()> {
    let numbers = journal::numbers(service);
    // Asked after the numbers and before the records: whoever begins now is not among the first, and whoever ends now has
    // written so into the second.
    let holder = lease::holder(service).map(|(holder, _)| holder);
    // Its number is in the lease a moment after its record is there.
    let held = |attempt: &Attempt| {
        let of =
            |h: &Holder| h.attempt == attempt.attempt || h.attempt == 0 && h.deployment == attempt.deployment;
        holder.as_ref().is_some_and(of)
    };
    let state = ServiceState::load(&service.state(), &service.name)?;
    let busy = state.pending.as_ref().map(|p| p.attempt);
    for number in numbers.into_iter().rev().take(20) {
        // One that another version wrote is that version's to end.
        let Ok(record) = journal::read(service, number) else { continue };
        if Some(number) == busy || record.outcome().is_some() || held(&record.attempt) {
            continue;
        }
        let outcome = match goal::read(service, number) {
            // Its work was over, and the power went before its record said so.
            Ok(goal) if record.status() > Status::Copying => ended(&state, number, &goal),
            _ => {
                let interrupted = Error::new(Kind::Interrupted, "it was interrupted before its activation")
                    .hint("deploy again: what was copied is there");
                Outcome::unchanged(Status::Interrupted, state.serving).because(&interrupted)
            }
        };
        Journal::reopen(service, number)?.end(&state.complete(outcome))?;
        files::remove(&service.goal(number))?;
        for root in service.attempt_roots(number) {
            files::remove(&root)?;
        }
        let kept = state.generations.values().any(|g| g.attempt == number);
        if !kept {
            files::remove_tree(&service.secrets(number))?;
        }
    }
    Ok(())
}

/// The links of a generation, also where somebody removed them.
pub fn link(service: &Service, number: u64, generation: &Generation) -> Result<()> {
    HostWorld::new(service, None, None)?.link(number, &generation.wanted)
}

/// After a start of the host, each service is exactly what its state says.
pub fn boot(layout: &Layout) -> Result<()> {
    let mut failed = None;
    for put_aside in removed(layout) {
        if let Err(e) = files::remove_tree(&put_aside) {
            say(format_args!("{}", e.full()));
        }
    }
    for name in layout.known() {
        let service = layout.service(&name);
        let brought_back = || {
            scaling::begin_with_the_minimum(&service)?;
            boot_service(layout, &name)
        };
        match lease::undisturbed(&service, brought_back) {
            Ok(Some(())) => {}
            Ok(None) => say(format_args!("{name}: left to whoever changes it now: see `stillframe status`")),
            Err(e) => {
                say(format_args!("{name}: {}", e.full()));
                failed.get_or_insert(e);
            }
        }
    }
    match failed {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// What removals have put aside and did not live to delete.
fn removed(layout: &Layout) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(layout.services()).into_iter().flatten().flatten();
    let is_one =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".removed-"));
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

/// Ends what was cut off, and makes the service what its state says. Nobody else may change it meanwhile (`lease`).
pub fn boot_service(layout: &Layout, name: &str) -> Result<()> {
    let service = layout.service(name);
    fault::point(name, "boot/begin")?;
    let mut state = ServiceState::load(&service.state(), name)?;
    fault::around(name, "boot/pending", || end_pending(&service, &mut state))?;
    if !service.home.exists() {
        // A removal that was cut off came to its end.
        return Ok(());
    }
    fault::around(name, "boot/abandoned", || end_abandoned(&service))?;
    let mut world = world(&service, None, None)?;
    activation::reconcile(&mut world, &mut state)
}
