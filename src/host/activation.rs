//! An activation: the transaction that takes a service from one generation to the next.
//!
//! ```text
//! reserve ─▶ units ─▶ start ─▶ healthy ─▶ swap the table ─▶ drain ─▶ COMMIT ─▶ stop the old ─▶ retention
//! ```
//!
//! Before the commit every failure brings back exactly the generation that the state named when it began;
//! after it, nothing that fails takes the new one away. `recover` does the same for an activation whose
//! process is gone: the state on disk says on which side of the commit it was.
use crate::host::health::{Checks, Verdict};
use crate::host::state::{Generation, Pending, Place, ServiceState, unit};
use crate::host::world::{Status, World};
pub use crate::protocol::messages::Outcome;
use crate::protocol::spec::{Rotation, Wanted};
use crate::sys::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// Results of the old instances' last jobs are fetched from them: they stay this long after the last one.
const SETTLE_MS: u64 = 2_000;
/// How often the new ones are looked at while the old ones finish.
const WATCH_MS: u64 = 1_000;
/// So many bad answers in a row of one that had been healthy.
const LAST_LOOKS: u32 = 3;

/// What is to serve.
#[derive(Debug, Clone)]
pub enum Goal {
    New(Box<Wanted>),
    /// A generation that is still there.
    Kept(u64),
    /// The same, as if what served in between had never done so.
    Restored(u64),
}

struct Run<'a> {
    world: &'a mut dyn World,
    state: &'a mut ServiceState,
    number: u64,
    previous: Option<u64>,
    kept: bool,
    /// Becomes the generation that a rollback from `number` goes to.
    before: Option<u64>,
    /// How often each new unit had been restarted when it was healthy.
    restarts: BTreeMap<String, u64>,
}

/// Carries out one activation. `Err` only where not even the state could be written or brought back.
pub fn activate(
    world: &mut dyn World,
    state: &mut ServiceState,
    goal: &Goal,
    attempt: u64,
    now: u64,
    port_taken: impl Fn(u16) -> bool,
) -> Result<Outcome> {
    let previous = state.serving;
    let number = match goal {
        Goal::Kept(number) | Goal::Restored(number) if state.generations.contains_key(number) => *number,
        Goal::Kept(number) | Goal::Restored(number) => {
            let known: Vec<String> = state.generations.keys().map(u64::to_string).collect();
            return Err(Error::new(Kind::Input, format!("{} has no generation {number}", state.service))
                .hint(format!("it has: {}", known.join(", "))));
        }
        Goal::New(_) => state.next_generation,
    };
    let kept = !matches!(goal, Goal::New(_));
    let before = match goal {
        Goal::Restored(_) => state.generations.get(&number).and_then(|g| g.before),
        _ => previous,
    };
    if kept && previous == Some(number) {
        return Ok(Outcome {
            status: Status::Succeeded,
            generation: Some(number),
            snapshot: None,
            previous,
            error: None,
            hint: None,
            warnings: vec![format!("generation {number} serves already")],
        });
    }
    if let Goal::New(wanted) = goal {
        state.data_is_new = state.generations.is_empty() && !world.has_data();
        let count = (wanted.spec.instances as usize).min(wanted.spec.slots.len());
        let ports = state.free_ports(wanted.spec.ports, count, port_taken)?;
        let instances = ports.iter().zip(0..).map(|(port, slot)| Place { slot, port: *port }).collect();
        let generation =
            Generation { wanted: (**wanted).clone(), created: now, attempt, instances, before: None };
        state.generations.insert(number, generation);
        state.next_generation = number + 1;
    }
    state.pending = Some(Pending { attempt, generation: number, previous, kept });
    let mut run = Run { world, state, number, previous, kept, before, restarts: BTreeMap::new() };
    match run.forward() {
        Ok(()) => Ok(Outcome {
            status: Status::Succeeded,
            generation: Some(number),
            snapshot: None,
            previous,
            error: None,
            hint: None,
            warnings: run.finish()?,
        }),
        Err(error) => {
            let cancelled = error.kind == Kind::Interrupted;
            let swapped = run.back(&error)?;
            let status = match (cancelled, swapped) {
                (true, _) => Status::Cancelled,
                (false, true) => Status::Reverted,
                (false, false) => Status::Failed,
            };
            let cause = error.source.as_ref().map(|s| format!(": {s}")).unwrap_or_default();
            Ok(Outcome {
                status,
                generation: run.previous,
                snapshot: None,
                previous: run.previous,
                error: Some(format!("{error}{cause}")),
                hint: error.hint.clone(),
                warnings: Vec::new(),
            })
        }
    }
}

/// Ends an activation whose process is gone: exactly the committed generation serves afterwards.
pub fn recover(world: &mut dyn World, state: &mut ServiceState) -> Result<Option<Outcome>> {
    let Some(pending) = state.pending.clone() else { return Ok(None) };
    let committed = state.serving == Some(pending.generation);
    let mut run = Run {
        world,
        state,
        number: pending.generation,
        previous: pending.previous,
        kept: pending.kept,
        before: pending.previous,
        restarts: BTreeMap::new(),
    };
    let text = "the activation was interrupted";
    if committed {
        run.world.step(Status::Draining, &format!("{text} after its commit: finishing it"))?;
        run.serve(pending.generation)?;
        let warnings = run.finish()?;
        return Ok(Some(Outcome {
            status: Status::Succeeded,
            generation: Some(pending.generation),
            snapshot: None,
            previous: pending.previous,
            error: None,
            hint: None,
            warnings,
        }));
    }
    let error = Error::new(Kind::Host, text).hint("deploy again; the previous generation serves");
    run.back(&error)?;
    Ok(Some(Outcome {
        status: Status::Interrupted,
        generation: run.previous,
        snapshot: None,
        previous: run.previous,
        error: Some(text.into()),
        hint: error.hint,
        warnings: Vec::new(),
    }))
}

/// Makes a host be what its state says: after a boot, or after somebody's hand was in it.
pub fn reconcile(world: &mut dyn World, state: &mut ServiceState) -> Result<()> {
    let Some(number) = state.serving else { return Ok(()) };
    Run { world, state, number, previous: None, kept: true, before: None, restarts: BTreeMap::new() }
        .serve(number)
}

/// Ends a service that had nothing before what serves now: as if it had never been deployed.
pub fn withdraw(world: &mut dyn World, state: &mut ServiceState, attempt: u64, why: &str) -> Result<Outcome> {
    let Some(number) = state.serving else {
        return Err(Error::new(Kind::Input, format!("{} serves nothing", state.service)));
    };
    state.serving = None;
    state.pending = Some(Pending { attempt, generation: number, previous: None, kept: false });
    world.save(state)?;
    let error = Error::new(Kind::Host, why);
    Run { world, state, number, previous: None, kept: false, before: None, restarts: BTreeMap::new() }
        .back(&error)?;
    Ok(Outcome {
        status: Status::Reverted,
        generation: None,
        snapshot: None,
        previous: Some(number),
        error: Some(why.into()),
        hint: None,
        warnings: Vec::new(),
    })
}

impl Run<'_> {
    fn generation(&self, number: u64) -> Result<Generation> {
        self.state.generations.get(&number).cloned().ok_or_else(|| {
            Error::new(Kind::Host, format!("{} has no generation {number} any more", self.state.service))
        })
    }

    /// Everything up to the commit.
    fn forward(&mut self) -> Result<()> {
        let number = self.number;
        self.world.step(Status::Starting, &format!("generation {number} reserved"))?;
        self.world.save(self.state)?;
        let generation = self.generation(number)?;
        let spec = &generation.wanted.spec;
        self.world.link(number, &generation.wanted)?;
        self.world.write_units(number, &generation)?;
        self.world.gateway(&generation.wanted)?;
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
        self.world.set_table(&self.state.table(Some(number)))?;
        if spec.rotation == Rotation::Surge {
            self.drain_previous(spec.drain_ms)?;
            // It has had all the traffic for a while: the last look before the point of no return.
            self.all_healthy(&generation)?;
        }
        self.commit()
    }

    fn start_and_check(&mut self, generation: &Generation) -> Result<()> {
        let units = self.state.units(self.number);
        self.world.step(Status::Starting, &format!("starting {}", units.join(", ")))?;
        for unit in &units {
            self.world.start(unit)?;
        }
        self.world.step(Status::Checking, &format!("waiting for {} healthy", units.len()))?;
        let started = self.world.now();
        let spec = &generation.wanted.spec;
        let health = &spec.health;
        let mut checks: Vec<Checks> =
            generation.instances.iter().map(|_| Checks::new(health, started)).collect();
        loop {
            let mut all = true;
            for (place, check) in generation.instances.iter().zip(&mut checks) {
                if check.passed() {
                    continue;
                }
                let name = unit(&self.state.service, place.slot, self.number);
                let state = self.world.unit(&name)?;
                let answer = self.world.probe(place.port, spec)?;
                let now = self.world.now();
                match check.look(now, &state, answer) {
                    Verdict::Healthy => drop(self.restarts.insert(name, state.restarts)),
                    Verdict::NotYet => all = false,
                    Verdict::Dead(why) => return Err(self.unhealthy(&name, &why)),
                }
            }
            if all {
                break;
            }
            self.world.wait(health.interval_ms)?;
        }
        for place in &generation.instances {
            self.all_classes(generation, *place)?;
        }
        if let Some(workflow) = &health.smoke {
            self.world.step(Status::Checking, "running the smoke workflow")?;
            for place in &generation.instances {
                if let Err(why) = self.world.smoke(place.port, workflow, health.smoke_ms)? {
                    let name = unit(&self.state.service, place.slot, self.number);
                    return Err(self.unhealthy(&name, &format!("did not run the smoke workflow: {why}")));
                }
            }
        }
        Ok(())
    }

    /// An instance may answer while a pack of it failed to import (ComfyUI only logs that): its node classes
    /// tell.
    fn all_classes(&mut self, generation: &Generation, place: Place) -> Result<()> {
        let wanted = &generation.wanted.classes;
        if wanted.is_empty() {
            return Ok(());
        }
        let name = unit(&self.state.service, place.slot, self.number);
        let has = match self.world.classes(place.port)? {
            Ok(classes) => classes,
            Err(why) => return Err(self.unhealthy(&name, &format!("does not tell its node classes: {why}"))),
        };
        let lacks: Vec<(&String, &String)> =
            wanted.iter().filter(|(class, _)| !has.contains(*class)).collect();
        if lacks.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> =
            lacks.iter().take(5).map(|(class, module)| format!("{class} ({module})")).collect();
        let more = if lacks.len() > 5 { format!(" and {} more", lacks.len() - 5) } else { String::new() };
        let why = format!(
            "lacks {} node classes that the environment's own server has: {}{more}",
            lacks.len(),
            shown.join(", ")
        );
        Err(self.unhealthy(&name, &why))
    }

    fn unhealthy(&mut self, unit: &str, why: &str) -> Error {
        let tail = self.world.log_tail(unit);
        let tail = if tail.is_empty() { String::new() } else { format!("; its last words:\n{tail}") };
        Error::new(Kind::Host, format!("{unit} {why}{tail}"))
            .hint(format!("all it said: stillframe logs, or on the host journalctl -u {unit}"))
    }

    /// Whether what was healthy still runs, and is the same process.
    fn still_up(&mut self, generation: &Generation) -> Result<()> {
        for place in &generation.instances {
            let name = unit(&self.state.service, place.slot, self.number);
            let now = self.world.unit(&name)?;
            if now.is_over() || self.restarts.get(&name).is_some_and(|then| now.restarts > *then) {
                return Err(self.unhealthy(&name, "was healthy, then ended"));
            }
        }
        Ok(())
    }

    fn all_healthy(&mut self, generation: &Generation) -> Result<()> {
        self.still_up(generation)?;
        let spec = &generation.wanted.spec;
        for place in &generation.instances {
            let name = unit(&self.state.service, place.slot, self.number);
            let mut tries = 1;
            while let Err(why) = self.world.probe(place.port, spec)? {
                // It has traffic now, and answers late while a node computes.
                if tries == LAST_LOOKS {
                    return Err(self.unhealthy(&name, &format!("was healthy, then {why}")));
                }
                tries += 1;
                self.world.wait(spec.health.interval_ms)?;
            }
        }
        Ok(())
    }

    /// Waits until the old instances have nothing to do, or the limit has passed; then what is still open is cut.
    fn drain_previous(&mut self, limit: u64) -> Result<()> {
        let Some(previous) = self.previous else { return Ok(()) };
        let generation = self.generation(previous)?;
        self.world.step(Status::Draining, &format!("generation {previous} finishes what it has"))?;
        let new = self.generation(self.number)?;
        if new.wanted.spec.rotation == Rotation::Replace {
            self.world.set_table(&self.state.table(None))?;
        }
        let until = self.world.now() + limit;
        let (mut worked, mut looked) = (None, None);
        loop {
            let reply = self.world.gateway_status()?;
            let open: u64 = reply
                .targets
                .iter()
                .filter(|t| t.generation == previous)
                .map(|t| t.requests + t.websockets)
                .sum();
            let jobs: u64 = generation.instances.iter().filter_map(|p| self.world.queue(p.port)).sum();
            let now = self.world.now();
            if jobs > 0 {
                worked = Some(now);
            }
            if open == 0 && jobs == 0 && worked.is_none_or(|last| now >= last + SETTLE_MS) {
                return Ok(());
            }
            if now >= until {
                for target in reply.targets.iter().filter(|t| t.generation == previous) {
                    self.world.cut(&target.id)?;
                }
                return self.world.step(
                    Status::Draining,
                    &format!("drain limit reached: {open} connections cut, {jobs} jobs lost"),
                );
            }
            if looked.is_none_or(|at| now >= at + WATCH_MS) && !self.restarts.is_empty() {
                looked = Some(now);
                self.still_up(&new)?;
            }
            self.world.wait(200)?;
        }
    }

    fn stop_previous(&mut self) -> Result<()> {
        for unit in self.previous.map(|n| self.state.units(n)).unwrap_or_default() {
            self.world.stop(&unit)?;
        }
        Ok(())
    }

    /// From here on the new generation serves, whatever happens.
    fn commit(&mut self) -> Result<()> {
        let old = (self.state.serving, self.state.generations.get(&self.number).and_then(|g| g.before));
        let set = |state: &mut ServiceState, serving, number, before| {
            state.serving = serving;
            if let Some(generation) = state.generations.get_mut(&number) {
                generation.before = before;
            }
        };
        set(self.state, Some(self.number), self.number, self.before);
        self.world.save(self.state).inspect_err(|_| set(self.state, old.0, self.number, old.1))
    }

    /// What follows the commit. Its failures are warnings: going back would be worse.
    fn finish(&mut self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let mut note = |what: &str, result: Result<()>| {
            if let Err(e) = result {
                warnings.push(format!("{what}: {e}"));
            }
        };
        note("the profile", self.world.point(Some(self.number)));
        if let Some(previous) = self.previous {
            for unit in self.state.units(previous) {
                let heir = self.heir(&unit, self.number);
                // One that does not stop still needs its slot and its file.
                let gone = self.world.stop(&unit).and_then(|()| self.clear(&unit, heir.as_deref()));
                note(&unit, gone.and_then(|()| self.world.remove_units(std::slice::from_ref(&unit))));
            }
        }
        for number in expired(self.state) {
            if let Some(generation) = self.state.generations.get(&number) {
                note(&format!("generation {number}"), self.world.unlink(number, generation.attempt));
            }
            self.state.generations.remove(&number);
        }
        note("the gateway", self.world.settle(self.state));
        self.state.pending = None;
        self.world.save(self.state)?;
        Ok(warnings)
    }

    /// The unit of generation `number` that goes on with the pictures of `unit`: the one of its slot, or the first.
    fn heir(&self, unit: &str, number: u64) -> Option<String> {
        let slot = |name: &str| name.rsplit_once("-g").map(|(rest, _)| rest.to_string());
        let units = self.state.units(number);
        units.iter().find(|u| slot(u) == slot(unit)).or(units.first()).cloned()
    }

    /// Throws a slot away and records what its instance had written into its own program.
    fn clear(&mut self, unit: &str, heir: Option<&str>) -> Result<()> {
        let written = match self.world.clear_slot(unit, heir) {
            Ok(written) if written.is_empty() => return Ok(()),
            Ok(written) => written,
            // Only space is lost, and the slot's next instance clears it.
            Err(e) => return self.world.step(Status::Draining, &format!("the slot of {unit} stays: {e}")),
        };
        let shown: Vec<&str> = written.iter().take(10).map(String::as_str).collect();
        let more =
            if written.len() > 10 { format!(" and {} more", written.len() - 10) } else { String::new() };
        let text = format!("{unit} had written into its own program: {}{more}", shown.join(", "));
        self.world.step(Status::Draining, &text)
    }

    /// Makes sure that a generation runs and has the traffic.
    fn serve(&mut self, number: u64) -> Result<()> {
        let generation = self.generation(number)?;
        self.world.link(number, &generation.wanted)?;
        self.world.write_units(number, &generation)?;
        for unit in self.state.units(number) {
            if self.world.unit(&unit)?.is_over() {
                self.world.start(&unit)?;
            }
        }
        self.world.gateway(&generation.wanted)?;
        self.world.set_table(&self.state.table(Some(number)))?;
        self.world.point(Some(number))
    }

    /// Brings back exactly what served before. Says whether traffic had moved.
    fn back(&mut self, why: &Error) -> Result<bool> {
        let number = self.number;
        // Whether anybody could have noticed: the new one has traffic, or the old one has none any more.
        let swapped = match self.world.gateway_status() {
            Ok(reply) => {
                let serves = |n: u64| reply.targets.iter().any(|t| t.generation == n && !t.draining);
                serves(number) || self.previous.is_some_and(|previous| !serves(previous))
            }
            // It may not even be there yet.
            Err(_) => false,
        };
        let text = match self.previous {
            Some(previous) => format!("{why}: back to generation {previous}"),
            None => format!("{why}: nothing served before"),
        };
        self.world.step(if swapped { Status::Rotating } else { Status::Starting }, &text)?;
        if let Some(previous) = self.previous {
            self.serve(previous)?;
        }
        let units = self.state.units(number);
        for unit in &units {
            self.world.stop(unit)?;
            let heir = self.previous.and_then(|previous| self.heir(unit, previous));
            self.clear(unit, heir.as_deref())?;
        }
        if self.previous.is_none()
            && self.state.data_is_new
            && let Err(e) = self.world.remove_data()
        {
            self.world.step(Status::Starting, &format!("the instances' folder stays: {e}"))?;
        }
        self.world.remove_units(&units)?;
        if self.previous.is_none() {
            self.world.remove_gateway()?;
            self.world.point(None)?;
        }
        if !self.kept {
            let attempt = self.state.generations.get(&number).map_or(0, |g| g.attempt);
            self.world.unlink(number, attempt)?;
            self.state.generations.remove(&number);
        }
        self.state.pending = None;
        self.world.save(self.state)?;
        Ok(swapped)
    }
}

/// Generations that retention no longer keeps: neither serving, nor the one before, nor among the newest.
pub fn expired(state: &ServiceState) -> Vec<u64> {
    let Some(serving) = state.serving else { return Vec::new() };
    let Some(generation) = state.generations.get(&serving) else { return Vec::new() };
    let keep = generation.wanted.spec.retention.generations as usize;
    let before = generation.before.filter(|n| state.generations.contains_key(n));
    let others = state.generations.keys().rev().filter(|n| **n != serving && Some(**n) != before);
    others.skip(keep.saturating_sub(usize::from(before.is_some()))).copied().collect()
}

#[cfg(test)]
#[path = "activation_tests.rs"]
mod tests;
