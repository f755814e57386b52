//! Which host does not run what it should. What it should run is what the newest deployment or rollback that was for it
//! brought to any host; the hosts' own records say so, and this workstation's where a host was never reached.
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::history::{Merged, Part, merge};
use crate::deploy::records::Deployment;
use crate::deploy::{questions, records};
use crate::protocol::messages::{AttemptKind, Record, Status};
use crate::protocol::overview::HostView;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process::Life;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// So many records of each host are looked at: what a fleet runs was brought lately.
const RECORDS: usize = 50;

/// A snapshot that a host should serve, and the deployment that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Wanted {
    pub snapshot: String,
    pub deployment: String,
}

/// How a host stands to what it should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    AsWanted,
    /// Nothing was ever deployed to it that succeeded anywhere.
    NothingWanted,
    /// It serves something else, or nothing.
    Other {
        serves: Option<String>,
        why: String,
    },
    /// It serves what it should, with too few instances.
    Few {
        ready: u32,
        of: u32,
    },
    /// Somebody stopped the service there.
    Stopped {
        by: String,
        /// Milliseconds since 1970.
        since: u64,
    },
    /// It does not say.
    Silent {
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Standing {
    pub host: String,
    pub wanted: Option<Wanted>,
    #[serde(flatten)]
    pub state: State,
}

impl Standing {
    pub fn drifts(&self) -> bool {
        !matches!(self.state, State::AsWanted | State::NothingWanted | State::Stopped { .. })
    }
}

/// What is known of a fleet's deployments, newest first, and what each host said of itself.
pub struct Fleet {
    pub deployments: Vec<(String, Merged)>,
    /// This workstation's own records.
    local: Vec<Deployment>,
    /// Of the hosts that are meant.
    views: Vec<(String, Result<HostView>)>,
}

/// What a host says: its records, and its state where that is asked for.
type Said = (Vec<Record>, Option<HostView>);

/// Asks every host for its records, and those that are meant for their state: what a host should run may be known
/// to others alone.
pub fn look(members: &[Member], meant: &BTreeSet<&str>, service: &str, state: &Path) -> Fleet {
    let answers = on_each(members.iter().collect(), |member: &Member| {
        let remote = member.remote()?;
        let records = questions::history_on(&remote, member.service.name(), RECORDS)?;
        let view = match meant.contains(member.name()) {
            true => Some(questions::status(&remote, member.service.name())?),
            false => None,
        };
        Ok::<Said, Error>((records, view))
    });
    let said = members.iter().map(|member| member.name().to_string()).zip(answers).collect();
    Fleet::of(said, meant, records::newest(state, service, RECORDS))
}

/// What a command goes on with: a snapshot, its deployment, and for which hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    pub wanted: Wanted,
    pub hosts: BTreeSet<String>,
}

impl Fleet {
    fn of(said: Vec<(String, Result<Said>)>, meant: &BTreeSet<&str>, local: Vec<Deployment>) -> Fleet {
        let (mut names, mut recorded, mut views) = (Vec::new(), Vec::new(), Vec::new());
        for (host, answer) in said {
            let view = answer.map(|(records, view)| {
                // Another number of instances is no deployment.
                let deployed = records.into_iter().filter(|record| record.attempt.kind != AttemptKind::Scale);
                recorded.extend(deployed.map(|record| (host.clone(), record)));
                view
            });
            if let Some(view) = view.transpose().filter(|_| meant.contains(host.as_str())) {
                views.push((host.clone(), view));
            }
            names.push(host);
        }
        let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut deployments: Vec<(String, Merged)> = merge(&local, recorded, &hosts).into_iter().collect();
        deployments.sort_by_key(|(_, merged)| std::cmp::Reverse(merged.began));
        Fleet { deployments, local, views }
    }

    /// The hosts that serve something else than they should.
    pub fn behind(&self) -> Result<Rest> {
        let mut rest: Option<Rest> = None;
        for standing in self.standings() {
            let (State::Other { .. }, Some(wanted)) = (&standing.state, standing.wanted) else { continue };
            let rest = rest.get_or_insert_with(|| Rest { wanted: wanted.clone(), hosts: BTreeSet::new() });
            if rest.wanted.snapshot != wanted.snapshot {
                let text = format!("hosts should serve {} and {}", rest.wanted.snapshot, wanted.snapshot);
                return Err(Error::new(Kind::Input, text).hint("bring one of them at a time: --hosts"));
            }
            rest.hosts.insert(standing.host);
        }
        rest.ok_or_else(|| {
            Error::new(Kind::Input, "no host that answers serves something else than it should")
                .hint("what each host runs: stillframe drift")
        })
    }

    /// The newest deployment for any host that is meant, whose workstation is gone before it reached all of them.
    pub fn unfinished(&self) -> Result<Rest> {
        let none = |text: String| Error::new(Kind::Input, text).hint("what each host runs: stillframe drift");
        let is_meant = |merged: &Merged| self.views.iter().any(|(host, _)| merged.hosts.contains(host));
        let newest = self.deployments.iter().find(|(_, merged)| is_meant(merged));
        let newest = newest.filter(|(_, merged)| merged.kind == AttemptKind::Deploy);
        let Some((id, Merged { snapshot: Some(snapshot), hosts, .. })) = newest else {
            return Err(none("there is no deployment to go on with".into()));
        };
        let own = self.local.iter().find(|deployment| deployment.deployment == *id);
        if own.and_then(|own| own.process.as_ref()).is_some_and(Life::goes_on) {
            return Err(
                Error::new(Kind::Busy, format!("{id} is under way here")).hint("watch it: stillframe attach")
            );
        }
        if own.is_some_and(|own| own.ended.is_some()) {
            return Err(none(format!("{id} was brought to its end, whatever came of it")));
        }
        let wanted = Wanted { snapshot: snapshot.clone(), deployment: id.clone() };
        Ok(Rest { wanted, hosts: hosts.clone() })
    }

    pub fn standings(&self) -> Vec<Standing> {
        self.views.iter().map(|(host, view)| self.standing(host, view)).collect()
    }

    fn standing(&self, host: &str, view: &Result<HostView>) -> Standing {
        let wanted = self.wanted(host);
        let state = match (view, &wanted) {
            (Err(e), _) => State::Silent { why: e.message.clone() },
            (Ok(_), None) => State::NothingWanted,
            (Ok(view), Some(wanted)) => self.compared(host, view, wanted),
        };
        Standing { host: host.into(), wanted, state }
    }

    /// What the newest deployment for a host brought to any host.
    fn wanted(&self, host: &str) -> Option<Wanted> {
        self.deployments.iter().find_map(|(id, merged)| {
            let snapshot = merged.snapshot.clone().filter(|_| merged.hosts.contains(host))?;
            let stayed = merged.hosts.iter().any(|host| ended(merged, host) == Some(Status::Succeeded));
            stayed.then(|| Wanted { snapshot, deployment: id.clone() })
        })
    }

    fn compared(&self, host: &str, view: &HostView, wanted: &Wanted) -> State {
        let service = view.services.first();
        if let Some(stopped) = service.and_then(|service| service.stopped.as_ref()) {
            return State::Stopped { by: stopped.by.clone(), since: stopped.since };
        }
        let serves = service.and_then(|service| {
            let number = service.serving?;
            service.generations.iter().find(|g| g.generation == number).map(|g| g.snapshot.clone())
        });
        match service {
            Some(service) if serves.as_ref() == Some(&wanted.snapshot) => {
                if service.ready < service.wanted {
                    return State::Few { ready: service.ready, of: service.wanted };
                }
                State::AsWanted
            }
            _ => State::Other { serves, why: self.why(host, wanted) },
        }
    }

    /// Why a host does not serve what a deployment brought elsewhere.
    fn why(&self, host: &str, wanted: &Wanted) -> String {
        let merged =
            self.deployments.iter().find(|(id, _)| *id == wanted.deployment).map(|(_, merged)| merged);
        match merged.and_then(|merged| last(merged, host)) {
            None => "it never heard of the deployment".into(),
            Some(Part::Unrecorded(result)) => {
                format!("it was not reached: {}", result.error.as_deref().unwrap_or("no reason is known"))
            }
            Some(Part::Recorded(record)) => match record.outcome() {
                None => "the deployment is under way there".into(),
                // It did, and somebody's hand was in it since.
                Some(outcome) if outcome.status == Status::Succeeded => {
                    "it was deployed there, and something else serves since".into()
                }
                Some(outcome) => {
                    let error = outcome.error.as_deref().and_then(|text| text.lines().next());
                    format!("{} there: {}", outcome.status, error.unwrap_or("no reason is known"))
                }
            },
        }
    }
}

/// The newest that is known of a host's part: it may have been taken back.
fn last<'a>(merged: &'a Merged, host: &str) -> Option<&'a Part> {
    let attempt = |part: &Part| match part {
        Part::Recorded(record) => record.attempt.attempt,
        Part::Unrecorded(_) => 0,
    };
    let parts = merged.parts.iter().filter(|(name, _)| name == host).map(|(_, part)| part);
    parts.max_by_key(|part| attempt(part))
}

fn ended(merged: &Merged, host: &str) -> Option<Status> {
    match last(merged, host)? {
        Part::Recorded(record) => record.outcome().map(|outcome| outcome.status),
        Part::Unrecorded(result) => Some(result.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::host_result::HostResult;
    use crate::protocol::messages::{Attempt, Event, Outcome};

    fn record(number: u64, deployment: &str, began: u64, status: Status, error: Option<&str>) -> Record {
        let outcome = Outcome { error: error.map(String::from), ..Outcome::unchanged(status, None) };
        let hosts = ["alpha".to_string(), "beta".to_string()];
        let attempt = Attempt::asked(deployment, AttemptKind::Deploy, "demo", "a@b", &hosts);
        let event = Event { at: 0, status, text: String::new(), bytes: None, outcome: Some(outcome) };
        Record {
            attempt: Attempt {
                attempt: number,
                began,
                snapshot: Some(format!("/nix/store/{deployment}")),
                ..attempt
            },
            events: vec![event],
        }
    }

    fn view(snapshot: &str, ready: u32) -> HostView {
        serde_json::from_value(serde_json::json!({"version": 1, "agent": "", "services": [{
            "service": "demo", "serving": 4, "address": null, "wanted": 2, "ready": ready, "held": 0,
            "gateway_error": null, "instances": [], "deployment": null, "activating": false,
            "generations": [{"generation": 4, "snapshot": format!("/nix/store/{snapshot}"), "created": 0,
                             "attempt": 1, "before": null}]}]}))
        .unwrap()
    }

    fn fleet(records: Vec<(&str, Record)>, local: &[Deployment], beta: Result<HostView>) -> Fleet {
        let of = |name: &str| {
            let of_host = records.iter().filter(|(host, _)| *host == name);
            of_host.map(|(_, record)| record.clone()).collect::<Vec<_>>()
        };
        // Its records are known in these tests, also where its state is not.
        let (alpha, its) = (("alpha".to_string(), Ok((of("alpha"), None))), of("beta"));
        let beta_said = ("beta".to_string(), Ok((its, Some(view("", 0)))));
        let fleet = Fleet::of(vec![alpha, beta_said], &["beta"].into(), local.to_vec());
        Fleet { views: vec![("beta".into(), beta)], ..fleet }
    }

    #[test]
    fn what_a_dead_workstation_left_is_gone_on_with() {
        let records = || {
            let interrupted = record(2, "two", 2, Status::Interrupted, None);
            vec![("alpha", record(2, "two", 2, Status::Succeeded, None)), ("beta", interrupted)]
        };
        let left = |local: &[Deployment]| fleet(records(), local, Ok(view("one", 2))).unfinished();
        let wanted = Wanted { snapshot: "/nix/store/two".into(), deployment: "two".into() };
        let hosts: BTreeSet<String> = ["alpha".to_string(), "beta".to_string()].into();
        let rest = left(&[]).unwrap();
        assert_eq!(rest, Rest { wanted: wanted.clone(), hosts });
        let own = Deployment::new("two", AttemptKind::Deploy, "demo", "a@b");
        assert_eq!(left(std::slice::from_ref(&own)).unwrap_err().kind, Kind::Busy);
        let dead = Deployment { process: None, ..own.clone() };
        assert!(left(std::slice::from_ref(&dead)).is_ok());
        let over = Deployment { ended: Some(3), ..dead };
        // It is over, whatever was begun since and reached no host.
        let newer = Deployment::new("three", AttemptKind::Deploy, "demo", "a@b");
        assert_eq!(left(&[newer, over]).unwrap_err().kind, Kind::Input);
        assert!(fleet(Vec::new(), &[], Ok(view("one", 2))).unfinished().is_err());
        // To catch up is for the hosts that lag alone.
        let behind = fleet(records(), &[], Ok(view("one", 2))).behind().unwrap();
        assert_eq!(behind, Rest { wanted, hosts: ["beta".to_string()].into() });
    }

    #[test]
    fn what_a_host_should_run_is_asked_of_all_though_one_is_meant() {
        let good = |id, began| record(began, id, began, Status::Succeeded, None);
        let lost = || Err(Error::new(Kind::Host, "gamma: no route"));
        let said = || {
            let alpha = Ok((vec![good("one", 1), good("two", 2)], None));
            let beta = Ok((vec![good("one", 1)], Some(view("one", 2))));
            vec![("alpha".to_string(), alpha), ("beta".to_string(), beta), ("gamma".to_string(), lost())]
        };
        let standings = Fleet::of(said(), &["beta"].into(), Vec::new()).standings();
        let [Standing { host, state: State::Other { why, .. }, wanted: Some(wanted) }] = &standings[..]
        else {
            panic!("{standings:?}")
        };
        assert_eq!((host.as_str(), wanted.deployment.as_str()), ("beta", "two"));
        assert_eq!(why, "it never heard of the deployment");
        // A deployment for others is none to go on with here.
        assert!(Fleet::of(said(), &["gamma"].into(), Vec::new()).unfinished().is_err());
        assert_eq!(Fleet::of(said(), &["beta"].into(), Vec::new()).unfinished().unwrap().wanted, *wanted);
    }

    fn state(records: Vec<(&str, Record)>, local: &[Deployment], beta: Result<HostView>) -> State {
        fleet(records, local, beta).standings().remove(0).state
    }

    #[test]
    fn a_host_should_run_what_the_newest_deployment_brought_anywhere() {
        let good = |host, number, id, began| (host, record(number, id, began, Status::Succeeded, None));
        let both = || vec![good("alpha", 1, "one", 1), good("beta", 1, "one", 1)];
        assert_eq!(state(both(), &[], Ok(view("one", 2))), State::AsWanted);
        assert_eq!(state(both(), &[], Ok(view("one", 1))), State::Few { ready: 1, of: 2 });
        assert_eq!(state(Vec::new(), &[], Ok(view("one", 2))), State::NothingWanted);
        let lost = Err(Error::new(Kind::Host, "beta: no route"));
        assert_eq!(state(both(), &[], lost), State::Silent { why: "beta: no route".into() });
        let other = |why: &str| State::Other { serves: Some("/nix/store/one".into()), why: why.into() };
        // What failed everywhere, or was taken back, is wanted by nobody.
        let mut records = both();
        records.push(good("alpha", 2, "two", 2));
        let back = record(3, "two", 3, Status::Reverted, Some("beta failed"));
        records.push((
            "alpha",
            Record { attempt: Attempt { kind: AttemptKind::TakeBack, ..back.attempt }, ..back },
        ));
        records.push(("beta", record(2, "two", 2, Status::Failed, Some("unhealthy"))));
        assert_eq!(state(records, &[], Ok(view("one", 2))), State::AsWanted);
        let mut records = both();
        records.push(good("alpha", 2, "two", 2));
        records.push(("beta", record(2, "two", 2, Status::Interrupted, Some("the workstation is gone"))));
        let got = state(records, &[], Ok(view("one", 2)));
        assert_eq!(got, other("interrupted there: the workstation is gone"));
        // It was down, and only the workstation knows.
        let mut records = both();
        records.push(good("alpha", 2, "two", 2));
        assert_eq!(
            state(records.clone(), &[], Ok(view("one", 2))),
            other("it never heard of the deployment")
        );
        let mut local = Deployment::new("two", AttemptKind::Deploy, "demo", "a@b");
        local.hosts = vec![HostResult::failed("beta", &Error::new(Kind::Host, "no route"), false)];
        assert_eq!(state(records, &[local], Ok(view("one", 2))), other("it was not reached: no route"));
    }
}
