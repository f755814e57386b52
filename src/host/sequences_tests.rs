//! Whatever happens to two services of a host, in whatever order: random sequences of deployments that go well, fail,
//! are cancelled, run out of disk or die in the middle, of rollbacks, reboots, power losses and repairs. After each, what serves
//! is exactly the old generation or the new one, and the other service has not noticed.
use super::*;
use crate::host::repair::{built_anew, with_stop};
use crate::protocol::control::Address;
use crate::protocol::messages::Stopped;
use proptest::prelude::*;

const SEQUENCES: u32 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Health {
    Well,
    /// Never healthy.
    Sick,
    /// Only until it has traffic.
    Weak,
}

/// What comes in the middle of an activation.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    /// An effect fails.
    Fails(u64),
    /// The process dies, before an effect or after it, and is started again.
    Dies(u64, bool),
    /// The power goes at an effect; whether the disk forgets what was not synced, and at which effect of the boot it
    /// goes again.
    Power(u64, bool, u64),
    /// The disk is full from an effect on, with room held for the end or without.
    Full(u64, bool),
    Cancelled(u64),
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Deploy {
        rotation: Rotation,
        instances: u32,
        health: Health,
        trouble: Trouble,
    },
    /// To one of the generations that are kept.
    Rollback {
        which: usize,
        trouble: Trouble,
    },
    Stop {
        trouble: Trouble,
    },
    Start {
        trouble: Trouble,
    },
    Restart {
        trouble: Trouble,
    },
    Reboot,
    Retention,
    /// `host repair`, or what a start of the host does first; whether the state and its copy are gone, so that it is built anew.
    Repair {
        lost: bool,
        at_boot: bool,
    },
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        3 => Just(Trouble::None),
        2 => (1..90u64).prop_map(Trouble::Fails),
        2 => (1..90u64, any::<bool>()).prop_map(|(at, after)| Trouble::Dies(at, after)),
        2 => (1..90u64, any::<bool>(), 0..40u64).prop_map(|(at, forgets, again)| Trouble::Power(at, forgets, again)),
        1 => (1..90u64, any::<bool>()).prop_map(|(at, reserve)| Trouble::Full(at, reserve)),
        1 => (0..20_000u64).prop_map(Trouble::Cancelled),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let rotation = prop_oneof![Just(Rotation::Surge), Just(Rotation::Replace)];
    let health = prop_oneof![4 => Just(Health::Well), 1 => Just(Health::Sick), 1 => Just(Health::Weak)];
    prop_oneof![
        5 => (rotation, 1..3u32, health, trouble()).prop_map(|(rotation, instances, health, trouble)| {
            Step::Deploy { rotation, instances, health, trouble }
        }),
        3 => (any::<usize>(), trouble()).prop_map(|(which, trouble)| Step::Rollback { which, trouble }),
        2 => trouble().prop_map(|trouble| Step::Stop { trouble }),
        2 => trouble().prop_map(|trouble| Step::Start { trouble }),
        1 => trouble().prop_map(|trouble| Step::Restart { trouble }),
        1 => Just(Step::Reboot),
        1 => Just(Step::Retention),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(lost, at_boot)| Step::Repair { lost, at_boot }),
    ]
}

/// One service of the host.
struct Member {
    name: &'static str,
    host: Host,
    sick: BTreeSet<u64>,
    weak: BTreeSet<u64>,
    deployed: u32,
}

impl Member {
    fn new(name: &'static str) -> Member {
        Member { name, host: Host::default(), sick: BTreeSet::new(), weak: BTreeSet::new(), deployed: 0 }
    }

    fn state(&self) -> ServiceState {
        self.host.state.clone().unwrap_or_else(|| ServiceState::new(self.name))
    }

    /// A process of the agent: it begins with what is on the host.
    fn world(&self) -> Fake {
        let mut world = Fake::new(self.host.clone());
        world.sick.clone_from(&self.sick);
        world.weak.clone_from(&self.weak);
        world
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Deploy { rotation, instances, health, trouble } => {
                let next = self.state().next_generation;
                self.deployed += 1;
                match health {
                    Health::Well => {}
                    Health::Sick => drop(self.sick.insert(next)),
                    Health::Weak => drop(self.weak.insert(next)),
                }
                let label = format!("{}-{}", self.name, self.deployed);
                self.activate(&wanted(&label, rotation, instances), Some(next), trouble);
            }
            Step::Rollback { which, trouble } => {
                let kept: Vec<u64> = self.state().generations.keys().copied().collect();
                if let Some(number) = kept.get(which % kept.len().max(1)) {
                    self.activate(&Goal::Kept(*number), Some(*number), trouble);
                }
            }
            Step::Stop { trouble } => {
                if let Some(generation) = self.state().serving {
                    let stopped = Stopped { generation, by: "a@b".into(), since: 1 };
                    self.activate(&Goal::Stop { stopped }, None, trouble);
                }
            }
            Step::Start { trouble } => {
                if let Some(stopped) = self.state().stopped {
                    self.activate(&Goal::Start(stopped.generation), Some(stopped.generation), trouble);
                }
            }
            Step::Restart { trouble } => {
                if let Some(number) = self.state().serving {
                    let instances = self.state().instances(number);
                    self.activate(&Goal::Restart { instances }, Some(number), trouble);
                }
            }
            Step::Reboot => {
                lose_power(&mut self.host, false);
                self.boot(0);
            }
            Step::Retention => {
                let (mut world, mut state) = (self.world(), self.state());
                assert!(tidy(&mut world, &mut state).is_empty());
                self.host = world.host;
            }
            Step::Repair { lost, at_boot } => self.repair(lost, at_boot),
        }
    }

    fn repair(&mut self, lost: bool, at_boot: bool) {
        let was = self.state();
        if at_boot {
            lose_power(&mut self.host, false);
        }
        if lost && self.host.state.is_some() {
            // What is there besides: the generations' own files, the next number's, the profile, and what runs.
            let running = self.host.running.iter().map(|id| id.generation).collect();
            let used = was.next_generation - 1;
            let anew = built_anew(self.name, &was.generations, self.host.profile, &running, used);
            self.host.state = Some(with_stop(anew, was.stopped.clone()));
        }
        let mut world = self.world();
        for (number, generation) in &self.state().generations {
            world.link(*number, &generation.wanted).unwrap();
        }
        self.host = world.host;
        self.boot(0);
        let now = self.state();
        assert_eq!((now.serving, now.next_generation), (was.serving, was.next_generation), "{}", self.name);
        assert_eq!(now.generations, was.generations, "{}: what is kept", self.name);
    }

    fn activate(&mut self, goal: &Goal, target: Option<u64>, trouble: Trouble) {
        let was = self.state();
        let mut world = self.world();
        match trouble {
            Trouble::None => {}
            Trouble::Fails(at) => world.fault = Some((at, Fault::Error)),
            Trouble::Dies(at, true) => world.fault = Some((at, Fault::After)),
            Trouble::Dies(at, false) | Trouble::Power(at, ..) => world.fault = Some((at, Fault::Before)),
            Trouble::Full(at, reserve) => (world.full_from, world.reserve) = (Some(at), reserve),
            Trouble::Cancelled(at) => world.cancelled_at = Some(at),
        }
        if let Goal::New(wanted) = goal {
            world.host.store.insert(wanted.snapshot.clone());
        }
        let mut state = was.clone();
        let done = activate(&mut world, &mut state, goal, 1, 0);
        let unfinished = world.dead || done.is_err();
        let warned = done.as_ref().is_ok_and(|outcome| !outcome.warnings.is_empty());
        let said = std::mem::take(&mut world.steps);
        self.host = world.host;
        if let Trouble::Power(_, forgets, again) = trouble
            && unfinished
        {
            lose_power(&mut self.host, forgets);
            self.boot(again);
        } else if unfinished {
            // systemd starts it again; the disk has room by then.
            let (mut world, mut state) = (self.world(), self.state());
            recover(&mut world, &mut state, None).unwrap();
            self.host = world.host;
        }
        let now = self.state();
        assert!(
            now.serving == was.serving || now.serving == target,
            "{}: {:?} was, {target:?} was to be, {:?} is",
            self.name,
            was.serving,
            now.serving
        );
        if now.serving.is_none() && was.current().is_some() {
            assert_eq!(now.current(), was.current(), "{}: what a start brings back", self.name);
        }
        assert!(now.next_generation >= was.next_generation, "{}: a number comes again", self.name);
        if let Ok(outcome) = done
            && !unfinished
        {
            let moved = outcome.status == Status::Succeeded;
            let restarted = matches!(goal, Goal::Restart { .. });
            assert_eq!(moved || restarted, now.serving == target, "{}: {outcome:?}", self.name);
        }
        let left = |text: &(Status, String)| text.1.contains("stay") || text.1.contains("cannot see");
        if said.iter().any(left) || warned {
            // What failed after the traffic was where it belongs is said, and the next look mends it.
            let (mut world, mut state) = (self.world(), self.state());
            reconcile(&mut world, &mut state).unwrap();
            assert!(tidy(&mut world, &mut state).is_empty());
            self.host = world.host;
        }
    }

    /// A start of the host. `again`: the power goes once more at this effect of it; 0: it does not.
    fn boot(&mut self, again: u64) {
        if again > 0 {
            let (mut world, mut state) = (self.world(), self.state());
            world.fault = Some((again, Fault::Before));
            let _ = recover(&mut world, &mut state, None).and_then(|_| reconcile(&mut world, &mut state));
            self.host = world.host;
            lose_power(&mut self.host, false);
        }
        let (mut world, mut state) = (self.world(), self.state());
        boot(&mut world, &mut state);
        self.host = world.host;
    }

    fn assert_in_order(&self, context: &str) {
        let state = self.state();
        assert_serves(&self.host, state.serving, context);
        // Where a rollback goes to is never let go of.
        let before = state.serving.and_then(|n| state.generations[&n].before);
        let freed = before.filter(|n| state.generations.contains_key(n) && !self.host.links.contains(n));
        assert_eq!(freed, None, "{context}: what a rollback needs");
    }

    fn addresses(&self) -> Vec<Address> {
        self.host.table.targets.iter().map(|target| target.address.clone()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: SEQUENCES, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_ends_in_exactly_one_generation_of_each(steps in proptest::collection::vec((any::<bool>(), step()), 1..9)) {
        let mut members = [Member::new("demo"), Member::new("other")];
        for (at, (second, step)) in steps.into_iter().enumerate() {
            let beside = members[usize::from(!second)].host.clone();
            members[usize::from(second)].take(step);
            let context = format!("step {at}, {step:?}");
            members.iter().for_each(|member| member.assert_in_order(&context));
            prop_assert_eq!(&members[usize::from(!second)].host, &beside, "the other service");
            let [one, two] = [members[0].addresses(), members[1].addresses()];
            prop_assert!(one.iter().all(|address| !two.contains(address)), "one address for both");
        }
    }
}
