//! What is done with a service as a whole on its hosts: restarted, stopped, started, removed. No other generation comes.
use crate::closure::registry::Registry;
use crate::deploy::events::{Event, Goal, Observer, STREAM_VERSION};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::host_result::HostResult;
use crate::deploy::one_order::OneOrder;
use crate::deploy::questions;
use crate::deploy::records::{Deployment, Finished};
use crate::deploy::stages::stages;
use crate::protocol::messages::{Act, Order, Project, Status};
use crate::protocol::spec::Rotation;
use crate::ship::config::RolloutConfig;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use std::path::Path;
use std::time::Instant;

/// The same for all hosts.
pub struct Life<'a> {
    /// The deployment's id.
    pub id: String,
    /// `user@workstation`.
    pub by: String,
    pub act: Act,
    pub service: &'a str,
    pub project: Project,
    /// Also where it is another project's service.
    pub take_over: bool,
    pub rollout: &'a RolloutConfig,
    /// After a removal, the store's garbage goes.
    pub collect: bool,
    /// The folder of this workstation's records.
    pub state: &'a Path,
}

impl Life<'_> {
    pub fn carry_out(self, members: &[Member], observer: &dyn Observer) -> Result<Finished> {
        self.check(members.len())?;
        let started = Instant::now();
        let hosts: Vec<String> = members.iter().map(|m| m.name().to_string()).collect();
        observer.event(&Event::Begin {
            version: STREAM_VERSION,
            deployment: self.id.clone(),
            goal: Goal::Act { act: self.act.clone() },
            hosts: hosts.clone(),
        });
        let kind = self.act.kind();
        let deployment = Deployment::new(&self.id, kind, self.service, &self.by);
        deployment.save(self.state)?;
        let order = OneOrder {
            id: &self.id,
            by: &self.by,
            kind,
            order: Order::Act { act: self.act.clone() },
            project: Some(self.project.clone()),
            take_over: self.take_over,
            hosts: &hosts,
        };
        let mut results = self.give(&order, members, observer);
        if let Act::Remove { .. } = self.act {
            self.forget(members, &mut results, observer)?;
        }
        deployment.end(results, self.state, started, observer)
    }

    /// Hosts that have it no more: this workstation knows that, and their stores let go of what was for it alone.
    fn forget(&self, members: &[Member], results: &mut [HostResult], observer: &dyn Observer) -> Result<()> {
        let registry = Registry::new(self.state);
        let gone = |result: &&mut HostResult| result.status == Status::Succeeded;
        let gone: Vec<(&Member, &mut HostResult)> = results
            .iter_mut()
            .filter(gone)
            .filter_map(|result| Some((members.iter().find(|m| m.name() == result.host)?, result)))
            .collect();
        for (member, _) in &gone {
            registry.note_served(member.name(), self.service, None)?;
        }
        if !self.collect {
            return Ok(());
        }
        on_each(gone, |(member, result): (&Member, &mut HostResult)| {
            match questions::retention(member, true) {
                Ok(report) => observer.event(&Event::Freed {
                    host: member.name().into(),
                    bytes: report.freed_bytes.unwrap_or(0),
                }),
                Err(e) => {
                    result.error = Some(format!("the store's space is not freed: {}", e.full()));
                    result.hint = Some(format!("stillframe retention --hosts {}", member.name()));
                }
            }
        });
        Ok(())
    }

    /// Instances are named by slot and generation, which is each host's own.
    fn check(&self, hosts: usize) -> Result<()> {
        match &self.act {
            Act::Restart { instances } if !instances.is_empty() && hosts > 1 => {
                let text = format!("each host has its own instance {}", instances[0]);
                Err(Error::new(Kind::Input, text).hint("name one host with --hosts, or restart --all"))
            }
            _ => Ok(()),
        }
    }

    /// A host that restarts its only instance serves nothing meanwhile: so hosts come one after the other, or in the
    /// batches of a deployment, and a failure stops the rest. To stop and to start is for all at once.
    fn give(&self, order: &OneOrder, members: &[Member], observer: &dyn Observer) -> Vec<HostResult> {
        let plan = match self.act {
            Act::Restart { .. } => stages(self.rollout, members.len(), 0, Rotation::Replace),
            Act::Stop | Act::Start | Act::Remove { .. } => std::iter::once(0..members.len()).collect(),
        };
        let mut results = Vec::new();
        for stage in plan {
            match trouble(&results) {
                Some(why) => results.extend(members[stage].iter().map(|member| not_begun(member, &why))),
                None => results.extend(on_each(members[stage].iter().collect(), |member: &Member| {
                    order.give(member, observer).0
                })),
            }
        }
        results
    }
}

/// Why no other host is begun with.
fn trouble(results: &[HostResult]) -> Option<String> {
    if let Err(stop) = check_interrupt() {
        return Some(stop.message);
    }
    let failed = results.iter().find(|result| result.status != Status::Succeeded)?;
    Some(format!("{} {}", failed.host, failed.status))
}

fn not_begun(member: &Member, why: &str) -> HostResult {
    let error = Error::new(Kind::Host, format!("not begun: {why}"));
    HostResult { status: Status::Cancelled, ..HostResult::failed(member.name(), &error, false) }
}
