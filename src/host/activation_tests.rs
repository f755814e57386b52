//! The activation against a host made of maps: every effect fails once, the process dies before and after
//! every effect, the power goes at every effect. What serves afterwards is exactly the old or the new.
use super::*;
use crate::protocol::control::{Limits, Table};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::jobs::DrainRunning;
use crate::protocol::spec::{Health, Offered, Retention, SPEC_VERSION, Spec};
use fake::{Fake, Fault, Host};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

#[path = "fake_host_tests.rs"]
mod fake;
#[path = "life_tests.rs"]
mod life_of_a_service;
#[path = "recovery_tests.rs"]
mod recovery;
#[path = "slot_change_tests.rs"]
mod scaling;
#[path = "sequences_tests.rs"]
mod sequences;

fn wanted(label: &str, rotation: Rotation, instances: u32) -> Goal {
    let spec = Spec {
        version: SPEC_VERSION,
        service: "demo".into(),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 8188,
        api_keys: vec![],
        callers: Default::default(),
        gateway: Limits::default(),
        metrics_port: None,
        slots: vec![vec![]; 2],
        instances,
        maximum: 2,
        scaling: None,
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
        jobs: None,
    };
    Goal::New(Box::new(Wanted {
        snapshot: format!("/nix/store/{label}"),
        agent: "/nix/store/agent".into(),
        launch: "demo".into(),
        classes: [("Edge".to_string(), "custom_nodes.edge".to_string())].into(),
        offered: Offered { packs: ["edge".to_string()].into(), ..Offered::default() },
        spec,
    }))
}

fn run(world: &mut Fake, goal: &Goal) -> Result<Outcome> {
    let mut state = world.host.state.clone().unwrap_or_else(|| ServiceState::new("demo"));
    if let Goal::New(wanted) = goal {
        // Copied before the activation, and in memory alone.
        world.host.store.insert(wanted.snapshot.clone());
    }
    activate(world, &mut state, goal, 1, 0)
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
    let settings = number.map(|n| state.generations[&n].wanted.snapshot.clone()).unwrap_or_default();
    assert_eq!(host.settings, settings, "{context}: the gateway's settings");
    assert_eq!(host.table.targets, state.table(number).targets, "{context}: table");
    assert!(number.is_none() || state.stopped.is_none(), "{context}: it serves, and is stopped");
    let stays = number.is_some() || state.stopped.is_some();
    assert!(stays || !host.data || host.data_stays, "{context}: a folder is left");
    assert!(stays || !host.jobs || host.jobs_stay, "{context}: jobs are left");
    assert!(host.slots_stay || host.slots == units, "{context}: slots {:?}", host.slots);
    if number.is_some() && !host.slots_stay {
        // Every picture that was ever made is where requests for it go.
        let made: BTreeSet<InstanceId> = host.pictures.values().flatten().copied().collect();
        let seen = units.iter().filter_map(|id| host.pictures.get(id)).flatten().copied().collect();
        assert_eq!(made, seen, "{context}: pictures");
    }
    assert_eq!(host.links, state.generations.keys().copied().collect(), "{context}: links");
    for (n, generation) in &state.generations {
        assert!(host.store.contains(&generation.wanted.snapshot), "{context}: the files of generation {n}");
    }
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
            for power in [None, Some(false), Some(true)] {
                for fault in [Fault::Before, Fault::After] {
                    let mut sides = BTreeSet::new();
                    for at in 1.. {
                        let mut world = Fake::new(old.clone());
                        world.fault = Some((at, fault));
                        let outcome = run(&mut world, &wanted("next", rotation, 2));
                        if world.effects < at {
                            break;
                        }
                        let context =
                            format!("{rotation:?}, {served} before, {fault:?} {at}, power {power:?}");
                        drop(outcome);
                        let mut host = world.host;
                        if let Some(forgets) = power {
                            lose_power(&mut host, forgets);
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

/// `forgets`: what was moved just before comes back where it was, since nobody waited for the disk.
fn lose_power(host: &mut Host, forgets: bool) {
    host.store.clone_from(&host.on_disk);
    host.units.clear();
    host.running.clear();
    host.gateway = false;
    host.settings.clear();
    host.table = Table::default();
    if let Some((slots, pictures)) = host.synced.take().filter(|_| forgets && host.data) {
        host.slots.extend(slots);
        for (folder, of) in pictures {
            host.pictures.entry(folder).or_default().extend(of);
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
            "stillframe-demo-s0-g2.service was not healthy within 20 s: answered 500"
        );
        // Once: what is told on the way back says nothing of it.
        assert_eq!(
            outcome.hint.unwrap(),
            "its last words:\nTraceback\n\
             all it said: stillframe logs, or on the host journalctl -u stillframe-demo-s0-g2.service"
        );
        // With replace the old one had to stop, and was brought back.
        let expected = if rotation == Rotation::Surge { Status::Failed } else { Status::Reverted };
        assert_eq!((outcome.status, outcome.generation), (expected, Some(1)));
        // No client met the keys and limits of what never served.
        assert!(world.settings.iter().all(|snapshot| snapshot == "/nix/store/s1"), "{:?}", world.settings);
        assert_serves(&world.host, Some(1), "sick");
        // The number is not used again.
        world.sick.clear();
        assert_eq!(run(&mut world, &wanted("well", rotation, 1)).unwrap().generation, Some(3));
    }
}

#[test]
fn what_listens_elsewhere_is_told() {
    let mut world = Fake::new(after(1, Rotation::Surge));
    world.sick.insert(2);
    world.elsewhere = vec!["127.0.0.1:9000".into()];
    let outcome = run(&mut world, &wanted("astray", Rotation::Surge, 1)).unwrap();
    assert_eq!(
        outcome.error.unwrap(),
        "stillframe-demo-s0-g2.service was not healthy within 20 s: answered 500; it listens on 127.0.0.1:9000, and \
         nothing of it on /run/stillframe-instances/demo/s0-g2/http.sock"
    );
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
        (
            None,
            "does not import 1 pack that the environment's own server imports: edge: ImportError: no oil \
             (edge/brush.py, line 1); lacks 1 node class that the environment's own server has: Edge (custom_nodes.edge)",
        ),
        (
            Some(Value::Null),
            "did not run the smoke workflow: node 3 failed; it could not import 1 pack: edge: ImportError: no oil \
             (edge/brush.py, line 1)",
        ),
    ] {
        let mut world = Fake::new(after(1, Rotation::Surge));
        world.lame.insert(2);
        let mut goal = wanted("lame", Rotation::Surge, 2);
        if let Goal::New(wanted) = &mut goal
            && smoke.is_some()
        {
            wanted.classes.clear();
            wanted.offered = Offered::default();
            wanted.spec.health.smoke = smoke;
        }
        let outcome = run(&mut world, &goal).unwrap();
        assert_eq!(outcome.error.unwrap(), format!("stillframe-demo-s0-g2.service {why}"));
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
    let all = BTreeSet::from([unit(0, 1), unit(1, 1), unit(0, 2)]);
    assert_eq!(world.host.pictures, BTreeMap::from([(unit(0, 2), all)]));
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

#[path = "activation_jobs_tests.rs"]
mod jobs;
