//! A service that gets another name on its hosts: it stops, what is its own moves, and it starts as it was.
use crate::deploy::events::Observer;
use crate::deploy::fleet::Member;
use crate::deploy::host_result::HostResult;
use crate::deploy::one_order::OneOrder;
use crate::deploy::questions;
use crate::protocol::messages::{Act, Attempt, AttemptKind, Order, Project, Status};
use crate::sys::error::{Error, Kind, Result};
use schemars::JsonSchema;
use serde::Serialize;

/// The same for all hosts.
pub struct Renaming<'a> {
    /// Of the attempts.
    pub id: &'a str,
    pub by: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub project: &'a Project,
    pub take_over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Renamed {
    /// Whether it had another name there.
    pub moved: bool,
    /// What became of its start; null where it was stopped before, or never deployed there.
    pub started: Option<HostResult>,
}

impl Renaming<'_> {
    pub fn on(&self, member: &Member, observer: &dyn Observer) -> Result<Renamed> {
        let view = questions::whole_host(member)?;
        let of = |name: &str| view.services.iter().find(|service| service.service == name);
        let serves = of(self.from).is_some_and(|service| service.serving.is_some());
        if of(self.from).is_none() && of(self.to).is_none() {
            return Ok(Renamed { moved: false, started: None });
        }
        if serves {
            done(self.give(member, self.from, Act::Stop, observer))?;
        }
        let hosts = [member.name().to_string()];
        let asked = Attempt::asked(self.id, AttemptKind::Rename, self.from, self.by, &hosts);
        let attempt = Attempt { project: Some(self.project.clone()), take_over: self.take_over, ..asked };
        let moved = questions::rename(member, self.to, &attempt)?;
        let started = serves.then(|| self.give(member, self.to, Act::Start, observer));
        Ok(Renamed { moved, started })
    }

    fn give(&self, member: &Member, service: &str, act: Act, observer: &dyn Observer) -> HostResult {
        let hosts = [member.name().to_string()];
        let order = OneOrder {
            id: self.id,
            by: self.by,
            kind: act.kind(),
            order: Order::Act { act },
            project: Some(self.project.clone()),
            take_over: self.take_over,
            hosts: &hosts,
        };
        order.give_to(member, service, observer).0
    }
}

fn done(result: HostResult) -> Result<()> {
    if result.status == Status::Succeeded {
        return Ok(());
    }
    let kind = if result.status == Status::Cancelled { Kind::Interrupted } else { Kind::Host };
    let why = result.error.unwrap_or_else(|| result.status.name().into());
    Err(Error::new(kind, why).maybe_hint(result.hint))
}
