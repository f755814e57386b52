//! A fleet of two hundred simulated hosts: the rollout, the conversations and the transfer are the real ones, the ways
//! to the hosts are pipes in this process. The real hosts of the end-to-end tests are fewer.
#[path = "simulated_host.rs"]
mod simulated_host;

use crate::closure::registry::{Record, Requires};
use crate::deploy::events::{Event, Observer};
use crate::deploy::fleet::{Checked, GivenHosts, Project};
use crate::deploy::plan::Plan;
use crate::deploy::records::{self, Finished};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::StorePath;
use crate::formats::nix::worker::{MAGIC_DAEMON, WriteWire, stderr};
use crate::protocol::messages::{self, AttemptKind, Status};
use crate::ship::agent::Agent;
use crate::ship::config::{RolloutConfig, ServiceConfig, ShipConfig};
use crate::ship::copy::Load;
use crate::ship::send::Closure;
use crate::ship::simulated;
use crate::store::{PathInfo, StoreConfig};
use crate::sys::error::{Error, Kind};
use crate::sys::progress::{Progress, Silent};
use serde_json::json;
use simulated_host::{Host, Ledger, Line, Moment, Trouble};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Paths of a closure, and bytes of each: enough for four streams.
const PATHS: usize = 6;
const BYTES: usize = 256 << 10;

#[derive(Default)]
struct Deaf;

impl Observer for Deaf {
    fn event(&self, _: &Event) {}

    fn copying(&self, _: &str, _: u64) -> Box<dyn Progress> {
        Box::new(Silent)
    }
}

fn path(number: usize) -> StorePath {
    let letters = b"0123456789abcdfghijklmnpqrsvwxyz";
    let name: String = (0..32).map(|at| char::from(letters[(number * 5 + at) % 32])).collect();
    StorePath::from_base_name(&format!("{name}-part-{number}")).unwrap()
}

/// A daemon that has all paths, which are equal: what it says does not depend on the questions, so it says it at once.
fn store(dir: &Path) -> StoreConfig {
    let mut said = Vec::new();
    said.put_number(MAGIC_DAEMON).unwrap();
    said.put_number(0x122).unwrap();
    said.put_bytes(b"2.8.0").unwrap();
    [stderr::LAST, stderr::LAST].iter().for_each(|n| said.put_number(*n).unwrap());
    for _ in 0..PATHS {
        [stderr::LAST, 1].iter().for_each(|n| said.put_number(*n).unwrap());
        said.put_bytes(b"").unwrap();
        said.put_bytes(Sha256([7; 32]).to_hex().as_bytes()).unwrap();
        // References, time, size, whether it was built here, signatures.
        [0, 0, BYTES as u64, 0, 0].iter().for_each(|n| said.put_number(*n).unwrap());
        said.put_bytes(b"").unwrap();
        said.put_number(stderr::LAST).unwrap();
        let noise = (0..BYTES as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8);
        said.extend(noise);
    }
    let file = dir.join("said");
    std::fs::write(&file, said).unwrap();
    let script = format!("cat {} 2>/dev/null & exec cat >/dev/null", file.display());
    StoreConfig { daemon: Some(vec!["sh".into(), "-c".into(), script]), ..StoreConfig::default() }
}

struct Fleet {
    name: &'static str,
    hosts: Vec<Arc<Host>>,
    ledger: Arc<Ledger>,
    dir: TempDir,
}

impl Fleet {
    /// `name` sets its addresses apart from those of other tests.
    fn new(name: &'static str, count: usize, trouble: impl Fn(usize) -> Trouble) -> Fleet {
        let agent = BTreeSet::from([path(0).to_string()]);
        Fleet::with(name, count, &agent, trouble)
    }

    /// Hosts that have this of the closure.
    fn with(
        name: &'static str,
        count: usize,
        has: &BTreeSet<String>,
        trouble: impl Fn(usize) -> Trouble,
    ) -> Fleet {
        let ledger = Arc::new(Ledger::default());
        let closure: BTreeSet<String> = (0..PATHS).map(|n| path(n).to_string()).collect();
        let hosts: Vec<Arc<Host>> =
            (0..count).map(|n| Host::new(n, trouble(n), closure.clone(), has.clone(), &ledger)).collect();
        for (number, host) in hosts.iter().enumerate() {
            let host = host.clone();
            let connect = move || match host.trouble {
                Trouble::Down => Err(Error::new(Kind::Host, format!("{}: cannot connect", called(number)))),
                _ => Ok(Box::new(Line(host.clone())) as _),
            };
            simulated::put(&format!("{}.{name}", called(number)), Arc::new(connect));
        }
        Fleet { name, hosts, ledger, dir: tempfile::tempdir().unwrap() }
    }

    fn deploy(&self, rollout: &str) -> Finished {
        let service: ServiceConfig = toml::from_str("name = \"demo\"\nmodels = \"/srv/models\"").unwrap();
        let names: Vec<String> = (0..self.hosts.len()).map(called).collect();
        let hosts =
            names.iter().map(|name| (name.clone(), json!({"address": format!("{name}.{}", self.name)})));
        let given = GivenHosts { folder: None, hosts: hosts.collect() };
        let (folder, cache) = (self.dir.path(), self.dir.path());
        let project = Project { folder, service: &service, source: None, given: Some(&given), cache };
        let members = project.choose(None).unwrap().members;
        let checked = members.into_iter().map(|member| Checked::of(member).unwrap()).collect();
        self.plan(names, toml::from_str(rollout).unwrap()).carry_out(checked, &Deaf).unwrap()
    }

    fn plan(&self, hosts: Vec<String>, rollout: RolloutConfig) -> Plan {
        let info = || PathInfo {
            nar_hash: Sha256([7; 32]),
            nar_size: BYTES as u64,
            references: BTreeSet::new(),
            deriver: None,
            ca: String::new(),
        };
        let closure: Closure = (0..PATHS).map(|n| (path(n), info())).collect();
        let source = store(self.dir.path());
        let agent = Agent { path: path(0), program: "/nix/store/agent/bin/stillframe-agent".into() };
        let record: Record = serde_json::from_value(json!({
            "version": 1, "id": "new", "snapshot": format!("/nix/store/{}", path(1)), "derivation": "d", "environment": "/e",
            "created": "c", "user": "a", "host": "b", "stillframe": "0", "service": "comfyui", "closure_paths": PATHS,
            "closure_bytes": PATHS * BYTES, "outputs": [], "findings": [],
        }))
        .unwrap();
        let requires = Requires { system: "x86_64-linux".into(), ..Requires::default() };
        Plan {
            record: Record { requires, ..record },
            load: Load { source, agent, closure, gate: Default::default() },
            id: records::new_id(),
            by: "a@b".into(),
            again: false,
            dry_run: false,
            project: messages::Project { id: "p".into(), folder: "/f".into() },
            take_over: false,
            hosts,
            service: "demo".into(),
            rollout,
            ship: ShipConfig::default(),
            state: self.dir.path().into(),
        }
    }

    fn told(&self, moment: Moment) -> BTreeSet<usize> {
        self.ledger.moments.lock().iter().filter(|(_, m)| *m == moment).map(|(host, _)| *host).collect()
    }

    /// What the record of this workstation says of each host.
    fn recorded(&self) -> Vec<(Status, u64, String)> {
        let record = records::newest(self.dir.path(), "demo", 1).remove(0);
        assert!(record.ended.is_some() && record.process.is_none());
        assert_eq!(
            record.hosts.iter().map(|h| h.host.clone()).collect::<Vec<_>>(),
            (0..self.hosts.len()).map(called).collect::<Vec<_>>()
        );
        let one = |h: messages::Status, g: Option<u64>, e: Option<String>| {
            (h, g.unwrap_or(0), e.unwrap_or_default())
        };
        record.hosts.into_iter().map(|h| one(h.status, h.generation, h.error)).collect()
    }

    /// No host of a later stage began before all of the earlier ones had ended.
    fn waited(&self, sizes: &[usize]) {
        let (mut first, moments) = (0, self.ledger.moments.lock());
        for size in sizes {
            let stage = first..first + size;
            let ended = |host: &usize| {
                moments.iter().position(|(h, m)| h == host && *m == Moment::Ended).expect("it has ended")
            };
            let last = (0..stage.end).map(|host| ended(&host)).max().unwrap();
            let early: Vec<usize> = moments[..last]
                .iter()
                .filter(|(host, moment)| *moment == Moment::Activates && *host >= stage.end)
                .map(|(host, _)| *host)
                .collect();
            assert!(early.is_empty(), "{early:?} did not wait for {stage:?}");
            first = stage.end;
        }
    }
}

fn called(number: usize) -> String {
    format!("h{number:03}")
}

#[test]
fn two_hundred_hosts_go_in_their_stages() {
    let cut = |n: usize| if n % 67 == 5 { Trouble::CutWhileActivating } else { Trouble::Nothing };
    let fleet = Fleet::new("stages", 200, cut);
    assert_eq!(fleet.deploy("canary = 2\nbatch = 25"), Finished::Succeeded);
    fleet.waited(&[2, 25, 25, 25, 25, 25, 25, 25, 23]);
    let most = fleet.ledger.activating.most();
    assert!(most <= 25, "{most} activate at once");
    for host in &fleet.hosts {
        assert_eq!(host.serving(), 2, "{}", host.number);
        assert_eq!(host.history(), [(AttemptKind::Deploy, Status::Succeeded, String::new())]);
    }
    assert!(fleet.recorded().iter().all(|host| *host == (Status::Succeeded, 2, String::new())));
}

#[test]
fn a_failure_stops_the_stages_and_takes_back_those_before() {
    let trouble = |n: usize| match n {
        60 | 71 => Trouble::Fails,
        // Their lines are cut after they switched: a new one says that they are to go back.
        3 | 58 => Trouble::CutAfterwards,
        40 => Trouble::StaysBehind,
        _ => Trouble::Nothing,
    };
    let fleet = Fleet::new("failure", 200, trouble);
    assert_eq!(fleet.deploy("canary = 2\nbatch = 25"), Finished::NotReverted);
    fleet.waited(&[2, 25, 25, 25]);
    // The stage of the failure was under way and went to its end; the next did not begin.
    assert_eq!(fleet.told(Moment::Activates), (0..77).collect());
    let back: BTreeSet<usize> = (0..77).filter(|n| ![40, 60, 71].contains(n)).collect();
    assert_eq!(fleet.told(Moment::TakenBack), back);
    let recorded = fleet.recorded();
    let first = recorded.iter().find_map(|(_, _, why)| why.strip_prefix("taken back: ")).unwrap();
    assert!(first == "h060 failed: it did not get healthy" || first == "h071 failed: it did not get healthy");
    for host in &fleet.hosts {
        let (number, (status, generation, why)) = (host.number, &recorded[host.number]);
        let deployed = |status, why: &str| (AttemptKind::Deploy, status, why.to_string());
        let (serving, history) = match number {
            40 => (2, vec![deployed(Status::Succeeded, "")]),
            60 | 71 => (1, vec![deployed(Status::Failed, "it did not get healthy")]),
            0..77 => {
                let back = (AttemptKind::TakeBack, Status::Reverted, first.to_string());
                (1, vec![deployed(Status::Succeeded, ""), back])
            }
            _ => (1, vec![deployed(Status::Cancelled, &format!("not begun: {first}"))]),
        };
        assert_eq!((host.serving(), host.history()), (serving, history), "{number}");
        let wanted = match number {
            40 => (Status::Failed, "could not be taken back"),
            60 | 71 => (Status::Failed, "it did not get healthy"),
            0..77 => (Status::Reverted, "taken back: "),
            _ => (Status::Cancelled, "not begun: "),
        };
        assert!(*status == wanted.0 && why.contains(wanted.1), "{number}: {status} {why}");
        assert!(*generation <= 1, "{number}");
    }
}

#[test]
fn so_many_may_be_missing_and_no_more() {
    let trouble = |missing: usize| {
        move |n: usize| match n {
            _ if n >= missing => Trouble::Nothing,
            _ if n.is_multiple_of(2) => Trouble::Down,
            _ => Trouble::CutWhileCopying(64 << 10),
        }
    };
    let rollout = "canary = 2\nbatch = 25\nmax-unavailable = 50";
    let fleet = Fleet::new("missing", 200, trouble(50));
    assert_eq!(fleet.deploy(rollout), Finished::Partly);
    assert_eq!(fleet.told(Moment::Ended), (50..200).collect());
    let recorded = fleet.recorded();
    assert!(recorded[..50].iter().all(|host| host.0 == Status::Failed));
    assert!(recorded[50..].iter().all(|host| (host.0, host.1) == (Status::Succeeded, 2)));
    // The hosts that were reached know of it.
    let history = fleet.hosts[1].history();
    assert_eq!((history.len(), history[0].1), (1, Status::Failed));

    let fleet = Fleet::new("missing-more", 200, trouble(51));
    assert_eq!(fleet.deploy(rollout), Finished::Failed);
    assert_eq!(fleet.told(Moment::Activates), BTreeSet::new());
    let why = "51 of 200 hosts cannot be deployed to; at most 50 may be missing ([rollout] max-unavailable)";
    for host in &fleet.hosts[51..] {
        assert_eq!(
            (host.serving(), host.history()),
            (1, vec![(AttemptKind::Deploy, Status::Cancelled, why.into())])
        );
    }
}

/// What a deployment opens and sends grows as its hosts do, and what it holds while it copies does not.
#[test]
fn what_a_host_costs_is_the_same_in_every_fleet() {
    let mut rows = Vec::new();
    for (name, count) in [("grows-25", 25), ("grows-50", 50), ("grows-100", 100), ("grows-200", 200)] {
        // Not even their agents are right: those come first.
        let fleet = Fleet::with(name, count, &BTreeSet::new(), |_| Trouble::Nothing);
        assert_eq!(fleet.deploy("canary = 0\nbatch = \"100%\""), Finished::Succeeded);
        let ledger = &fleet.ledger;
        let (opened, sent) = (*ledger.connections.lock(), *ledger.wire_bytes.lock());
        let (copying, streams) = (ledger.copying.most(), ledger.streams.most());
        println!(
            "{count} hosts: {opened} commands, {sent} bytes, {} conversations at once, {copying} hosts copying at once over {streams} streams",
            ledger.conversations.most()
        );
        assert!(
            ledger.conversations.most() == count && copying <= 16 && streams <= 64,
            "{copying} {streams}"
        );
        rows.push((opened / count, opened % count, sent / count as u64, sent % count as u64));
    }
    assert!(rows.windows(2).all(|pair| pair[0] == pair[1]), "{rows:?}");
}
