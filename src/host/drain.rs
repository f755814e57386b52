//! Instances that have no new requests finish what they have, up to a limit; and what becomes of the rest is told.
//! Where the gateway owns the jobs, none is lost with its instance: it waits again, or has failed where the service
//! asks for that.
use crate::host::change::Change;
use crate::host::state::Generation;
use crate::host::world::Status;
use crate::protocol::control::{Reply, TargetStatus};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::jobs::DrainRunning;
use crate::protocol::spec::{Rotation, Spec};
use crate::sys::error::Result;
use crate::sys::say::counted;

/// How long an old instance stays after its last job: clients fetch the job's results from it.
const SETTLE_MS: u64 = 2_000;
/// Between two checks of the new instances while the old ones finish.
const WATCH_MS: u64 = 1_000;

/// Jobs that have not ended where they were begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Jobs {
    lost: u64,
    /// Interrupted, and the gateway has them again.
    again: u64,
    /// Interrupted for good, as the service asks.
    failed: u64,
}

impl Jobs {
    fn lost(lost: u64) -> Jobs {
        Jobs { lost, ..Jobs::default() }
    }

    fn again(again: u64) -> Jobs {
        Jobs { again, ..Jobs::default() }
    }

    fn and(self, other: Jobs) -> Jobs {
        Jobs {
            lost: self.lost + other.lost,
            again: self.again + other.again,
            failed: self.failed + other.failed,
        }
    }

    fn all(self) -> u64 {
        self.lost + self.again + self.failed
    }

    /// For an outcome, once they are no generation's any more.
    fn told(self, number: u64) -> Option<String> {
        let said = |count: u64, one: &str, several: &str| {
            let words = format!("{} of generation {number}", counted(count as usize, "job", "jobs"));
            (count > 0).then(|| format!("{words} {}", if count == 1 { one } else { several }))
        };
        let all = [
            said(self.lost, "is lost", "are lost"),
            said(self.again, "was interrupted and waits again", "were interrupted and wait again"),
            said(self.failed, "was interrupted and has failed", "were interrupted and have failed"),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// What was not over when a drain limit was.
struct Cut {
    connections: u64,
    jobs: Jobs,
}

impl Cut {
    fn told(&self) -> String {
        let Jobs { lost, again, failed } = self.jobs;
        let mut text = format!("drain limit reached: {} connections cut", self.connections);
        if lost > 0 || again + failed == 0 {
            text.push_str(&format!(", {lost} jobs lost"));
        }
        for (count, what) in [(again, "wait again"), (failed, "have failed")] {
            if count > 0 {
                text.push_str(&format!(", {count} jobs interrupted that {what}"));
            }
        }
        text
    }
}

impl Change<'_> {
    /// The old instances finish what they have, up to a limit.
    pub fn drain_previous(&mut self, limit: u64) -> Result<()> {
        let Some(previous) = self.previous else { return Ok(()) };
        self.world.step(Status::Draining, &format!("generation {previous} finishes what it has"))?;
        let new = self.generation(self.number)?;
        // Whose settings the gateway has at this time.
        let rules = match new.wanted.spec.rotation {
            Rotation::Surge => drain_running(&new.wanted.spec),
            Rotation::Replace => {
                self.world.set_table(&self.state.table(None))?;
                drain_running(&self.generation(previous)?.wanted.spec)
            }
        };
        let mut looked = None;
        let old = self.generation(previous)?;
        let cut = self.drain(previous, &old, limit, rules, |change, now| {
            if looked.is_none_or(|at| now >= at + WATCH_MS) && !change.restarts.is_empty() {
                looked = Some(now);
                change.note_jobs(&new);
                change.still_up(&new)?;
            }
            Ok(())
        })?;
        match cut {
            Some(cut) => self.world.step(Status::Draining, &cut.told()),
            None => Ok(()),
        }
    }

    /// The same of instances that are about to end, all of the generation's or some: those that `generation` names. A
    /// WebSocket alone is not waited for: no other instance takes it over, and a page that lies open in a browser has one
    /// for days. What does not end is told.
    pub fn drain_for_end(&mut self, number: u64, generation: &Generation) -> Result<Option<String>> {
        let spec = &generation.wanted.spec;
        self.quiet = true;
        let cut = self.drain(number, generation, spec.drain_ms, drain_running(spec), |_, _| Ok(()));
        self.quiet = false;
        let Some(cut) = cut? else { return Ok(None) };
        self.world.step(Status::Draining, &cut.told())?;
        Ok(cut.jobs.told(number))
    }

    /// Waits until instances that have no new requests have nothing to do, or the limit has passed; then what is
    /// still open is cut, which is told.
    fn drain(
        &mut self,
        number: u64,
        generation: &Generation,
        limit: u64,
        rules: DrainRunning,
        mut meanwhile: impl FnMut(&mut Self, u64) -> Result<()>,
    ) -> Result<Option<Cut>> {
        let ids: Vec<String> = generation
            .instances
            .iter()
            .map(|place| InstanceId { slot: place.slot, generation: number }.to_string())
            .collect();
        let until = self.world.now() + limit;
        let mut worked = None;
        loop {
            let reply = self.world.gateway_status()?;
            self.owned = reply.waiting_jobs.is_some();
            let targets: Vec<&TargetStatus> = reply.targets.iter().filter(|t| ids.contains(&t.id)).collect();
            let open = |t: &&TargetStatus| t.requests + if self.quiet { 0 } else { t.websockets };
            let connections: u64 = targets.iter().map(open).sum();
            let jobs = self.jobs_of(number, generation, Some(&reply), rules);
            let now = self.world.now();
            if jobs.all() > 0 {
                worked = Some(now);
            }
            let settled = worked.is_none_or(|last| now >= last + SETTLE_MS) || now >= until;
            if connections == 0 && jobs.all() == 0 && settled {
                return Ok(None);
            }
            if now >= until {
                for target in targets {
                    self.world.cut(&target.id)?;
                }
                return Ok(Some(Cut { connections, jobs }));
            }
            meanwhile(self, now)?;
            self.world.wait(200)?;
        }
    }

    /// The jobs of a generation's instances, by what becomes of them where they do not end. An instance may have more
    /// than the gateway gave it: of the time before the gateway owned them, or a smoke workflow.
    fn jobs_of(
        &mut self,
        number: u64,
        generation: &Generation,
        reply: Option<&Reply>,
        rules: DrainRunning,
    ) -> Jobs {
        let mut jobs = Jobs::default();
        for place in &generation.instances {
            let id = InstanceId { slot: place.slot, generation: number }.to_string();
            let target = reply.and_then(|reply| reply.targets.iter().find(|t| t.id == id));
            let given = target.map_or(0, |target| target.jobs);
            let has = self.world.queue(&self.state.address(number, *place)).unwrap_or(0);
            match (reply, self.owned, rules) {
                // It cannot be asked, and finds those of an instance that has ended.
                (None, true, _) => jobs.again += has,
                (_, true, DrainRunning::Requeue) => jobs.again += given,
                (_, true, DrainRunning::Fail) => jobs.failed += given,
                (_, false, _) => {}
            }
            if reply.is_some() || !self.owned {
                jobs.lost += has.saturating_sub(given);
            }
        }
        jobs
    }

    /// On the way back, when the old instances have the traffic again: the new ones finish what they have. Says what
    /// does not end of it all the same.
    pub fn drain_new(&mut self) -> Option<String> {
        let (number, new) = (self.number, self.generation(self.number).ok()?);
        let settled = self.previous.and_then(|previous| self.generation(previous).ok());
        let rules = drain_running(&settled.as_ref().unwrap_or(&new).wanted.spec);
        let dead: u64 = new.instances.iter().map(|place| self.lost_by(self.id(*place))).sum();
        self.tell(Status::Draining, &format!("generation {number} finishes what it has"));
        let jobs = match self.drain(number, &new, new.wanted.spec.drain_ms, rules, |_, _| Ok(())) {
            Ok(None) => Jobs::default(),
            Ok(Some(cut)) => {
                self.tell(Status::Draining, &cut.told());
                cut.jobs
            }
            // A signal, or a gateway that says nothing: the old ones serve, and nothing waits for the rest.
            Err(e) => {
                self.tell(Status::Draining, &format!("generation {number} could not finish: {}", e.full()));
                self.jobs_of(number, &new, None, rules)
            }
        };
        let dead = if self.owned { Jobs::again(dead) } else { Jobs::lost(dead) };
        let jobs = jobs.and(dead);
        if self.owned && self.goes_whole() {
            // The service goes with all it had, also what waits for an instance.
            let waiting = self.world.gateway_status().ok().and_then(|reply| reply.waiting_jobs);
            return Jobs::lost(jobs.all().max(waiting.unwrap_or(0))).told(number);
        }
        jobs.told(number)
    }

    /// Jobs that an instance had when it was last looked at, if it has ended since.
    fn lost_by(&mut self, id: InstanceId) -> u64 {
        let Ok(now) = self.world.unit(id) else { return 0 };
        let ended = now.is_over() || self.restarts.get(&id).is_some_and(|then| now.restarts > *then);
        if ended { self.jobs.get(&id).copied().unwrap_or(0) } else { 0 }
    }

    /// Remembers what the new instances have to do: one that ends cannot be asked any more.
    fn note_jobs(&mut self, generation: &Generation) {
        for place in &generation.instances {
            let at = self.state.address(self.number, *place);
            if let Some(jobs) = self.world.queue(&at) {
                self.jobs.insert(self.id(*place), jobs);
            }
        }
    }
}

/// A gateway that owns jobs of an earlier generation while nobody asks for that goes by the default.
fn drain_running(spec: &Spec) -> DrainRunning {
    spec.jobs.as_ref().map(|jobs| jobs.drain_running).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_told_in_the_words_of_who_owns_the_jobs() {
        let cut = |lost, again, failed| Cut { connections: 2, jobs: Jobs { lost, again, failed } }.told();
        let at = "drain limit reached: 2 connections cut";
        assert_eq!(cut(3, 0, 0), format!("{at}, 3 jobs lost"));
        // Connections alone.
        assert_eq!(cut(0, 0, 0), format!("{at}, 0 jobs lost"));
        assert_eq!(cut(0, 2, 0), format!("{at}, 2 jobs interrupted that wait again"));
        assert_eq!(cut(1, 0, 2), format!("{at}, 1 jobs lost, 2 jobs interrupted that have failed"));
        assert_eq!(Jobs::default().told(7), None);
        let told = Jobs { lost: 1, again: 2, failed: 1 }.told(7);
        assert_eq!(
            told.as_deref(),
            Some(
                "1 job of generation 7 is lost; 2 jobs of generation 7 were interrupted and wait again; \
                 1 job of generation 7 was interrupted and has failed"
            )
        );
    }
}
