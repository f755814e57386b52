//! Instances more and fewer, against a host made of maps.
use super::*;
use crate::host::slot_change::{Refusal, carry_out};
use crate::host::state::Work;
use crate::protocol::scaling::{Order, Policy, Refused, SLOT_VERSION, SlotRequest, Target, UpDown};

fn policy(minimum: u32, maximum: u32) -> Policy {
    let target = Target::Waiting(1);
    Policy { minimum, maximum, target, step: 1, cool_down_ms: 0, idle_ms: 1, schedules: vec![] }
}

fn scaled(label: &str, minimum: u32, maximum: u32) -> Goal {
    let Goal::New(mut wanted) = wanted(label, Rotation::Surge, minimum) else { unreachable!() };
    wanted.spec.scaling = Some(policy(minimum, maximum));
    wanted.spec.slots = vec![vec![]; 3];
    Goal::New(wanted)
}

/// A service of three slots that serves as deployed: with one instance.
fn served(minimum: u32, maximum: u32) -> Fake {
    let mut world = Fake::new(Host::default());
    world.owns = true;
    let outcome = run(&mut world, &scaled("s1", minimum, maximum)).unwrap();
    assert_eq!(outcome.generation, Some(1));
    assert_serves(&world.host, Some(1), "deployed");
    world
}

fn request(slot: u32, to: UpDown) -> SlotRequest {
    SlotRequest { version: SLOT_VERSION, generation: 1, slot, to }
}

fn ask(world: &mut Fake, asked: &SlotRequest) -> std::result::Result<(), Refusal> {
    ask_under(world, None, asked)
}

fn ask_under(
    world: &mut Fake,
    order: Option<&Order>,
    asked: &SlotRequest,
) -> std::result::Result<(), Refusal> {
    let mut state = world.host.state.clone().unwrap();
    carry_out(world, &mut state, order, asked)
}

fn slots(world: &Fake) -> Vec<u32> {
    world.host.running.iter().map(|id| id.slot).collect()
}

#[test]
fn a_slot_gets_an_instance_and_loses_it() {
    let mut world = served(1, 3);
    for (slot, to, left) in [
        (2, UpDown::Up, vec![0, 2]),
        // Asked twice it is done once.
        (2, UpDown::Up, vec![0, 2]),
        (1, UpDown::Up, vec![0, 1, 2]),
        (0, UpDown::Down, vec![1, 2]),
        (0, UpDown::Down, vec![1, 2]),
        (2, UpDown::Down, vec![1]),
    ] {
        ask(&mut world, &request(slot, to)).unwrap();
        assert_eq!(slots(&world), left);
        assert_serves(&world.host, Some(1), "changed");
    }
    assert!(world.stopped_with_jobs.is_empty());
}

#[test]
fn one_that_has_just_started_is_named_so() {
    let mut world = served(1, 3);
    ask(&mut world, &request(1, UpDown::Up)).unwrap();
    assert_eq!(world.host.table.starting, ["s1-g1"]);
    ask(&mut world, &request(1, UpDown::Up)).unwrap();
    assert!(world.host.table.starting.is_empty());
}

#[test]
fn what_may_not_be_changes_nothing() {
    let mut world = served(1, 2);
    let at = |generation, slot, to| SlotRequest { version: SLOT_VERSION, generation, slot, to };
    let before = world.host.clone();
    world.effects = 0;
    for (asked, refused) in [
        (at(2, 1, UpDown::Up), Refused::Generation),
        (at(0, 0, UpDown::Down), Refused::Generation),
        (at(1, 3, UpDown::Up), Refused::Bounds),
        (at(1, u32::MAX, UpDown::Down), Refused::Bounds),
        // It is the last of one that are to be there always.
        (at(1, 0, UpDown::Down), Refused::Bounds),
    ] {
        assert_eq!(ask(&mut world, &asked).unwrap_err().refused, refused, "{asked:?}");
    }
    // An operator allows no second one.
    let one = Order { maximum: Some(1), ..Order::default() };
    let refusal = ask_under(&mut world, Some(&one), &request(1, UpDown::Up)).unwrap_err();
    assert_eq!((refusal.refused, refusal.why.as_str()), (Refused::Bounds, "there may be 1 at most"));
    let mut state = before.state.clone().unwrap();
    state.pending =
        Some(Pending { attempt: 2, generation: 2, previous: Some(1), kept: false, work: Work::Activation });
    let refusal = carry_out(&mut world, &mut state, None, &request(1, UpDown::Up)).unwrap_err();
    assert_eq!(refusal.refused, Refused::Busy);
    assert_eq!((world.effects, &world.host), (0, &before));
    ask(&mut world, &request(1, UpDown::Up)).unwrap();
    assert_eq!(ask(&mut world, &request(2, UpDown::Up)).unwrap_err().refused, Refused::Bounds);
}

#[test]
fn without_a_policy_nobody_may_ask() {
    let mut world = Fake::new(after(1, Rotation::Surge));
    assert_eq!(ask(&mut world, &request(1, UpDown::Down)).unwrap_err().refused, Refused::Bounds);
    assert_serves(&world.host, Some(1), "as before");
}

#[test]
fn one_that_has_a_job_stays_and_has_its_traffic_again() {
    let mut world = served(0, 3);
    world.jobs.insert(1, u64::MAX);
    let refusal = ask(&mut world, &request(0, UpDown::Down)).unwrap_err();
    assert_eq!(refusal.refused, Refused::Occupied);
    assert_serves(&world.host, Some(1), "as before");
    assert!(world.stopped_with_jobs.is_empty());
}

#[test]
fn pictures_outlive_the_last_instance() {
    let mut world = served(0, 3);
    ask(&mut world, &request(2, UpDown::Up)).unwrap();
    ask(&mut world, &request(0, UpDown::Down)).unwrap();
    ask(&mut world, &request(2, UpDown::Down)).unwrap();
    assert!(slots(&world).is_empty());
    let made: BTreeSet<u32> = world.host.pictures.values().flatten().map(|id| id.slot).collect();
    assert_eq!(made, [0, 2].into());
    // Another slot is the first again, and shows what the others made.
    ask(&mut world, &request(1, UpDown::Up)).unwrap();
    assert_serves(&world.host, Some(1), "again");
    // The same across a deployment while nothing runs.
    ask(&mut world, &request(1, UpDown::Down)).unwrap();
    run(&mut world, &scaled("s2", 0, 3)).unwrap();
    assert_serves(&world.host, Some(2), "deployed");
}

/// Cut off anywhere, the host is what the state says after the next start, and that is the old or the new.
#[test]
fn cut_off_anywhere_it_is_before_or_after() {
    for (slot, to, other) in [(1, UpDown::Up, 2), (1, UpDown::Down, 2)] {
        for fault in [Fault::Error, Fault::Before, Fault::After] {
            for at in 1.. {
                let mut world = served(1, 3);
                if to == UpDown::Down {
                    ask(&mut world, &request(1, UpDown::Up)).unwrap();
                }
                world.effects = 0;
                world.fault = Some((at, fault));
                let done = ask(&mut world, &request(slot, to));
                if world.effects < at {
                    assert!(done.is_ok());
                    break;
                }
                let context = format!("{to:?} {fault:?} at {at}");
                let mut world = Fake { host: world.host, ..Fake::new(Host::default()) };
                let mut state = world.host.state.clone().unwrap();
                reconcile(&mut world, &mut state).unwrap();
                world.host.slots_stay = false;
                assert_serves(&world.host, Some(1), &context);
                let count = slots(&world).len();
                assert!((1..=2).contains(&count), "{context}: {count}");
                // And the next question is answered as ever.
                ask(&mut world, &request(other, UpDown::Up)).unwrap();
                assert_serves(&world.host, Some(1), &context);
            }
        }
    }
}

#[test]
fn a_deployment_starts_as_many_as_serve_and_one_at_least() {
    let mut world = served(0, 3);
    assert_eq!(slots(&world), [0]);
    ask(&mut world, &request(0, UpDown::Down)).unwrap();
    run(&mut world, &scaled("s2", 0, 3)).unwrap();
    assert_eq!(slots(&world), [0]);
    let up = |slot| SlotRequest { generation: 2, ..request(slot, UpDown::Up) };
    ask(&mut world, &up(1)).unwrap();
    ask(&mut world, &up(2)).unwrap();
    run(&mut world, &scaled("s3", 0, 2)).unwrap();
    assert_eq!(slots(&world), [0, 1]);
    // Back to one that had a single instance when it served.
    run(&mut world, &Goal::Kept(1)).unwrap();
    assert_eq!(slots(&world), [0, 1]);
    assert_serves(&world.host, Some(1), "back");
}
