//! What is done with a service as a whole while its generation stays: its instances are started anew, one after the
//! other; it is stopped, and stays so.
//!
//! ```text
//! restart   for each instance: out of the table ─▶ drain ─▶ stop ─▶ start ─▶ healthy ─▶ into the table
//! stop      empty table ─▶ drain ─▶ COMMIT ─▶ no gateway ─▶ no instances
//! remove    empty table ─▶ drain ─▶ COMMIT ─▶ no gateway ─▶ no instances ─▶ nothing else ─▶ no state
//! ```
//!
//! A start is an activation of the generation that served (`activation`). A restart changes nothing that the state
//! says, so whatever fails in it ends with the generation serving. A stop that fails before its commit does, too; what
//! fails after it is done again. So is what fails after the commit of a removal: the state is the last that goes, and until
//! then it says what is to be done.
use crate::host::change::Change;
use crate::host::state::{Generation, Pending, Place, ServiceState, Work};
use crate::host::world::{Status, World};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::messages::{Outcome, Stopped};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};

/// Why nothing of a service can be restarted or stopped.
pub fn not_serving(state: &ServiceState) -> Error {
    let name = &state.service;
    match &state.stopped {
        Some(stopped) => Error::new(Kind::Input, told(name, stopped)).hint("start it: stillframe start"),
        None => Error::new(Kind::Input, format!("nothing of {name} is served here"))
            .hint("deploy it: stillframe deploy"),
    }
}

pub fn told(service: &str, stopped: &Stopped) -> String {
    let since = clock::rfc3339(stopped.since / 1000);
    format!("{service} was stopped by {} at {since}", stopped.by)
}

pub fn restart(
    world: &mut dyn World,
    state: &mut ServiceState,
    attempt: u64,
    which: &[InstanceId],
) -> Result<Outcome> {
    let Some(number) = state.serving else { return Err(not_serving(state)) };
    begin(state, attempt, number, Work::Restart);
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    let result = change.restart(which);
    change.world.must_end();
    if let Err(e) = &result {
        change.tell(Status::Rotating, &format!("{e}: generation {number} serves on"));
    }
    change.serve_on(number)?;
    Ok(match result {
        Ok(warnings) => Outcome::succeeded(number, Some(number)).warning(warnings),
        Err(e) => Outcome::unchanged(Status::of(&e), Some(number)).because(&e),
    })
}

pub fn stop(
    world: &mut dyn World,
    state: &mut ServiceState,
    attempt: u64,
    stopped: &Stopped,
) -> Result<Outcome> {
    let Some(number) = state.serving else { return Err(not_serving(state)) };
    begin(state, attempt, number, Work::Stop);
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    match change.stop(stopped) {
        Ok(warnings) => {
            change.end_all()?;
            Ok(was_stopped(number).warning(warnings))
        }
        Err(e) => {
            change.world.must_end();
            change.tell(Status::Rotating, &format!("{e}: generation {number} serves on"));
            change.serve_on(number)?;
            Ok(Outcome::unchanged(Status::of(&e), Some(number)).because(&e))
        }
    }
}

/// Takes a service from this host. What is left afterwards is its state alone, which says so (`activating::erase`).
pub fn remove(world: &mut dyn World, state: &mut ServiceState, attempt: u64, data: bool) -> Result<Outcome> {
    let (serving, last) = (state.serving, state.generations.keys().next_back().copied());
    let number = state.current().or(last).unwrap_or(0);
    begin(state, attempt, number, Work::Remove { data, begun: false });
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    let warnings = match change.drain_to_remove(serving) {
        Ok(warnings) => warnings,
        Err(e) => {
            change.world.must_end();
            let Some(number) = serving else {
                change.state.pending = None;
                change.world.save(change.state)?;
                return Ok(Outcome::unchanged(Status::of(&e), None).because(&e));
            };
            change.tell(Status::Rotating, &format!("{e}: generation {number} serves on"));
            change.serve_on(number)?;
            return Ok(Outcome::unchanged(Status::of(&e), Some(number)).because(&e));
        }
    };
    change.take_away(data)?;
    Ok(Outcome { previous: serving, ..Outcome::unchanged(Status::Succeeded, None) }.warning(warnings))
}

/// Of one whose process is gone.
pub fn recover_removal(
    world: &mut dyn World,
    state: &mut ServiceState,
    number: u64,
    data: bool,
    begun: bool,
) -> Result<Outcome> {
    if !begun && state.serving.is_some() {
        return interrupted(world, state, number, "the removal", "remove it again");
    }
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    change.world.must_end();
    if !begun {
        let error = Error::new(Kind::Host, "the removal was interrupted").hint("remove it again");
        change.state.pending = None;
        change.world.save(change.state)?;
        return Ok(Outcome::unchanged(Status::Interrupted, None).because(&error));
    }
    change.tell(Status::Draining, "the removal was interrupted after its commit: finishing it");
    change.take_away(data)?;
    Ok(Outcome { previous: Some(number), ..Outcome::unchanged(Status::Succeeded, None) })
}

fn was_stopped(number: u64) -> Outcome {
    Outcome { previous: Some(number), ..Outcome::unchanged(Status::Succeeded, None) }
}

fn begin(state: &mut ServiceState, attempt: u64, number: u64, work: Work) {
    state.pending = Some(Pending { attempt, generation: number, previous: Some(number), kept: true, work });
}

/// Of one whose process is gone: every instance runs and has traffic.
pub fn recover_restart(world: &mut dyn World, state: &mut ServiceState, number: u64) -> Result<Outcome> {
    interrupted(world, state, number, "the restart", "restart again")
}

/// Before its commit all is as it was; after it the rest is done.
pub fn recover_stop(world: &mut dyn World, state: &mut ServiceState, number: u64) -> Result<Outcome> {
    if state.serving.is_some() {
        return interrupted(world, state, number, "the stop", "stop it again");
    }
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    change.world.must_end();
    change.tell(Status::Draining, "the stop was interrupted after its commit: finishing it");
    change.end_all()?;
    Ok(was_stopped(number))
}

fn interrupted(
    world: &mut dyn World,
    state: &mut ServiceState,
    number: u64,
    what: &str,
    hint: &str,
) -> Result<Outcome> {
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    change.world.must_end();
    let error = Error::new(Kind::Host, format!("{what} was interrupted")).hint(hint);
    change.tell(Status::Starting, &format!("{error}: generation {number} serves on"));
    change.serve_on(number)?;
    Ok(Outcome::unchanged(Status::Interrupted, Some(number)).because(&error))
}

/// Nothing of a stopped service runs, whatever a crash or a hand left.
pub fn stay_stopped(world: &mut dyn World, state: &mut ServiceState, number: u64) -> Result<()> {
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    change.world.must_end();
    change.end_all_now()?;
    world.forget(state)
}

impl Change<'_> {
    /// Starts instances anew, one after the other: each is drained first, and has no traffic before it is healthy.
    fn restart(&mut self, which: &[InstanceId]) -> Result<Vec<String>> {
        let number = self.number;
        self.world.step(Status::Starting, &format!("restarting {} of generation {number}", listed(which)))?;
        self.world.save(self.state)?;
        let generation = self.generation(number)?;
        let places: Vec<Place> =
            generation.instances.iter().copied().filter(|p| which.contains(&self.id(*p))).collect();
        self.world.gateway(&patient(&generation))?;
        let mut warnings = Vec::new();
        for place in places {
            let id = self.id(place);
            let alone = Generation { instances: vec![place], ..generation.clone() };
            self.world.step(Status::Draining, &format!("{id} finishes what it has"))?;
            self.world.set_table(&self.state.table_without(number, id))?;
            warnings.extend(self.drain_for_end(number, &alone)?);
            self.world.stop(id)?;
            self.start_and_check(&alone)?;
            self.world.step(Status::Rotating, &format!("{id} has traffic again"))?;
            self.world.set_table(&self.state.table(Some(number)))?;
        }
        Ok(warnings)
    }

    /// Up to the commit of a stop.
    fn stop(&mut self, stopped: &Stopped) -> Result<Vec<String>> {
        let number = self.number;
        self.world.step(Status::Draining, &format!("generation {number} finishes what it has"))?;
        self.world.save(self.state)?;
        let generation = self.generation(number)?;
        self.world.set_table(&self.state.table(None))?;
        let warnings = self.drain_for_end(number, &generation)?.into_iter().collect();
        let before = self.state.clone();
        self.state.serving = None;
        self.state.stopped = Some(stopped.clone());
        // What a later deployment does that fails must not take the data of this one away.
        self.state.data_is_new = false;
        match self.world.save(self.state) {
            Ok(()) => Ok(warnings),
            Err(e) => {
                *self.state = before;
                Err(e)
            }
        }
    }

    /// Up to the commit of a removal.
    fn drain_to_remove(&mut self, serving: Option<u64>) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let name = self.state.service.clone();
        self.world.step(Status::Draining, &format!("{name} is to go; what serves finishes what it has"))?;
        self.world.save(self.state)?;
        if let Some(number) = serving {
            let generation = self.generation(number)?;
            self.world.set_table(&self.state.table(None))?;
            warnings.extend(self.drain_for_end(number, &generation)?);
        }
        let before = self.state.clone();
        (self.state.serving, self.state.stopped) = (None, None);
        if let Some(pending) = &mut self.state.pending
            && let Work::Remove { begun, .. } = &mut pending.work
        {
            *begun = true;
        }
        match self.world.save(self.state) {
            Ok(()) => Ok(warnings),
            Err(e) => {
                *self.state = before;
                Err(e)
            }
        }
    }

    /// What follows the commit of a removal.
    fn take_away(&mut self, data: bool) -> Result<()> {
        self.world.must_end();
        self.tell(Status::Draining, "the gateway and the instances stop, and all that was theirs goes");
        self.end_all_now()?;
        for (number, generation) in self.state.generations.clone() {
            self.world.unlink(number, generation.attempt)?;
        }
        if data {
            self.world.remove_data()?;
            self.world.remove_jobs()?;
        }
        self.world.remove_rest(self.state)
    }

    /// What follows the commit of a stop.
    fn end_all(&mut self) -> Result<()> {
        self.world.must_end();
        let units = self.state.units(self.number).join(", ");
        self.tell(Status::Draining, &format!("stopping the gateway and {units}"));
        self.end_all_now()?;
        self.state.pending = None;
        self.world.save(self.state)
    }

    fn end_all_now(&mut self) -> Result<()> {
        // First what answers.
        self.world.remove_gateway()?;
        if let Some(e) = self.end_others(None).into_iter().next() {
            return Err(e);
        }
        self.world.point(None)
    }

    /// The end of what does not change what serves.
    fn serve_on(&mut self, number: u64) -> Result<()> {
        self.serve(number)?;
        self.state.pending = None;
        self.world.save(self.state)
    }
}

fn listed(ids: &[InstanceId]) -> String {
    ids.iter().map(InstanceId::to_string).collect::<Vec<_>>().join(", ")
}

/// The same generation with a gateway that lets requests wait for as long as an instance may take to come back: where it
/// is the only one, none is refused meanwhile.
fn patient(generation: &Generation) -> Generation {
    let mut patient = generation.clone();
    let spec = &mut patient.wanted.spec;
    let smoke = if spec.health.smoke.is_some() { spec.health.smoke_ms } else { 0 };
    let longest = spec.drain_ms.saturating_add(spec.health.deadline_ms).saturating_add(smoke);
    spec.gateway.hold_ms = spec.gateway.hold_ms.max(longest);
    patient
}
