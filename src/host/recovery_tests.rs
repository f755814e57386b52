//! Ways back against the host made of maps: a full disk, what a crash left behind, work that was begun.
use super::*;

/// Whatever cannot be written for want of space: exactly one generation runs and has the traffic, and once there
/// is space the state says so. Where room is held for the end, it says so at once.
#[test]
fn the_disk_may_be_full_from_every_effect_on() {
    let cases = BOTH.into_iter().flat_map(|rotation| [0, 2].map(|served| (rotation, served)));
    for ((rotation, served), reserve) in cases.flat_map(|case| [(case, false), (case, true)]) {
        let was = (served > 0).then_some(u64::from(served));
        let next = Some(u64::from(served) + 1);
        let mut sides = BTreeSet::new();
        for at in 1.. {
            let mut world = Fake::new(after(served, rotation));
            (world.full_from, world.reserve) = (Some(at), reserve);
            let outcome = run(&mut world, &wanted("next", rotation, 2));
            if world.effects < at {
                break;
            }
            let context = format!("{rotation:?}, {served} before, full from {at}, reserve {reserve}");
            let runs: BTreeSet<u64> = world.host.running.iter().map(|id| id.generation).collect();
            let has_traffic: BTreeSet<u64> = world.host.table.targets.iter().map(|t| t.generation).collect();
            assert_eq!(runs, has_traffic, "{context}");
            assert!(runs.len() <= 1, "{context}: {runs:?} run");
            match outcome {
                Ok(outcome) => {
                    assert!(outcome.error.is_none_or(|e| e.contains("no storage space")), "{context}");
                    assert_serves(&world.host, outcome.generation, &context);
                }
                Err(e) => {
                    assert!(e.is_full() && !reserve, "{context}: {e}");
                    let mut state = world.host.state.clone().unwrap_or_else(|| ServiceState::new("demo"));
                    let mut world = Fake::new(world.host);
                    recover(&mut world, &mut state, None).unwrap();
                    assert_serves(&world.host, state.serving, &context);
                }
            }
            assert!([was, next].contains(&runs.first().copied()), "{context}: {runs:?}");
            sides.insert(runs.first().copied());
        }
        assert_eq!(sides, BTreeSet::from([was, next]), "both sides of the commit were seen");
    }
}

/// Whatever happens between the traffic's move and the end of the old instances: who asks the new ones for an older
/// picture gets it.
#[test]
fn older_pictures_are_seen_as_soon_as_traffic_moves() {
    for rotation in BOTH {
        for at in 1.. {
            let mut world = Fake::new(after(2, rotation));
            world.fault = Some((at, Fault::Before));
            drop(run(&mut world, &wanted("next", rotation, 1)));
            if world.effects < at {
                break;
            }
            let older: BTreeSet<InstanceId> =
                world.host.pictures.values().flatten().copied().filter(|id| id.generation < 3).collect();
            let targets: BTreeSet<InstanceId> =
                world.host.table.targets.iter().filter_map(|t| t.id.parse().ok()).collect();
            let seen: BTreeSet<InstanceId> =
                targets.iter().filter_map(|id| world.host.pictures.get(id)).flatten().copied().collect();
            assert!(targets.is_empty() || seen.is_superset(&older), "{rotation:?}, {at}: {seen:?}");
        }
    }
}

/// What an earlier crash left is found by what is there, at the next deployment and at the next boot.
#[test]
fn what_the_state_does_not_know_goes() {
    let orphan = InstanceId { slot: 0, generation: 99 };
    for reboot in [false, true] {
        let mut host = after(1, Rotation::Surge);
        host.slots.insert(orphan);
        host.pictures.insert(orphan, [orphan].into());
        host.units.insert(orphan);
        host.running.insert(orphan);
        let mut world = Fake::new(host);
        if reboot {
            lose_power(&mut world.host, false);
            let mut state = world.host.state.clone().unwrap();
            boot(&mut world, &mut state);
            assert_serves(&world.host, Some(1), "booted");
        } else {
            run(&mut world, &wanted("next", Rotation::Surge, 2)).unwrap();
            assert_serves(&world.host, Some(2), "deployed");
            let said: Vec<&str> = world.steps.iter().map(|(_, text)| text.as_str()).collect();
            assert!(said.contains(&"s0-g99: of no generation that the state knows, stopped"), "{said:?}");
        }
    }
}

/// The same where the gateway owns the jobs: they wait again, and that is said.
#[test]
fn jobs_of_the_gateway_go_on_with_the_old_one() {
    let taken_back = |dies: Option<u64>| {
        let mut world = Fake::new(after(1, Rotation::Surge));
        world.owns = true;
        world.open.insert(1, 60_000);
        world.jobs.insert(2, 60_000);
        world.cancelled_at = dies.is_none().then_some(3_000);
        world.dies.extend(dies.map(|at| (2, at)));
        let outcome = run(&mut world, &wanted("next", Rotation::Surge, 1)).unwrap();
        assert_serves(&world.host, Some(1), "taken back");
        assert_eq!(world.stopped_with_jobs, []);
        outcome.error.unwrap()
    };
    let told = "; 1 job of generation 2 was interrupted and waits again";
    assert_eq!(taken_back(None), format!("cancelled by a@b{told}"));
    let died = taken_back(Some(3_500));
    assert!(died.contains("was healthy, then ended") && died.ends_with(told), "{died}");
}

/// On the way back the new generation has jobs: they end, or it is said how many are lost.
#[test]
fn the_new_one_drains_too_when_it_is_taken_back() {
    let drained = |until: u64, cancelled: bool, dies: Option<u64>| {
        let mut world = Fake::new(after(1, Rotation::Surge));
        // The old one keeps the rotation in its drain until something happens.
        world.open.insert(1, 60_000);
        world.jobs.insert(2, until);
        world.cancelled_at = cancelled.then_some(3_000);
        world.dies.extend(dies.map(|at| (2, at)));
        let outcome = run(&mut world, &wanted("next", Rotation::Surge, 1)).unwrap();
        assert_serves(&world.host, Some(1), "taken back");
        (outcome, world.stopped_with_jobs)
    };
    let (outcome, stopped) = drained(6_000, true, None);
    assert_eq!((outcome.status, outcome.error.as_deref()), (Status::Cancelled, Some("cancelled by a@b")));
    assert_eq!(stopped, []);
    let (outcome, stopped) = drained(60_000, true, None);
    assert_eq!(outcome.error.as_deref(), Some("cancelled by a@b; 1 job of generation 2 is lost"));
    assert_eq!((outcome.warnings, stopped.len()), (vec!["1 job of generation 2 is lost".to_string()], 1));
    // One that has ended had a job when it was last looked at.
    let (outcome, _) = drained(60_000, false, Some(3_500));
    let error = outcome.error.unwrap();
    assert!(error.starts_with("stillframe-demo-s0-g2.service was healthy, then ended"), "{error}");
    assert!(error.ends_with("; 1 job of generation 2 is lost"), "{error}");
    assert_eq!(outcome.status, Status::Reverted);
}
