//! A deployment as a whole: every host goes its way up to its activation, then they are switched stage by
//! stage, and what came of it is written down.
use crate::closure::registry::{ProbeResult, Registry};
use crate::deploy::events::{Ended, Event, Goal, Observer, STREAM_VERSION};
use crate::deploy::fleet::{Checked, Member, on_each};
use crate::deploy::host_result::HostResult;
use crate::deploy::plan::{Failed, Plan, Prepared};
use crate::deploy::records::{Deployment, Finished};
use crate::deploy::rollout::{Host, Rollout};
use crate::deploy::stages::enough;
use crate::protocol::messages::{AttemptKind, Order, Status};
use crate::protocol::spec::{Offered, Rotation, Wanted};
use crate::sys::error::Result;
use crate::sys::progress::check_interrupt;
use std::time::Instant;

impl Plan {
    pub fn carry_out(self, hosts: Vec<Checked>, observer: &dyn Observer) -> Result<Finished> {
        let started = Instant::now();
        observer.event(&self.begin_event());
        let deployment = self.record();
        if !self.dry_run {
            deployment.save(&self.state)?;
        }
        let (mut ready, mut failed) = (Vec::new(), Vec::new());
        // Each goes its way: one that does not answer holds no other back before the traffic is to move.
        for way in on_each(hosts, |host| self.way(host, observer)) {
            match way {
                Ok(host) => ready.push(host),
                Err(e) => failed.push(e),
            }
        }
        if self.dry_run {
            observer.event(&Event::Result(Ended::DryRun { dry_run: true, failed: failed.len() }));
            return Ok(Finished::dry(failed.len(), check_interrupt().is_err()));
        }
        let mut results = Vec::new();
        match self.may_go_on(failed.len()) {
            Err(error) => failed.extend(ready.into_iter().map(|h| h.give_up(Status::Cancelled, &error))),
            Ok(()) => results = self.roll_out(ready, failed.len(), observer),
        }
        results.extend(failed.iter().map(|f: &Failed| HostResult::failed(&f.host, &f.error, f.on_host)));
        self.note_served(&results)?;
        deployment.end(results, &self.state, started, observer)
    }

    fn begin_event(&self) -> Event {
        Event::Begin {
            version: STREAM_VERSION,
            deployment: self.id.clone(),
            goal: Goal::Snapshot {
                snapshot: self.record.snapshot.clone(),
                id: self.record.id.clone(),
                label: self.record.label.clone(),
            },
            hosts: self.hosts.clone(),
        }
    }

    fn record(&self) -> Deployment {
        Deployment {
            snapshot: Some(self.record.snapshot.clone()),
            label: self.record.label.clone(),
            ..Deployment::new(&self.id, AttemptKind::Deploy, &self.service, &self.by)
        }
    }

    /// Whether traffic may move, with so many hosts that are not there.
    fn may_go_on(&self, missing: usize) -> Result<()> {
        check_interrupt()?;
        enough(&self.rollout, missing, self.hosts.len())
    }

    fn roll_out(&self, ready: Vec<Prepared>, missing: usize, observer: &dyn Observer) -> Vec<HostResult> {
        let rotation = match ready.iter().any(|h| h.spec.rotation == Rotation::Replace) {
            true => Rotation::Replace,
            false => Rotation::Surge,
        };
        let hosts = ready.into_iter().filter_map(|host| self.ordered(host)).collect();
        Rollout { config: &self.rollout, missing, rotation }.run(hosts, observer)
    }

    /// A host with its order; none without a conversation, which only a dry run does without.
    fn ordered(&self, host: Prepared) -> Option<Host> {
        let wanted = Wanted {
            snapshot: self.record.snapshot.clone(),
            agent: self.load.agent.path.to_absolute(&self.load.source.store_dir),
            launch: self.record.service.clone(),
            classes: self.probed(&host.member).map(|probe| probe.classes.clone()).unwrap_or_default(),
            offered: self.offered(&host.member),
            spec: host.spec,
        };
        let line = self.line(&host.member);
        Some(Host {
            name: host.member.name().into(),
            line,
            conversation: host.conversation?.into_inner(),
            order: Order::Activate {
                wanted: Box::new(wanted),
                secrets: host.private.secrets,
                again: self.again,
            },
            _kept: host.ready,
        })
    }

    /// What `--probe` found, where the new instances are to be compared with it.
    fn probed(&self, member: &Member) -> Option<&ProbeResult> {
        self.record.probe.as_ref().filter(|_| member.service.health.classes != Some(false))
    }

    fn offered(&self, member: &Member) -> Offered {
        let Some(probe) = self.probed(member) else { return Offered::default() };
        let good = probe.packs.iter().filter(|pack| pack.failed == Some(false));
        Offered {
            packs: good.map(|pack| pack.name.clone()).collect(),
            extensions: probe.extensions.clone().unwrap_or_default(),
            routes: probe.routes.clone().unwrap_or_default(),
        }
    }

    fn note_served(&self, results: &[HostResult]) -> Result<()> {
        let registry = Registry::new(&self.state);
        for host in results.iter().filter(|h| h.status == Status::Succeeded) {
            registry.note_served(&host.host, &self.service, Some(&self.record.snapshot))?;
        }
        Ok(())
    }
}
