//! Activations where the gateway owns the jobs.
use super::*;

/// Jobs of a gateway that owns them are waited for as those of an instance are, and none is lost with one.
#[test]
fn a_gateway_that_owns_the_jobs_loses_none_at_the_drain_limit() {
    let rules = |drain_running| crate::protocol::jobs::Jobs { drain_running, ..Default::default() };
    let asking = |label: &str, rotation, drain_running| {
        let Goal::New(mut wanted) = wanted(label, rotation, 1) else { panic!("{label}") };
        wanted.spec.jobs = Some(rules(drain_running));
        Goal::New(wanted)
    };
    let said = |world: &Fake| {
        let steps = world.steps.iter().map(|(_, text)| text.clone());
        steps.filter(|text| text.starts_with("drain limit")).collect::<Vec<_>>()
    };
    for rotation in [Rotation::Surge, Rotation::Replace] {
        for (drain_running, told) in [
            (DrainRunning::Requeue, "1 jobs interrupted that wait again"),
            (DrainRunning::Fail, "1 jobs interrupted that have failed"),
        ] {
            let mut world = Fake::new(Host::default());
            world.owns = true;
            run(&mut world, &asking("first", rotation, drain_running)).unwrap();
            // It ends in time, though it is the last thing that is open.
            world.jobs.insert(1, world.clock + 4_000);
            let outcome = run(&mut world, &asking("next", rotation, drain_running)).unwrap();
            assert_eq!((outcome.status, said(&world)), (Status::Succeeded, vec![]));
            assert_eq!(world.stopped_with_jobs, []);
            world.jobs.insert(2, u64::MAX);
            let outcome = run(&mut world, &asking("last", rotation, drain_running)).unwrap();
            assert_eq!(outcome.status, Status::Succeeded);
            assert_eq!(said(&world), [format!("drain limit reached: 0 connections cut, {told}")]);
            // It was interrupted before its instance was stopped.
            assert_eq!(
                (world.stopped_with_jobs.as_slice(), world.cut.as_slice()),
                (&[][..], &["s0-g2".into()][..])
            );
            assert_serves(&world.host, Some(3), "drained");
        }
    }
}

/// A first deployment that is taken back leaves nothing, and says how many jobs go with it.
#[test]
fn jobs_go_with_a_service_that_is_withdrawn() {
    let mut world = Fake::new(Host::default());
    world.owns = true;
    run(&mut world, &wanted("first", Rotation::Surge, 1)).unwrap();
    assert!(world.host.jobs);
    world.waiting = 2;
    world.jobs.insert(1, u64::MAX);
    let goal = Goal::Withdraw { why: "another host failed".into() };
    let outcome = run(&mut world, &goal).unwrap();
    assert_eq!(outcome.status, Status::Reverted);
    assert_eq!(outcome.error.as_deref(), Some("another host failed; 3 jobs of generation 1 are lost"));
    assert_serves(&world.host, None, "withdrawn");
}
