//! An activation: the transaction that takes a service from one generation to the next.
//!
//! ```text
//! reserve ─▶ the store on disk ─▶ units ─▶ start ─▶ healthy ─▶ swap the table ─▶ drain ─▶ COMMIT ─▶ stop the old ─▶ retention
//! ```
//!
//! Before the commit every failure brings back exactly the generation that the state named when it began;
//! after it, nothing that fails takes the new one away. `recover` does the same for an activation whose
//! process is gone: the state on disk says on which side of the commit it was.
use crate::host::change::Change;
use crate::host::goal::Goal;
use crate::host::life;
use crate::host::state::{Generation, Pending, Place, ServiceState, Work};
use crate::host::world::{Status, World};
use crate::protocol::messages::Outcome;
use crate::protocol::spec::{Rotation, Spec, Wanted};
use crate::sys::error::{Error, Kind, Result};

/// Carries out one activation. `Err` only where not even the state could be written or brought back.
pub fn activate(
    world: &mut dyn World,
    state: &mut ServiceState,
    goal: &Goal,
    attempt: u64,
    now: u64,
) -> Result<Outcome> {
    let number = match goal {
        Goal::Withdraw { why } => return withdraw(world, state, attempt, why),
        Goal::Restart { instances } => return life::restart(world, state, attempt, instances),
        Goal::Stop { stopped } => return life::stop(world, state, attempt, stopped),
        Goal::Remove { data } => return life::remove(world, state, attempt, *data),
        Goal::Kept(number) | Goal::Start(number) | Goal::Restored { to: number, .. } => {
            known(state, *number)?
        }
        Goal::New(wanted) => {
            state.data_is_new = state.generations.is_empty() && !world.has_data();
            reserve(state, wanted, attempt, now)
        }
    };
    let previous = state.serving;
    let kept = goal.target().is_some();
    if kept && previous == Some(number) {
        let text = format!("generation {number} serves already");
        return Ok(goal.reached(Outcome::succeeded(number, previous).warning(vec![text])));
    }
    let own = state.generations.get(&number);
    let (before, after_stop) = match goal {
        Goal::Restored { .. } => own.map_or((None, None), |own| (own.before, own.after_stop.clone())),
        Goal::Start(_) => (own.and_then(|own| own.before), state.stopped.clone()),
        _ => (state.current(), state.stopped.clone()),
    };
    state.pending = Some(Pending { attempt, generation: number, previous, kept, work: Work::Activation });
    if kept {
        bring_up(state, number);
    }
    let mut change = Change { previous, kept, before, after_stop, ..Change::new(world, state, number) };
    match change.forward() {
        Ok(()) => {
            let warnings = change.finish()?;
            Ok(goal.reached(Outcome::succeeded(number, previous).warning(warnings)))
        }
        Err(error) => {
            let Undone { swapped, lost } = change.back(&error)?;
            let status = match (error.kind, swapped) {
                (Kind::Interrupted, _) => Status::Cancelled,
                (_, true) => Status::Reverted,
                (_, false) => Status::Failed,
            };
            Ok(losing(Outcome::unchanged(status, previous).because(&error), lost))
        }
    }
}

/// What a way back came to.
struct Undone {
    /// Traffic had moved.
    swapped: bool,
    /// Work that was begun and does not end.
    lost: Option<String>,
}

/// Lost work is said beside the reason, where everybody reads it.
fn losing(outcome: Outcome, lost: Option<String>) -> Outcome {
    let Some(lost) = lost else { return outcome };
    let error = outcome.error.clone().map_or_else(|| lost.clone(), |error| format!("{error}; {lost}"));
    outcome.saying(error).warning(vec![lost])
}

/// A generation that served before starts with as many instances as are needed now.
fn bring_up(state: &mut ServiceState, number: u64) {
    let spec = state.generations.get(&number).map(|g| g.wanted.spec.clone());
    if let Some(spec) = spec.filter(|spec| spec.scaling.is_some()) {
        let places = places(state, &spec);
        if let Some(generation) = state.generations.get_mut(&number) {
            generation.instances = places;
        }
    }
}

fn known(state: &ServiceState, number: u64) -> Result<u64> {
    if state.generations.contains_key(&number) {
        return Ok(number);
    }
    let all: Vec<String> = state.generations.keys().map(u64::to_string).collect();
    Err(Error::new(Kind::Input, format!("{} has no generation {number}", state.service))
        .hint(format!("it has: {}", all.join(", "))))
}

/// Where instances of a generation that is to serve start: as many as its specification says, and with a policy as many as
/// serve now. One at least, to see that it works; the gateway lets it go when there is nothing to do.
fn places(state: &ServiceState, spec: &Spec) -> Vec<Place> {
    let count = match &spec.scaling {
        None => spec.instances,
        Some(policy) => {
            let now = state.serving.map_or(0, |serving| state.instances(serving).len() as u32);
            now.clamp(policy.minimum, policy.maximum).max(1)
        }
    };
    (0..count.min(spec.slots.len() as u32)).map(|slot| Place { slot, port: None }).collect()
}

/// A new generation with its number and its slots.
fn reserve(state: &mut ServiceState, wanted: &Wanted, attempt: u64, now: u64) -> u64 {
    let number = state.next_generation;
    let instances = places(state, &wanted.spec);
    let generation = Generation {
        wanted: wanted.clone(),
        created: now,
        attempt,
        instances,
        before: None,
        after_stop: None,
    };
    state.generations.insert(number, generation);
    state.next_generation = number + 1;
    number
}

/// Ends an activation whose process is gone: exactly the committed generation serves afterwards. `goal`: what
/// it was to do, where that can still be read.
pub fn recover(
    world: &mut dyn World,
    state: &mut ServiceState,
    goal: Option<&Goal>,
) -> Result<Option<Outcome>> {
    let Some(Pending { generation: number, previous, kept, work, .. }) = state.pending.clone() else {
        return Ok(None);
    };
    match work {
        Work::Activation => {}
        Work::Restart => return life::recover_restart(world, state, number).map(Some),
        Work::Stop => return life::recover_stop(world, state, number).map(Some),
        Work::Remove { data, begun } => {
            return life::recover_removal(world, state, number, data, begun).map(Some);
        }
    }
    let committed = state.serving == Some(number);
    let mut change = Change { previous, kept, before: previous, ..Change::new(world, state, number) };
    let text = "the activation was interrupted";
    if committed {
        change.world.must_end();
        change.tell(Status::Draining, &format!("{text} after its commit: finishing it"));
        // After a power loss nothing runs yet: who asks for an older picture gets it from the first answer on.
        change.end_others(Some(number));
        change.serve(number)?;
        let outcome = Outcome::succeeded(number, previous).warning(change.finish()?);
        return Ok(Some(match goal {
            Some(goal) => goal.reached(outcome),
            None => outcome,
        }));
    }
    let error = Error::new(Kind::Host, text).hint("deploy again; the previous generation serves");
    let lost = change.back(&error)?.lost;
    let outcome = match goal {
        // Nothing was to serve, and nothing does.
        Some(goal @ Goal::Withdraw { .. }) => goal.reached(withdrawn(number)),
        _ => Outcome::unchanged(Status::Interrupted, previous).because(&error),
    };
    Ok(Some(losing(outcome, lost)))
}

/// Makes a host be what its state says: after a boot, or after somebody's hand was in it.
pub fn reconcile(world: &mut dyn World, state: &mut ServiceState) -> Result<()> {
    if let (None, Some(stopped)) = (state.serving, state.stopped.clone()) {
        return life::stay_stopped(world, state, stopped.generation);
    }
    let Some(number) = state.serving else { return Ok(()) };
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    for e in change.end_others(Some(number)) {
        change.tell(Status::Draining, &format!("what should not run: {}", e.full()));
    }
    change.serve(number)?;
    world.forget(state)
}

/// Ends what the state does not know to serve, and throws away what it left; says what of that failed.
pub fn tidy(world: &mut dyn World, state: &mut ServiceState) -> Vec<Error> {
    if let (None, Some(stopped)) = (state.serving, state.stopped.clone()) {
        return life::stay_stopped(world, state, stopped.generation).err().into_iter().collect();
    }
    let Some(number) = state.serving else { return Vec::new() };
    world.must_end();
    let mut failed = Change { kept: true, ..Change::new(world, state, number) }.end_others(Some(number));
    failed.extend(world.forget(state).err());
    failed
}

/// Ends a service that had nothing before what serves now: as if it had never been deployed.
fn withdraw(world: &mut dyn World, state: &mut ServiceState, attempt: u64, why: &str) -> Result<Outcome> {
    let Some(number) = state.serving else {
        return Err(Error::new(Kind::Input, format!("{} serves nothing", state.service)));
    };
    state.serving = None;
    state.stopped = state.generations.get(&number).and_then(|g| g.after_stop.clone());
    state.pending =
        Some(Pending { attempt, generation: number, previous: None, kept: false, work: Work::Activation });
    world.save(state)?;
    let lost = Change::new(world, state, number).back(&Error::new(Kind::Host, why))?.lost;
    Ok(losing(withdrawn(number).saying(why), lost))
}

fn withdrawn(number: u64) -> Outcome {
    Outcome { previous: Some(number), ..Outcome::unchanged(Status::Reverted, None) }
}

impl Change<'_> {
    /// Everything up to the commit.
    fn forward(&mut self) -> Result<()> {
        let number = self.number;
        self.world.step(Status::Starting, &format!("generation {number} reserved"))?;
        self.world.save(self.state)?;
        let generation = self.generation(number)?;
        let spec = &generation.wanted.spec;
        self.world.link(number, &generation.wanted)?;
        // All that the commit will refer to is there by now; traffic has not moved yet, so nobody waits for the disk.
        self.world.step(Status::Starting, "what was copied is written to disk")?;
        self.world.sync_store()?;
        self.world.write_units(number, &generation)?;
        self.prepare_gateway(&generation)?;
        match spec.rotation {
            Rotation::Surge => self.start_and_check(&generation)?,
            Rotation::Replace => {
                // The old one of the GPU must be gone before the new one starts; requests are held meanwhile.
                self.drain_previous(spec.drain_ms)?;
                self.stop_previous()?;
                self.start_and_check(&generation)?;
            }
        }
        self.world.step(Status::Rotating, &format!("traffic moves to generation {number}"))?;
        // Keys, limits and the public port belong to the generation: until now clients were met as before.
        self.world.gateway(&generation)?;
        self.world.set_table(&self.state.table(Some(number)))?;
        if spec.rotation == Rotation::Surge {
            self.drain_previous(spec.drain_ms)?;
            // It has had all the traffic for a while: the last look before the point of no return.
            self.all_healthy(&generation)?;
        }
        self.commit()
    }

    /// From here on the new generation serves, whatever happens.
    fn commit(&mut self) -> Result<()> {
        let before = self.state.clone();
        self.state.serving = Some(self.number);
        self.state.stopped = None;
        if let Some(generation) = self.state.generations.get_mut(&self.number) {
            generation.before = self.before;
            generation.after_stop = self.after_stop.clone();
        }
        let saved = self.world.save(self.state);
        if saved.is_err() {
            *self.state = before;
        }
        saved
    }

    /// What follows the commit. Its failures are warnings: going back would be worse.
    fn finish(&mut self) -> Result<Vec<String>> {
        self.world.must_end();
        let mut warnings = Vec::new();
        let mut note = |what: &str, result: Result<()>| {
            if let Err(e) = result {
                warnings.push(format!("{what}: {}", e.full()));
            }
        };
        note("the profile", self.world.point(Some(self.number)));
        for e in self.end_others(Some(self.number)) {
            note("the old instances", Err(e));
        }
        for number in expired(self.state) {
            if let Some(generation) = self.state.generations.get(&number) {
                note(&format!("generation {number}"), self.world.unlink(number, generation.attempt));
            }
            self.state.generations.remove(&number);
        }
        note("links of earlier generations", self.world.forget(self.state));
        // The kept ones, too: a hand or another program may have removed links.
        for (number, generation) in &self.state.generations {
            note(&format!("the links of generation {number}"), self.world.link(*number, &generation.wanted));
        }
        self.state.pending = None;
        self.world.save(self.state)?;
        Ok(warnings)
    }

    /// Brings back exactly what served before.
    fn back(&mut self, why: &Error) -> Result<Undone> {
        self.world.must_end();
        let number = self.number;
        // Whether anybody could have noticed: the new one has traffic, or the old one has none any more.
        let (swapped, had_traffic) = match self.world.gateway_status() {
            Ok(reply) => {
                let serves = |n: u64| reply.targets.iter().any(|t| t.generation == n && !t.draining);
                let swapped = serves(number) || self.previous.is_some_and(|previous| !serves(previous));
                (swapped, reply.targets.iter().any(|t| t.generation == number))
            }
            // It may not even be there yet.
            Err(_) => (false, false),
        };
        let text = match self.previous {
            Some(previous) => format!("{why}: back to generation {previous}"),
            None if self.state.stopped.is_some() => format!("{why}: {} stays stopped", self.state.service),
            None => format!("{why}: nothing served before"),
        };
        self.tell(if swapped { Status::Rotating } else { Status::Starting }, &text);
        if let Some(previous) = self.previous {
            self.serve(previous)?;
        }
        if self.previous.is_none()
            && had_traffic
            && let Err(e) = self.world.set_table(&self.state.table(None))
        {
            self.tell(Status::Draining, &format!("new requests still come: {}", e.full()));
        }
        let lost = if had_traffic { self.drain_new() } else { None };
        if let Some(e) = self.end_others(self.previous).into_iter().next() {
            return Err(e);
        }
        if self.goes_whole()
            && let Err(e) = self.world.remove_data()
        {
            self.tell(Status::Starting, &format!("the instances' folder stays: {}", e.full()));
        }
        if self.previous.is_none() {
            self.world.remove_gateway()?;
            if self.goes_whole()
                && let Err(e) = self.world.remove_jobs()
            {
                self.tell(Status::Starting, &format!("the gateway's jobs stay: {}", e.full()));
            }
            self.world.point(None)?;
        }
        if !self.kept {
            let attempt = self.state.generations.get(&number).map_or(0, |g| g.attempt);
            self.world.unlink(number, attempt)?;
            self.state.generations.remove(&number);
        }
        self.state.pending = None;
        self.world.save(self.state)?;
        Ok(Undone { swapped, lost })
    }
}

/// Generations that retention no longer keeps: neither serving, nor the one before, nor among the newest.
pub fn expired(state: &ServiceState) -> Vec<u64> {
    let Some(serving) = state.current() else { return Vec::new() };
    let Some(generation) = state.generations.get(&serving) else { return Vec::new() };
    let keep = generation.wanted.spec.retention.generations as usize;
    let before = generation.before.filter(|n| state.generations.contains_key(n));
    let others = state.generations.keys().rev().filter(|n| **n != serving && Some(**n) != before);
    others.skip(keep.saturating_sub(usize::from(before.is_some()))).copied().collect()
}

#[cfg(test)]
#[path = "activation_tests.rs"]
mod tests;
