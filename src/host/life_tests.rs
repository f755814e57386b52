//! A service that is restarted, stopped and started, against the host made of maps: every effect fails, the process dies
//! around every effect, the power goes at every effect.
use super::*;
use crate::protocol::messages::Stopped;

fn stopped(generation: u64) -> Stopped {
    Stopped { generation, by: "a@b".into(), since: 1 }
}

fn stop(generation: u64) -> Goal {
    Goal::Stop { stopped: stopped(generation) }
}

fn restart(host: &Host) -> Goal {
    let state = host.state.as_ref().unwrap();
    Goal::Restart { instances: state.instances(state.serving.unwrap()) }
}

/// A host whose service was stopped after so many deployments.
fn at_rest(count: u32) -> Host {
    let mut world = Fake::new(after(count, Rotation::Surge));
    let number = u64::from(count);
    let outcome = run(&mut world, &stop(number)).unwrap();
    assert_eq!(
        (outcome.status, outcome.generation, outcome.previous),
        (Status::Succeeded, None, Some(number))
    );
    assert_serves(&world.host, None, "stopped");
    assert_eq!(world.host.state.as_ref().unwrap().stopped, Some(stopped(number)));
    world.host
}

#[test]
fn a_stopped_service_stays_so_and_starts_as_it_was() {
    let mut host = at_rest(2);
    lose_power(&mut host, false);
    let mut world = Fake::new(host);
    let mut state = world.host.state.clone().unwrap();
    boot(&mut world, &mut state);
    assert_serves(&world.host, None, "after a start of the host");
    assert_eq!(world.host.links, BTreeSet::from([1, 2]));
    let outcome = run(&mut world, &Goal::Start(2)).unwrap();
    assert_eq!((outcome.status, outcome.generation), (Status::Succeeded, Some(2)));
    assert_serves(&world.host, Some(2), "started");
    let state = world.host.state.as_ref().unwrap();
    assert_eq!((state.generations[&2].before, state.next_generation), (Some(1), 3));
}

#[test]
fn what_does_not_get_healthy_leaves_the_service_stopped() {
    for goal in [Goal::Start(1), wanted("ill", Rotation::Surge, 2)] {
        let mut world = Fake::new(at_rest(1));
        world.sick.extend([1, 2]);
        let outcome = run(&mut world, &goal).unwrap();
        assert_eq!((outcome.status, outcome.generation), (Status::Failed, None), "{goal:?}");
        assert_serves(&world.host, None, "still stopped");
        assert!(world.host.data, "{goal:?}: the data of the first generation");
        assert_eq!(world.host.state.as_ref().unwrap().stopped, Some(stopped(1)), "{goal:?}");
        world.sick.clear();
        run(&mut world, &Goal::Start(1)).unwrap();
        assert_serves(&world.host, Some(1), "started");
    }
}

#[test]
fn a_deployment_starts_a_stopped_service_and_is_taken_back_to_that() {
    let mut world = Fake::new(at_rest(1));
    run(&mut world, &wanted("next", Rotation::Surge, 2)).unwrap();
    assert_serves(&world.host, Some(2), "deployed");
    assert_eq!(world.host.state.as_ref().unwrap().generations[&2].before, Some(1));
    let outcome = run(&mut world, &Goal::Withdraw { why: "beta failed".into() }).unwrap();
    assert_eq!((outcome.status, outcome.generation), (Status::Reverted, None));
    assert_serves(&world.host, None, "taken back");
    assert!(world.host.data);
    assert_eq!(world.host.state.as_ref().unwrap().stopped, Some(stopped(1)));
}

#[test]
fn a_restart_drains_each_instance_and_keeps_the_others_in_traffic() {
    let mut world = Fake::new(after(1, Rotation::Surge));
    world.jobs.insert(1, 3_000);
    let goal = restart(&world.host);
    let outcome = run(&mut world, &goal).unwrap();
    assert_eq!((outcome.status, outcome.generation), (Status::Succeeded, Some(1)));
    assert_eq!(world.stopped_with_jobs, []);
    assert_serves(&world.host, Some(1), "restarted");
    assert_eq!(
        world.tables,
        [
            vec!["s1-g1"],
            vec!["s0-g1", "s1-g1"],
            vec!["s0-g1"],
            vec!["s0-g1", "s1-g1"],
            vec!["s0-g1", "s1-g1"]
        ]
    );
}

#[test]
fn an_instance_that_does_not_get_healthy_ends_a_restart() {
    let mut world = Fake::new(after(1, Rotation::Surge));
    world.sick.insert(1);
    let goal = restart(&world.host);
    let outcome = run(&mut world, &goal).unwrap();
    assert_eq!((outcome.status, outcome.generation), (Status::Failed, Some(1)));
    assert!(outcome.error.unwrap().starts_with("stillframe-demo-s0-g1.service was not healthy"));
    assert_serves(&world.host, Some(1), "as before");
    let told: Vec<&str> = world.steps.iter().map(|(_, text)| text.as_str()).collect();
    assert!(!told.iter().any(|text| text.contains("s1-g1 finishes")), "{told:?}");
}

#[test]
fn who_cancels_has_what_served() {
    for goal in [stop(1), Goal::Restart { instances: vec![InstanceId { slot: 0, generation: 1 }] }] {
        let mut world = Fake::new(after(1, Rotation::Surge));
        world.jobs.insert(1, u64::MAX);
        world.cancelled_at = Some(1_000);
        let outcome = run(&mut world, &goal).unwrap();
        assert_eq!((outcome.status, outcome.generation), (Status::Cancelled, Some(1)), "{goal:?}");
        assert_serves(&world.host, Some(1), "cancelled");
        assert_eq!(world.stopped_with_jobs, []);
    }
}

#[test]
fn jobs_that_do_not_end_in_time_are_told() {
    for (owns, told) in [
        (false, "1 job of generation 1 is lost"),
        (true, "1 job of generation 1 was interrupted and waits again"),
    ] {
        let mut world = Fake::new(Host::default());
        world.owns = owns;
        run(&mut world, &wanted("first", Rotation::Surge, 1)).unwrap();
        world.jobs.insert(1, u64::MAX);
        let outcome = run(&mut world, &stop(1)).unwrap();
        assert_eq!((outcome.status, outcome.warnings), (Status::Succeeded, vec![told.to_string()]));
        assert_eq!(world.host.jobs, owns, "what waits stays on disk");
        assert_serves(&world.host, None, "stopped");
    }
}

/// Whatever happens in the middle: the service serves exactly what it did, or is stopped whole.
#[test]
fn every_effect_may_fail_and_the_process_and_the_power_may_go() {
    type Case = (&'static str, Host, fn(&Host) -> Goal);
    let cases: [Case; 3] = [
        ("restart", after(2, Rotation::Surge), restart),
        ("stop", after(2, Rotation::Surge), |_| stop(2)),
        ("start", at_rest(2), |_| Goal::Start(2)),
    ];
    for (what, host, goal) in cases {
        let was = host.state.as_ref().unwrap().serving;
        let target = if what == "stop" { None } else { Some(2) };
        for (fault, power) in [
            (Fault::Error, false),
            (Fault::Before, false),
            (Fault::After, false),
            (Fault::Before, true),
            (Fault::After, true),
        ] {
            let mut sides = BTreeSet::new();
            for at in 1.. {
                let mut world = Fake::new(host.clone());
                world.fault = Some((at, fault));
                let goal = goal(&world.host);
                let outcome = run(&mut world, &goal);
                if world.effects < at {
                    break;
                }
                let context = format!("{what}, {fault:?} {at}, power {power}");
                if power {
                    lose_power(&mut world.host, false);
                }
                // What fails after the commit is a warning, and the next look mends it.
                if world.dead || !outcome.is_ok_and(|done| done.warnings.is_empty()) {
                    let mut state = world.host.state.clone().unwrap();
                    let mut again = Fake::new(world.host);
                    boot(&mut again, &mut state);
                    world = again;
                }
                let now = world.host.state.as_ref().unwrap().serving;
                assert!(now == was || now == target, "{context}: {now:?}");
                assert_serves(&world.host, now, &context);
                assert_eq!(world.host.state.as_ref().unwrap().current(), Some(2), "{context}");
                assert!(world.host.data, "{context}: pictures");
                sides.insert(now);
            }
            assert_eq!(sides, BTreeSet::from([was, target]), "{what}, {fault:?}: both sides were seen");
        }
    }
}

/// The last of a service is its state, which says that it goes (`activating::erase`). Of what is compared, this is not of
/// the service, or is only noted of a failure.
fn is_gone(host: &Host) -> bool {
    let Host { store, on_disk, data, jobs, pictures, state, synced, .. } = host.clone();
    let Host { slots_stay, data_stays, jobs_stay, .. } = *host;
    let rest = Host { slots_stay, data_stays, jobs_stay, ..Host::default() };
    *host == Host { store, on_disk, data, jobs, pictures, state, synced, ..rest }
}

#[test]
fn a_removal_leaves_nothing_but_the_data_unless_that_goes_too() {
    for (host, data) in [(after(3, Rotation::Surge), false), (at_rest(2), true), (Host::default(), false)] {
        let had_data = host.data;
        let mut world = Fake::new(host);
        let outcome = run(&mut world, &Goal::Remove { data }).unwrap();
        assert_eq!((outcome.status, outcome.generation), (Status::Succeeded, None));
        assert!(is_gone(&world.host), "{:?}", world.host);
        assert_eq!(world.host.data, had_data && !data);
    }
}

#[test]
fn a_removal_ends_whole_or_not_at_all() {
    for (fault, power) in
        [(Fault::Error, false), (Fault::Before, false), (Fault::After, false), (Fault::After, true)]
    {
        let mut sides = BTreeSet::new();
        for at in 1.. {
            let mut world = Fake::new(after(2, Rotation::Surge));
            world.fault = Some((at, fault));
            let outcome = run(&mut world, &Goal::Remove { data: true });
            if world.effects < at {
                break;
            }
            let context = format!("{fault:?} {at}, power {power}");
            let serves_on = outcome.as_ref().is_ok_and(|done| done.status != Status::Succeeded);
            if power {
                lose_power(&mut world.host, false);
            }
            let mut ended = serves_on;
            if world.dead || outcome.is_err() {
                let mut state = world.host.state.clone().unwrap();
                let mut again = Fake::new(world.host);
                let recovered = recover(&mut again, &mut state, None).unwrap();
                ended = recovered.is_none_or(|done| done.status != Status::Succeeded);
                if ended {
                    reconcile(&mut again, &mut state).unwrap();
                }
                world = again;
            }
            if ended {
                assert_serves(&world.host, Some(2), &context);
            } else {
                assert!(is_gone(&world.host), "{context}: {:?}", world.host);
                assert!(!world.host.data && !world.host.jobs, "{context}");
            }
            sides.insert(ended);
        }
        assert_eq!(sides.len(), 2, "{fault:?}: both sides of the commit were seen");
    }
}
