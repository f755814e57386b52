//! The activation against a host made of maps: every effect fails once, the process dies before and after
//! every effect, the power goes at every effect. What serves afterwards is exactly the old or the new.
use super::*;
use crate::host::world::UnitState;
use crate::protocol::control::{Limits, Reply, Table, TargetStatus};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::spec::{Health, Retention, SPEC_VERSION, Spec};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// What survives the agent's process, and, marked so, the power.
#[derive(Debug, Clone, Default, PartialEq)]
struct Host {
    // On disk.
    state: Option<ServiceState>,
    links: BTreeSet<u64>,
    data: bool,
    /// It could not be removed: that is said, and nothing else depends on it.
    data_stays: bool,
    profile: Option<u64>,
    // In /run and in memory.
    units: BTreeSet<InstanceId>,
    running: BTreeSet<InstanceId>,
    gateway: bool,
    table: Table,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The effect fails, once.
    Error,
    /// The process dies before the effect.
    Before,
    /// The process dies right after it.
    After,
}

struct Fake {
    host: Host,
    clock: u64,
    effects: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    /// Generations whose instances never get healthy.
    sick: BTreeSet<u64>,
    /// Generations that are healthy only until they have traffic.
    weak: BTreeSet<u64>,
    /// Open connections of a generation, and until when.
    open: BTreeMap<u64, u64>,
    cut: Vec<String>,
    /// Generations with a pack that failed to import.
    lame: BTreeSet<u64>,
    /// Whose pictures went to whom.
    inherited: Vec<(InstanceId, InstanceId)>,
    steps: Vec<(Status, String)>,
}

impl Fake {
    fn new(host: Host) -> Fake {
        Fake {
            host,
            clock: 0,
            effects: 0,
            fault: None,
            dead: false,
            sick: BTreeSet::new(),
            weak: BTreeSet::new(),
            open: BTreeMap::new(),
            cut: Vec::new(),
            lame: BTreeSet::new(),
            inherited: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn effect<T>(&mut self, what: &str, act: impl FnOnce(&mut Host) -> T) -> Result<T> {
        let broken = || Error::new(Kind::Io, format!("{what} broke"));
        if self.dead {
            return Err(broken());
        }
        self.effects += 1;
        match self.fault {
            Some((at, Fault::Error)) if at == self.effects => Err(broken()),
            Some((at, Fault::Before)) if at == self.effects => {
                self.dead = true;
                Err(broken())
            }
            Some((at, Fault::After)) if at == self.effects => {
                act(&mut self.host);
                self.dead = true;
                Err(broken())
            }
            _ => Ok(act(&mut self.host)),
        }
    }

    fn generation_of(&self, port: u16) -> Option<u64> {
        let state = self.host.state.as_ref()?;
        state.generations.iter().find(|(_, g)| g.instances.iter().any(|p| p.port == port)).map(|(n, _)| *n)
    }
}

impl World for Fake {
    fn step(&mut self, status: Status, text: &str) -> Result<()> {
        self.steps.push((status, text.into()));
        self.effect("journal", |_| ())
    }
    fn save(&mut self, state: &ServiceState) -> Result<()> {
        self.effect("save", |h| h.state = Some(state.clone()))
    }
    fn link(&mut self, number: u64, _: &Wanted) -> Result<()> {
        self.effect("link", |h| {
            h.links.insert(number);
        })
    }
    fn unlink(&mut self, number: u64, _: u64) -> Result<()> {
        self.effect("unlink", |h| {
            h.links.remove(&number);
        })
    }
    fn point(&mut self, number: Option<u64>) -> Result<()> {
        self.effect("point", |h| h.profile = number)
    }
    fn write_units(&mut self, number: u64, generation: &Generation) -> Result<()> {
        let names: Vec<InstanceId> =
            generation.instances.iter().map(|p| InstanceId { slot: p.slot, generation: number }).collect();
        self.effect("units", |h| h.units.extend(names))
    }
    fn remove_units(&mut self, units: &[InstanceId]) -> Result<()> {
        self.effect("remove units", |h| {
            units.iter().for_each(|u| {
                h.units.remove(u);
            })
        })
    }
    fn start(&mut self, unit: InstanceId) -> Result<()> {
        assert!(self.dead || self.host.units.contains(&unit), "{unit} is started without its file");
        self.effect("start", |h| {
            h.data = true;
            h.running.insert(unit);
        })
    }
    fn stop(&mut self, unit: InstanceId) -> Result<()> {
        self.effect("stop", |h| {
            h.running.remove(&unit);
        })
    }
    fn unit(&mut self, unit: InstanceId) -> Result<UnitState> {
        let active = if self.host.running.contains(&unit) { "active" } else { "inactive" };
        self.effect("look", |_| UnitState { active: active.into(), ..UnitState::default() })
    }
    fn log_tail(&mut self, _: InstanceId) -> String {
        "Traceback".into()
    }
    fn clear_slot(&mut self, unit: InstanceId, heir: Option<InstanceId>) -> Result<Vec<String>> {
        assert!(self.dead || !self.host.running.contains(&unit), "the slot of running {unit} is thrown away");
        self.inherited.extend(heir.map(|heir| (unit, heir)));
        self.effect("clear", |_| Vec::new())
    }
    fn classes(&mut self, port: u16) -> Result<std::result::Result<BTreeSet<String>, String>> {
        let lame = self.generation_of(port).is_some_and(|n| self.lame.contains(&n));
        let all = if lame { vec!["KSampler"] } else { vec!["KSampler", "Edge"] };
        self.effect("classes", |_| Ok(all.into_iter().map(String::from).collect()))
    }
    fn smoke(&mut self, port: u16, _: &Value, _: u64) -> Result<std::result::Result<(), String>> {
        let lame = self.generation_of(port).is_some_and(|n| self.lame.contains(&n));
        self.effect("smoke", |_| if lame { Err("node 3 failed".into()) } else { Ok(()) })
    }
    fn probe(&mut self, port: u16, _: &Spec) -> Result<std::result::Result<(), String>> {
        let number = self.generation_of(port).unwrap_or(0);
        let has_traffic = self.host.table.targets.iter().any(|t| t.generation == number);
        let ill = self.sick.contains(&number) || has_traffic && self.weak.contains(&number);
        self.effect("probe", |_| if ill { Err("answered 500".into()) } else { Ok(()) })
    }
    fn queue(&mut self, _: u16) -> Option<u64> {
        Some(0)
    }
    fn gateway(&mut self, _: &Wanted) -> Result<()> {
        self.effect("gateway", |h| h.gateway = true)
    }
    fn settle(&mut self, _: &ServiceState) -> Result<()> {
        self.effect("settle", |_| ())
    }
    fn remove_gateway(&mut self) -> Result<()> {
        self.effect("remove gateway", |h| {
            h.gateway = false;
            h.table = Table::default();
        })
    }
    fn has_data(&mut self) -> bool {
        self.host.data
    }
    fn remove_data(&mut self) -> Result<()> {
        assert!(self.dead || self.host.running.is_empty(), "the folder of a running instance");
        let removed = self.effect("remove data", |h| h.data = false);
        self.host.data_stays |= removed.is_err() && !self.dead;
        removed
    }
    fn set_table(&mut self, table: &Table) -> Result<()> {
        assert!(self.dead || self.host.gateway, "a table for no gateway");
        for target in &table.targets {
            let name: InstanceId = target.id.parse().unwrap();
            assert!(self.dead || self.host.running.contains(&name), "traffic for {name}, which is stopped");
        }
        self.effect("table", |h| h.table = table.clone())
    }
    fn gateway_status(&mut self) -> Result<Reply> {
        if !self.host.gateway {
            return Err(Error::new(Kind::Host, "no gateway"));
        }
        let (clock, open) = (self.clock, self.open.clone());
        self.effect("status", |h| {
            let named = h.table.targets.iter().map(|t| (t.id.clone(), t.address, t.generation, false));
            let drained = open
                .iter()
                .filter(|(n, until)| clock < **until && !h.table.targets.iter().any(|t| t.generation == **n));
            let drained =
                drained.map(|(n, _)| (format!("s0-g{n}"), "127.0.0.1:1".parse().unwrap(), *n, true));
            let targets = named.chain(drained).map(|(id, address, generation, draining)| TargetStatus {
                id,
                address,
                generation,
                draining,
                healthy: true,
                reason: None,
                requests: u64::from(draining),
                websockets: 0,
                served: 0,
                failed: 0,
            });
            Reply { error: None, targets: targets.collect(), held: 0 }
        })
    }
    fn cut(&mut self, id: &str) -> Result<()> {
        self.cut.push(id.into());
        self.effect("cut", |_| ())
    }
    fn now(&mut self) -> u64 {
        self.clock
    }
    fn wait(&mut self, milliseconds: u64) -> Result<()> {
        self.clock += milliseconds;
        self.effect("wait", |_| ())
    }
}

fn wanted(label: &str, rotation: Rotation, instances: u32) -> Goal {
    let spec = Spec {
        version: SPEC_VERSION,
        service: "demo".into(),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 8188,
        api_keys: vec![],
        gateway: Limits::default(),
        metrics_port: None,
        slots: vec![vec![]; 2],
        instances,
        maximum: 2,
        memory_bytes: None,
        cpu_percent: None,
        user: None,
        models: "/srv/models".into(),
        output: None,
        folders: vec![],
        keep: vec![],
        secrets: vec![],
        driver: None,
        arguments: vec![],
        environment: BTreeMap::new(),
        ports: (20_000, 20_099),
        health: Health { deadline_ms: 20_000, ..Health::default() },
        rotation,
        drain_ms: 5_000,
        retention: Retention { generations: 2 },
    };
    Goal::New(Box::new(Wanted {
        snapshot: format!("/nix/store/{label}"),
        agent: "/nix/store/agent".into(),
        launch: "demo".into(),
        classes: [("Edge".to_string(), "custom_nodes.edge".to_string())].into(),
        spec,
    }))
}

fn run(world: &mut Fake, goal: &Goal) -> Result<Outcome> {
    let mut state = world.host.state.clone().unwrap_or_else(|| ServiceState::new("demo"));
    activate(world, &mut state, goal, 1, 0, |_| false)
}

/// Exactly this generation, and nothing of any other, runs and has the traffic.
fn assert_serves(host: &Host, number: Option<u64>, context: &str) {
    let state = host.state.clone().unwrap_or_else(|| ServiceState::new("demo"));
    assert_eq!(state.serving, number, "{context}: state");
    assert_eq!(state.pending, None, "{context}: pending");
    assert_eq!(host.profile, number, "{context}: profile");
    let units: BTreeSet<InstanceId> =
        number.map(|n| state.instances(n)).unwrap_or_default().into_iter().collect();
    assert_eq!(host.running, units, "{context}: running");
    assert_eq!(host.units, units, "{context}: unit files");
    assert_eq!(host.gateway, number.is_some(), "{context}: gateway");
    assert_eq!(host.table.targets, state.table(number).targets, "{context}: table");
    assert!(number.is_some() || !host.data || host.data_stays, "{context}: a folder is left");
    assert_eq!(host.links, state.generations.keys().copied().collect(), "{context}: links");
}

/// A host on which `count` deployments went well.
fn after(count: u32, rotation: Rotation) -> Host {
    let mut world = Fake::new(Host::default());
    for n in 1..=count {
        let outcome = run(&mut world, &wanted(&format!("s{n}"), rotation, 2)).unwrap();
        assert_eq!((outcome.status, outcome.generation), (Status::Succeeded, Some(u64::from(n))));
        assert_serves(&world.host, Some(u64::from(n)), "after");
    }
    world.host
}

const BOTH: [Rotation; 2] = [Rotation::Surge, Rotation::Replace];

#[test]
fn generations_follow_each_other_and_old_ones_go() {
    for rotation in BOTH {
        let host = after(5, rotation);
        // The serving one, the one before, and one more.
        assert_eq!(host.links, BTreeSet::from([3, 4, 5]));
        assert_eq!(host.state.unwrap().next_generation, 6);
    }
}

#[test]
fn a_rollback_goes_to_the_generation_asked_for() {
    let mut world = Fake::new(after(4, Rotation::Surge));
    let outcome = run(&mut world, &Goal::Kept(1)).unwrap_err();
    assert_eq!(
        (outcome.to_string(), outcome.hint.unwrap()),
        ("demo has no generation 1".to_string(), "it has: 2, 3, 4".to_string())
    );
    let mut world = Fake::new(after(3, Rotation::Surge));
    for number in [1, 3, 2] {
        let outcome = run(&mut world, &Goal::Kept(number)).unwrap();
        assert_eq!((outcome.status, outcome.generation), (Status::Succeeded, Some(number)));
        assert_serves(&world.host, Some(number), "rollback");
    }
    let outcome = run(&mut world, &Goal::Kept(2)).unwrap();
    assert_eq!(outcome.warnings, ["generation 2 serves already"]);
}

#[test]
fn every_effect_may_fail_and_the_old_one_serves() {
    for rotation in BOTH {
        for served in [0, 2] {
            let old = after(served, rotation);
            let was = (served > 0).then_some(u64::from(served));
            let mut committed = 0;
            for at in 1.. {
                let mut world = Fake::new(old.clone());
                world.fault = Some((at, Fault::Error));
                let context = format!("{rotation:?}, {served} before, effect {at}");
                let outcome = run(&mut world, &wanted("next", rotation, 2));
                if world.effects < at {
                    break;
                }
                match outcome {
                    Ok(outcome) if outcome.status == Status::Succeeded => {
                        committed += 1;
                        assert_eq!(outcome.generation, Some(u64::from(served) + 1), "{context}");
                        assert_eq!(
                            world.host.state.as_ref().unwrap().serving,
                            outcome.generation,
                            "{context}"
                        );
                        assert_eq!(
                            world.host.table,
                            world.host.state.as_ref().unwrap().table(outcome.generation),
                            "{context}"
                        );
                    }
                    Ok(outcome) => {
                        assert!(outcome.error.unwrap().ends_with("broke"), "{context}");
                        assert_eq!(outcome.generation, was, "{context}");
                        assert_serves(&world.host, was, &context);
                    }
                    // The very last save: the state still says that it is under way, and recovery ends it.
                    Err(_) => {
                        let mut state = world.host.state.clone().unwrap();
                        recover(&mut world, &mut state, None).unwrap();
                        assert_serves(&world.host, state.serving, &context);
                    }
                }
            }
            assert!(committed > 0);
        }
    }
}

#[test]
fn the_process_and_the_power_may_go_at_every_effect() {
    for rotation in BOTH {
        for served in [0, 2] {
            let old = after(served, rotation);
            let was = (served > 0).then_some(u64::from(served));
            for power in [false, true] {
                for fault in [Fault::Before, Fault::After] {
                    let mut sides = BTreeSet::new();
                    for at in 1.. {
                        let mut world = Fake::new(old.clone());
                        world.fault = Some((at, fault));
                        let outcome = run(&mut world, &wanted("next", rotation, 2));
                        if world.effects < at {
                            break;
                        }
                        let context = format!("{rotation:?}, {served} before, {fault:?} {at}, power {power}");
                        drop(outcome);
                        let mut host = world.host;
                        if power {
                            host.units.clear();
                            host.running.clear();
                            host.gateway = false;
                            host.table = Table::default();
                        }
                        let mut state = host.state.clone().unwrap_or_else(|| ServiceState::new("demo"));
                        let mut world = Fake::new(host);
                        boot(&mut world, &mut state);
                        let now = world.host.state.clone().and_then(|s| s.serving);
                        assert!(now == was || now == Some(u64::from(served) + 1), "{context}: {now:?}");
                        assert_serves(&world.host, now, &context);
                        sides.insert(now);
                    }
                    assert_eq!(sides.len(), 2, "both sides of the commit were seen");
                }
            }
        }
    }
}

/// What the boot service does.
fn boot(world: &mut Fake, state: &mut ServiceState) {
    recover(world, state, None).unwrap();
    reconcile(world, state).unwrap();
}

#[test]
fn recovery_may_itself_be_interrupted() {
    let old = after(2, Rotation::Surge);
    for at in 1..60 {
        for again in 1..40 {
            let mut world = Fake::new(old.clone());
            world.fault = Some((at, Fault::After));
            drop(run(&mut world, &wanted("next", Rotation::Surge, 2)));
            let mut state = world.host.state.clone().unwrap();
            let mut world = Fake::new(world.host);
            world.fault = Some((again, Fault::After));
            let _ = recover(&mut world, &mut state, None);
            let mut state = world.host.state.clone().unwrap();
            let mut world = Fake::new(world.host);
            boot(&mut world, &mut state);
            assert_serves(&world.host, state.serving, &format!("{at}, {again}"));
        }
    }
}

#[test]
fn what_is_not_healthy_never_has_traffic() {
    for rotation in BOTH {
        let mut world = Fake::new(after(1, rotation));
        world.sick.insert(2);
        let outcome = run(&mut world, &wanted("ill", rotation, 2)).unwrap();
        assert_eq!(
            outcome.error.unwrap(),
            "stillframe-demo-s0-g2.service was not healthy within 20 s: answered 500; its last words:\nTraceback"
        );
        assert_eq!(
            outcome.hint.unwrap(),
            "all it said: stillframe logs, or on the host journalctl -u stillframe-demo-s0-g2.service"
        );
        // With replace the old one had to stop, and was brought back.
        let expected = if rotation == Rotation::Surge { Status::Failed } else { Status::Reverted };
        assert_eq!((outcome.status, outcome.generation), (expected, Some(1)));
        assert_serves(&world.host, Some(1), "sick");
        // The number is not used again.
        world.sick.clear();
        assert_eq!(run(&mut world, &wanted("well", rotation, 1)).unwrap().generation, Some(3));
    }
}

#[test]
fn what_falls_ill_under_traffic_is_taken_back() {
    let mut world = Fake::new(after(1, Rotation::Surge));
    world.weak.insert(2);
    let outcome = run(&mut world, &wanted("weak", Rotation::Surge, 2)).unwrap();
    assert_eq!(outcome.status, Status::Reverted);
    assert!(
        outcome.error.unwrap().starts_with("stillframe-demo-s0-g2.service was healthy, then answered 500")
    );
    assert_serves(&world.host, Some(1), "weak");
}

#[test]
fn the_old_one_drains_until_its_limit() {
    for (until, cut) in [(3_000, vec![]), (60_000, vec!["s0-g1".to_string()])] {
        let mut world = Fake::new(after(1, Rotation::Surge));
        world.open.insert(1, until);
        assert_eq!(run(&mut world, &wanted("next", Rotation::Surge, 2)).unwrap().status, Status::Succeeded);
        assert_eq!(world.cut, cut);
    }
}

#[test]
fn a_pack_that_failed_or_a_smoke_workflow_that_did_not_run_keeps_traffic_away() {
    for (smoke, why) in [
        (None, "lacks 1 node classes that the environment's own server has: Edge (custom_nodes.edge)"),
        (Some(Value::Null), "did not run the smoke workflow: node 3 failed"),
    ] {
        let mut world = Fake::new(after(1, Rotation::Surge));
        world.lame.insert(2);
        let mut goal = wanted("lame", Rotation::Surge, 2);
        if let Goal::New(wanted) = &mut goal
            && smoke.is_some()
        {
            wanted.classes.clear();
            wanted.spec.health.smoke = smoke;
        }
        let outcome = run(&mut world, &goal).unwrap();
        assert_eq!(
            outcome.error.unwrap(),
            format!("stillframe-demo-s0-g2.service {why}; its last words:\nTraceback")
        );
        assert_eq!(outcome.status, Status::Failed);
        assert_serves(&world.host, Some(1), "lame");
    }
}

#[test]
fn a_rollback_goes_where_service_was_before_and_a_restoration_leaves_no_trace() {
    let mut world = Fake::new(after(3, Rotation::Surge));
    let before = |world: &Fake, n: u64| world.host.state.as_ref().unwrap().generations[&n].before;
    assert_eq!(before(&world, 3), Some(2));
    run(&mut world, &Goal::Kept(1)).unwrap();
    assert_eq!(before(&world, 1), Some(3));
    run(&mut world, &Goal::Kept(3)).unwrap();
    assert_eq!(before(&world, 3), Some(1));
    run(&mut world, &wanted("four", Rotation::Surge, 1)).unwrap();
    let outcome = run(&mut world, &Goal::Restored { to: 3, why: "beta failed".into() }).unwrap();
    assert_eq!((outcome.status, outcome.error.as_deref()), (Status::Reverted, Some("beta failed")));
    assert_eq!(before(&world, 3), Some(1));
    assert_serves(&world.host, Some(3), "restored");
}

#[test]
fn pictures_go_to_the_instance_that_goes_on() {
    let mut world = Fake::new(after(1, Rotation::Surge));
    run(&mut world, &wanted("narrow", Rotation::Surge, 1)).unwrap();
    let unit = |slot: u32, generation: u64| InstanceId { slot, generation };
    assert_eq!(world.inherited, [(unit(0, 1), unit(0, 2)), (unit(1, 1), unit(0, 2))]);
}

#[test]
fn a_first_deployment_can_be_withdrawn_whole() {
    for at in 0.. {
        let mut world = Fake::new(after(1, Rotation::Surge));
        world.fault = Some((at, Fault::After));
        let mut state = world.host.state.clone().unwrap();
        let outcome = withdraw(&mut world, &mut state, 2, "beta failed");
        let done = world.effects < at;
        let mut state = world.host.state.clone().unwrap();
        let mut world = Fake::new(world.host);
        boot(&mut world, &mut state);
        let now = state.serving;
        assert!(now.is_none() || at == 0, "{at}: {now:?}");
        assert_serves(&world.host, now, "withdrawn");
        if done {
            assert_eq!(outcome.unwrap().status, Status::Reverted);
            break;
        }
    }
}

/// A process that was killed leaves the same record behind as one that was not.
#[test]
fn an_interrupted_withdrawal_or_restoration_says_what_it_was() {
    let why = || "beta failed".to_string();
    for goal in [Goal::Withdraw { why: why() }, Goal::Restored { to: 1, why: why() }] {
        let served = if goal.target().is_some() { 2 } else { 1 };
        let mut seen = 0;
        for at in 1.. {
            let mut world = Fake::new(after(served, Rotation::Surge));
            world.fault = Some((at, Fault::After));
            drop(run(&mut world, &goal));
            if world.effects < at {
                break;
            }
            let mut state = world.host.state.clone().unwrap();
            let began = state.pending.is_some();
            let reached = goal.is_reached(&state, 1);
            let mut world = Fake::new(world.host);
            let outcome = recover(&mut world, &mut state, Some(&goal)).unwrap();
            assert_eq!(outcome.is_some(), began, "{goal:?}, {at}");
            if let Some(outcome) = outcome.filter(|_| reached) {
                seen += 1;
                assert_eq!(
                    (outcome.status, outcome.error),
                    (Status::Reverted, Some(why())),
                    "{goal:?}, {at}"
                );
                assert_serves(&world.host, goal.target(), "recovered");
            }
        }
        assert!(seen > 0, "{goal:?}");
    }
}
