//! A rollback: to a generation that the hosts still have. Nothing is copied, and nothing of this workstation is
//! needed but where the hosts are.
use crate::closure::registry::Registry;
use crate::deploy::events::{Event, Goal, Observer, STREAM_VERSION};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::one_order::OneOrder;
use crate::deploy::records::{Deployment, Finished};
use crate::protocol::messages::{AttemptKind, Back, Order, Status};
use crate::sys::error::{Error, Kind, Result};
use std::path::Path;
use std::time::Instant;

/// What is to be rolled back: the same for all hosts.
pub struct Rollback<'a> {
    /// The deployment's id.
    pub id: String,
    /// `user@workstation`.
    pub by: String,
    pub to: Back,
    pub service: &'a str,
    /// The folder of this workstation's records.
    pub state: &'a Path,
}

/// What the user means: numbers are each host's own.
pub fn back(state: &Path, to: Option<&str>, hosts: usize) -> Result<Back> {
    let Some(to) = to else { return Ok(Back::Previous) };
    if let Ok(number) = to.parse::<u64>() {
        if hosts > 1 {
            return Err(Error::new(Kind::Input, format!("each host has its own generation {number}")).hint(
                "name one host with --hosts, or name the snapshot: every host has its own number for it",
            ));
        }
        return Ok(Back::Generation(number));
    }
    // Of another workstation's snapshot the beginning of its hash is known from `stillframe status`.
    match Registry::new(state).find(Some(to)) {
        Ok(record) => Ok(Back::Snapshot(record.snapshot)),
        Err(_) if to.len() >= 6 && to.chars().all(|c| c.is_ascii_alphanumeric() || "/-._+".contains(c)) => {
            Ok(Back::Snapshot(to.into()))
        }
        Err(e) => Err(e),
    }
}

impl Rollback<'_> {
    pub fn carry_out(self, members: &[Member], observer: &dyn Observer) -> Result<Finished> {
        let started = Instant::now();
        let hosts: Vec<String> = members.iter().map(|m| m.name().to_string()).collect();
        observer.event(&Event::Begin {
            version: STREAM_VERSION,
            deployment: self.id.clone(),
            goal: Goal::Rollback { rollback: self.to.clone() },
            hosts: hosts.clone(),
        });
        let deployment = Deployment::new(&self.id, AttemptKind::Rollback, self.service, &self.by);
        deployment.save(self.state)?;
        let order = OneOrder {
            id: &self.id,
            by: &self.by,
            kind: AttemptKind::Rollback,
            order: Order::Return { to: self.to },
            project: None,
            take_over: false,
            hosts: &hosts,
        };
        let answers = on_each(members.iter().collect(), |m: &Member| (m.name(), order.give(m, observer)));
        let registry = Registry::new(self.state);
        let mut results = Vec::new();
        for (host, (result, snapshot)) in answers {
            if result.status == Status::Succeeded {
                registry.note_served(host, self.service, snapshot.as_deref())?;
            }
            results.push(result);
        }
        deployment.end(results, self.state, started, observer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_rollback_goes() {
        let dir = tempfile::tempdir().unwrap();
        let to = |text: Option<&str>, hosts| back(dir.path(), text, hosts).map_err(|e| e.message);
        assert_eq!(to(None, 3), Ok(Back::Previous));
        assert_eq!(to(Some("7"), 1), Ok(Back::Generation(7)));
        assert_eq!(to(Some("7"), 2), Err("each host has its own generation 7".into()));
        assert_eq!(to(Some("xvhxdxzz1v"), 2), Ok(Back::Snapshot("xvhxdxzz1v".into())));
        // Too short to be the beginning of a hash.
        assert!(to(Some("blue"), 2).is_err());
    }
}
