//! Every deployment with what came of it on each host, put together: the hosts have the records; of hosts that
//! were never reached, this workstation alone knows.
use crate::deploy::host_result::HostResult;
use crate::deploy::records::Deployment;
use crate::protocol::messages::{AttemptKind, Record};
use std::collections::{BTreeMap, BTreeSet};

/// One host's part of a deployment.
pub enum Part {
    Recorded(Box<Record>),
    Unrecorded(HostResult),
}

/// A deployment, put together from what its hosts and this workstation know of it.
pub struct Merged {
    pub began: u64,
    pub kind: AttemptKind,
    pub by: String,
    pub snapshot: Option<String>,
    /// All that it was for, whether or not they heard of it.
    pub hosts: BTreeSet<String>,
    pub parts: Vec<(String, Part)>,
}

/// By deployment id; `recorded`: what hosts told.
pub fn merge(
    local: &[Deployment],
    recorded: Vec<(String, Record)>,
    hosts: &[&str],
) -> BTreeMap<String, Merged> {
    let mut all: BTreeMap<String, Merged> = BTreeMap::new();
    for (host, record) in recorded {
        let a = &record.attempt;
        let merged = all.entry(a.deployment.clone()).or_insert_with(|| Merged {
            began: a.began,
            kind: a.kind,
            by: a.by.clone(),
            snapshot: a.snapshot.clone(),
            hosts: BTreeSet::new(),
            parts: Vec::new(),
        });
        merged.hosts.extend(a.hosts.iter().cloned());
        // A rollback's is known only when it has been found.
        if a.kind.brings() {
            merged.snapshot = merged.snapshot.take().or_else(|| record.outcome()?.snapshot.clone());
        }
        if a.began < merged.began {
            (merged.began, merged.kind) = (a.began, a.kind);
        }
        merged.parts.push((host, Part::Recorded(Box::new(record))));
    }
    for d in local {
        let unrecorded: Vec<&HostResult> =
            d.hosts.iter().filter(|h| !h.on_host && hosts.contains(&h.host.as_str())).collect();
        if unrecorded.is_empty() {
            continue;
        }
        let merged = all.entry(d.deployment.clone()).or_insert_with(|| Merged {
            began: d.began,
            kind: d.kind,
            by: d.by.clone(),
            snapshot: d.snapshot.clone(),
            hosts: BTreeSet::new(),
            parts: Vec::new(),
        });
        merged.hosts.extend(d.hosts.iter().map(|h| h.host.clone()));
        merged.parts.extend(unrecorded.into_iter().map(|h| (h.host.clone(), Part::Unrecorded(h.clone()))));
    }
    for merged in all.values_mut() {
        merged.parts.sort_by(|a, b| a.0.cmp(&b.0));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::Attempt;
    use crate::sys::error::{Error, Kind};

    #[test]
    fn what_hosts_and_workstation_know_is_one_deployment() {
        let record = |began, kind| Record {
            attempt: Attempt {
                version: 1,
                attempt: 1,
                service: "demo".into(),
                deployment: "d1".into(),
                kind,
                by: "a@b".into(),
                snapshot: None,
                label: None,
                hosts: vec![],
                began,
                project: None,
                take_over: false,
            },
            events: vec![],
        };
        let error = Error::new(Kind::Host, "no route to host");
        let result = |host: &str, on_host| HostResult::failed(host, &error, on_host);
        let mut local = Deployment::new("d1", AttemptKind::Deploy, "demo", "a@b");
        local.hosts = vec![result("alpha", true), result("gamma", false), result("other", false)];
        let mut down = Deployment::new("d2", AttemptKind::Deploy, "demo", "a@b");
        down.hosts = vec![result("gamma", false)];
        let records = vec![
            ("beta".to_string(), record(9, AttemptKind::TakeBack)),
            ("alpha".to_string(), record(5, AttemptKind::Deploy)),
        ];
        let all = merge(&[local, down], records, &["alpha", "beta", "gamma"]);
        assert_eq!((all["d1"].began, all["d1"].kind), (5, AttemptKind::Deploy));
        let names = |id: &str| all[id].parts.iter().map(|(h, _)| h.as_str()).collect::<Vec<_>>();
        assert_eq!((names("d1"), names("d2")), (vec!["alpha", "beta", "gamma"], vec!["gamma"]));
    }
}
