//! One change of what a service serves, from `previous` to `number`, step by step: start the new instances,
//! check them, stop the old ones. Which step follows which, and what a failure undoes, is `activation`'s; how
//! instances finish what they have is `drain`'s.
use crate::host::health::{Checks, Verdict};
use crate::host::offers;
use crate::host::state::{Generation, Place, ServiceState};
use crate::host::world::{Status, World};
use crate::protocol::control::Address;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::messages::Stopped;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::say::say;
use std::collections::{BTreeMap, BTreeSet};

/// Consecutive bad answers of an instance that had been healthy before it counts as ill.
const LAST_LOOKS: u32 = 3;

pub struct Change<'a> {
    pub world: &'a mut dyn World,
    pub state: &'a mut ServiceState,
    pub number: u64,
    pub previous: Option<u64>,
    /// The generation existed before: a failure does not remove it.
    pub kept: bool,
    /// Becomes the generation that a rollback from `number` goes to.
    pub before: Option<u64>,
    /// That was stopped: nothing serves, and nothing does if this fails.
    pub after_stop: Option<Stopped>,
    /// How often each new instance had been restarted when it was healthy.
    pub restarts: BTreeMap<InstanceId, u64>,
    /// How many jobs each new instance had when it was last looked at.
    pub jobs: BTreeMap<InstanceId, u64>,
    /// Whether the gateway owned the jobs when it was last asked: then none is lost with its instance.
    pub owned: bool,
    /// WebSockets without work are not waited for.
    pub quiet: bool,
}

impl<'a> Change<'a> {
    pub fn new(world: &'a mut dyn World, state: &'a mut ServiceState, number: u64) -> Change<'a> {
        let (restarts, jobs) = (BTreeMap::new(), BTreeMap::new());
        Change {
            world,
            state,
            number,
            previous: None,
            kept: false,
            before: None,
            after_stop: None,
            restarts,
            jobs,
            owned: false,
            quiet: false,
        }
    }

    pub fn generation(&self, number: u64) -> Result<Generation> {
        self.state.generations.get(&number).cloned().ok_or_else(|| {
            Error::new(Kind::Host, format!("{} has no generation {number} any more", self.state.service))
        })
    }

    /// Without this generation nothing is left of the service: it had nothing before.
    pub fn goes_whole(&self) -> bool {
        self.previous.is_none() && self.state.data_is_new && self.state.stopped.is_none()
    }

    pub fn id(&self, place: Place) -> InstanceId {
        InstanceId { slot: place.slot, generation: self.number }
    }

    /// Says what is done on the way to an end that must come: it comes also where that cannot be written.
    pub fn tell(&mut self, status: Status, text: &str) {
        if let Err(e) = self.world.step(status, text) {
            say(format_args!("{}: {status}: {text} (not in the record: {})", self.state.service, e.full()));
        }
    }

    /// Makes sure that a generation runs and has the traffic.
    pub fn serve(&mut self, number: u64) -> Result<()> {
        let generation = self.generation(number)?;
        self.world.link(number, &generation.wanted)?;
        self.world.write_units(number, &generation)?;
        // An instance lets the gateway in when it starts, so the gateway comes first.
        self.world.gateway(&generation)?;
        for id in self.state.instances(number) {
            if self.world.unit(id)?.is_over() {
                self.world.start(id)?;
            }
        }
        self.world.set_table(&self.state.table(Some(number)))?;
        self.world.point(Some(number))
    }

    /// Makes sure that the gateway runs, before the traffic moves: as what serves wants it. What will be wanted of it
    /// later is only looked at, so that a port that is taken fails before anything has changed.
    pub fn prepare_gateway(&mut self, generation: &Generation) -> Result<()> {
        let Some(previous) = self.previous else { return self.world.gateway(generation) };
        let serving = self.generation(previous)?;
        self.world.gateway(&serving)?;
        self.world.ports_are_free(&generation.wanted, &serving.wanted)
    }

    /// Starts instances of the new generation, all or some: those that `generation` names.
    pub fn start_and_check(&mut self, generation: &Generation) -> Result<()> {
        let ids: Vec<InstanceId> = generation.instances.iter().map(|place| self.id(*place)).collect();
        let units: Vec<String> = ids.iter().map(|id| id.unit(&self.state.service)).collect();
        self.world.step(Status::Starting, &format!("starting {}", units.join(", ")))?;
        for id in ids {
            self.world.start(id)?;
        }
        self.share_pictures();
        self.until_healthy(generation)?;
        for place in &generation.instances {
            self.all_there(generation, *place)?;
        }
        let health = &generation.wanted.spec.health;
        if let Some(workflow) = &health.smoke {
            self.world.step(Status::Checking, "running the smoke workflow")?;
            for place in &generation.instances {
                let at = self.state.address(self.number, *place);
                if let Err(why) = self.world.smoke(&at, workflow, health.smoke_ms)? {
                    let id = self.id(*place);
                    return Err(self.unhealthy(id, &format!("did not run the smoke workflow: {why}")));
                }
            }
        }
        Ok(())
    }

    fn until_healthy(&mut self, generation: &Generation) -> Result<()> {
        self.world.step(Status::Checking, &format!("waiting for {} healthy", generation.instances.len()))?;
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
                let id = self.id(*place);
                let state = self.world.unit(id)?;
                let at = self.state.address(self.number, *place);
                let answer = self.world.probe(&at, spec)?;
                let now = self.world.now();
                match check.look(now, &state, answer) {
                    Verdict::Healthy => drop(self.restarts.insert(id, state.restarts)),
                    Verdict::NotYet => all = false,
                    Verdict::Dead(why) => return Err(self.never_healthy(id, &why, &at)),
                }
            }
            if all {
                break;
            }
            self.world.wait(health.interval_ms)?;
        }
        Ok(())
    }

    /// Whether an instance has all that the environment's own server had.
    fn all_there(&mut self, generation: &Generation, place: Place) -> Result<()> {
        let wanted = &generation.wanted;
        if wanted.classes.is_empty() && wanted.offered.is_empty() {
            return Ok(());
        }
        let id = self.id(place);
        let at = self.state.address(self.number, place);
        let has = match self.world.offers(id, &at, wanted)? {
            Ok(has) => has,
            Err(why) => return Err(self.unhealthy(id, &format!("does not tell {why}"))),
        };
        match offers::lacks(&wanted.classes, &wanted.offered, &has) {
            None => Ok(()),
            // What it said at its end is about other things.
            Some(why) => Err(self.wrong(id, &why, "")),
        }
    }

    /// Why it never was: perhaps it listens elsewhere than it was told to.
    fn never_healthy(&mut self, id: InstanceId, why: &str, at: &Address) -> Error {
        let elsewhere = self.world.listens(id);
        if elsewhere.is_empty() || matches!(at, Address::Tcp(_)) {
            return self.unhealthy(id, why);
        }
        let why = format!("{why}; it listens on {}, and nothing of it on {at}", elsewhere.join(" and "));
        let error = self.unhealthy(id, &why);
        let said = error.hint.clone().unwrap_or_default();
        error.hint(format!(
            "the gateway reaches an instance only by its socket: take --port and --listen out of the arguments \
             of [service], and a pack that starts another server or event loop out of the environment\n{said}"
        ))
    }

    /// An error with what the instance said last. That is in the hint: the message is told while the service goes back
    /// to what it was, too, and once is enough.
    fn unhealthy(&mut self, id: InstanceId, why: &str) -> Error {
        let tail = self.world.log_tail(id);
        let tail = if tail.is_empty() { tail } else { format!("its last words:\n{tail}\n") };
        let failed = self.world.failed_imports(id);
        let offered = self.state.generations.get(&id.generation).map(|g| g.wanted.offered.clone());
        let failed = offers::failed_in_words(&offered.unwrap_or_default(), &failed);
        let failed = failed.map(|failed| format!("; it {failed}")).unwrap_or_default();
        self.wrong(id, &format!("{why}{failed}"), &tail)
    }

    fn wrong(&self, id: InstanceId, why: &str, said: &str) -> Error {
        let unit = id.unit(&self.state.service);
        Error::new(Kind::Host, format!("{unit} {why}"))
            .hint(format!("{said}all it said: stillframe logs, or on the host journalctl -u {unit}"))
    }

    /// Whether what was healthy still runs, and is the same process.
    pub fn still_up(&mut self, generation: &Generation) -> Result<()> {
        for place in &generation.instances {
            let id = self.id(*place);
            let now = self.world.unit(id)?;
            if now.is_over() || self.restarts.get(&id).is_some_and(|then| now.restarts > *then) {
                return Err(self.unhealthy(id, "was healthy, then ended"));
            }
        }
        Ok(())
    }

    pub fn all_healthy(&mut self, generation: &Generation) -> Result<()> {
        self.still_up(generation)?;
        let spec = &generation.wanted.spec;
        for place in &generation.instances {
            let id = self.id(*place);
            let at = self.state.address(self.number, *place);
            let mut tries = 1;
            while let Err(why) = self.world.probe(&at, spec)? {
                // It has traffic now, and answers late while a node computes.
                if tries == LAST_LOOKS {
                    return Err(self.unhealthy(id, &format!("was healthy, then {why}")));
                }
                tries += 1;
                self.world.wait(spec.health.interval_ms)?;
            }
        }
        Ok(())
    }

    pub fn stop_previous(&mut self) -> Result<()> {
        for id in self.previous.map(|n| self.state.instances(n)).unwrap_or_default() {
            self.world.stop(id)?;
        }
        Ok(())
    }

    /// Ends every instance but those of generation `number`: also such as a crash left, which only the disk or
    /// systemd knows. Their pictures go to that generation. Says what of it failed, but for slots that stay: only
    /// space is lost, and the next activation or boot finds them.
    pub fn end_others(&mut self, number: Option<u64>) -> Vec<Error> {
        let mut keep = number.map(|n| self.state.instances(n)).unwrap_or_default();
        let named = [Some(self.number), self.previous].into_iter().flatten();
        let mut going: BTreeSet<InstanceId> = named.flat_map(|n| self.state.instances(n)).collect();
        let others = self.world.others(&keep);
        let all_known = others.is_ok();
        match others {
            Ok(others) => going.extend(others),
            Err(e) => self.tell(Status::Draining, &format!("cannot see what else runs: {}", e.full())),
        }
        let unknown = |id: &&InstanceId| !self.state.generations.contains_key(&id.generation);
        let unknown: Vec<String> = going.iter().filter(unknown).map(InstanceId::to_string).collect();
        if !unknown.is_empty() {
            let text = format!("{}: of no generation that the state knows, stopped", unknown.join(", "));
            self.tell(Status::Draining, &text);
        }
        going.retain(|id| !keep.contains(id));
        let (mut ended, mut failed) = (Vec::new(), Vec::new());
        for id in going {
            match self.world.stop(id) {
                Ok(()) => ended.push(id),
                Err(e) => {
                    // It still needs its slot and its file.
                    keep.push(id);
                    failed.push(e.within(id.unit(&self.state.service)));
                }
            }
        }
        let heirless = number.is_some_and(|number| self.state.instances(number).is_empty());
        if all_known && !heirless {
            // Without an heir pictures would be in nobody's sight: the next instance is one. And where not all are
            // known, one that still runs could lose its slot; the next activation, or the next boot, finds them.
            self.clear_slots(&keep, number);
        }
        failed.extend(self.world.remove_units(&ended).err());
        failed
    }

    /// Throws the slots of ended instances away and records what they had written into their own programs.
    pub fn clear_slots(&mut self, keep: &[InstanceId], heir: Option<u64>) {
        let cleared = match self.world.clear_slots(self.state, keep, heir) {
            Ok(cleared) => cleared,
            Err(e) => return self.tell(Status::Draining, &format!("slots stay: {}", e.full())),
        };
        for one in cleared {
            let known = one
                .id
                .parse()
                .is_ok_and(|id: InstanceId| self.state.generations.contains_key(&id.generation));
            let unit = format!("stillframe-{}-{}.service", self.state.service, one.id);
            if let Some(why) = &one.error {
                self.tell(Status::Draining, &format!("the slot of {unit} stays: {why}"));
            } else if !known {
                self.tell(
                    Status::Draining,
                    &format!("the slot of {unit} was left behind: it is gone, its pictures are not"),
                );
            }
            if one.written.is_empty() {
                continue;
            }
            let shown: Vec<&str> = one.written.iter().take(10).map(String::as_str).collect();
            let more = one.written.len().saturating_sub(shown.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let text = format!("{unit} had written into its own program: {}{more}", shown.join(", "));
            self.tell(Status::Draining, &text);
        }
    }

    /// Who asks the new instances for pictures of the old ones gets them, whatever becomes of the old ones' folders.
    fn share_pictures(&mut self) {
        let stopped = self.after_stop.as_ref().map(|stopped| stopped.generation);
        let Some(previous) = self.previous.or(stopped).filter(|from| *from != self.number) else { return };
        if let Err(e) = self.world.share_pictures(self.state, previous, self.number) {
            let text =
                format!("pictures of generation {previous} are seen only after it has ended: {}", e.full());
            self.tell(Status::Starting, &text);
        }
    }
}
