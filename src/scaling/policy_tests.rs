//! The policy against a simulated clock and a simulated service.
use super::*;
use crate::protocol::scaling::Schedule;
use proptest::prelude::*;

const SECOND: u64 = 1_000;

fn policy(minimum: u32, maximum: u32) -> Policy {
    Policy {
        minimum,
        maximum,
        target: Target::Waiting(1),
        step: 1,
        cool_down_ms: 30 * SECOND,
        idle_ms: 300 * SECOND,
        schedules: Vec::<Schedule>::new(),
    }
}

/// Instances that start slowly and run one job at a time; jobs in one queue.
struct Service {
    policy: Policy,
    slots: u32,
    now: u64,
    memory: Memory,
    /// Of each: its slot, when it is ready, and when its job ends.
    instances: Vec<(u32, u64, Option<u64>)>,
    waiting: Vec<u64>,
    job_ms: u64,
    start_ms: u64,
    done: usize,
    /// When, and by how much.
    changes: Vec<(u64, i64)>,
}

impl Service {
    fn new(policy: Policy, slots: u32) -> Service {
        let instances = (0..policy.minimum.min(slots)).map(|slot| (slot, 0, None)).collect();
        Service {
            policy,
            slots,
            now: 1_000_000 * SECOND,
            memory: Memory::default(),
            instances,
            waiting: Vec::new(),
            job_ms: 20 * SECOND,
            start_ms: 15 * SECOND,
            done: 0,
            changes: Vec::new(),
        }
    }

    fn figures(&self) -> Figures {
        let given = self.instances.iter().filter(|(_, _, job)| job.is_some()).count() as u64;
        let one = |(slot, ready, job): &(u32, u64, Option<u64>)| InstanceFigure {
            slot: *slot,
            life: if *ready <= self.now { Life::Ready } else { Life::Starting },
            busy: job.is_some(),
        };
        Figures {
            now: self.now,
            waiting: self.waiting.len() as u64,
            given,
            oldest_ms: self.waiting.first().map_or(0, |at| self.now - at),
            job_ms: Some(self.job_ms),
            instances: self.instances.iter().map(one).collect(),
            ..Figures::default()
        }
    }

    fn bounds(&self) -> Bounds {
        let maximum = self.policy.maximum.min(self.slots);
        Bounds { minimum: self.policy.minimum.min(maximum), maximum, why: "the configuration" }
    }

    /// A second: jobs come, jobs end, jobs begin, and a decision is made and carried out.
    fn second(&mut self, jobs: usize) -> Result<(), TestCaseError> {
        self.now += SECOND;
        self.waiting.extend((0..jobs).map(|_| self.now));
        for (_, ready, job) in &mut self.instances {
            if job.is_some_and(|ends| ends <= self.now) {
                *job = None;
                self.done += 1;
            }
            if job.is_none() && *ready <= self.now && !self.waiting.is_empty() {
                self.waiting.remove(0);
                *job = Some(self.now + self.job_ms);
            }
        }
        let (figures, bounds) = (self.figures(), self.bounds());
        let before = self.instances.len() as u32;
        let verdict = decide(&self.policy, &bounds, self.slots, None, &figures, &mut self.memory);
        let wanted = need(&self.policy, &figures).clamp(bounds.minimum, bounds.maximum);
        match &verdict.action {
            Action::Stay => {}
            Action::Up(slots) => {
                for slot in slots {
                    prop_assert!(*slot < self.slots && self.instances.iter().all(|(s, ..)| s != slot));
                    self.instances.push((*slot, self.now + self.start_ms, None));
                }
                self.changes.push((self.now, slots.len() as i64));
            }
            Action::Down(slots) => {
                for slot in slots {
                    let at = self.instances.iter().position(|(s, _, job)| s == slot && job.is_none());
                    prop_assert!(at.is_some(), "slot {} has something to do", slot);
                    self.instances.swap_remove(at.unwrap());
                }
                self.changes.push((self.now, -(slots.len() as i64)));
                let left = self.instances.len() as u32;
                prop_assert!(left >= wanted, "{left} left of {before}, and {wanted} needed: {}", verdict.why);
            }
        }
        let now = self.instances.len() as u32;
        prop_assert!(now <= bounds.maximum, "{now} of at most {}", bounds.maximum);
        prop_assert!(now >= bounds.minimum, "{now} of at least {}", bounds.minimum);
        Ok(())
    }

    /// How often it went one way and then the other.
    fn turns(&self) -> usize {
        self.changes.windows(2).filter(|two| two[0].1.signum() != two[1].1.signum()).count()
    }
}

fn policies() -> impl Strategy<Value = (Policy, u32)> {
    let target = prop_oneof![
        (0u32..6).prop_map(Target::Waiting),
        (1u64..120).prop_map(|s| Target::WaitMs(s * SECOND))
    ];
    (0u32..4, 0u32..5, 1u32..4, 0u64..60, 1u64..400, target, 1u32..9).prop_map(
        |(minimum, more, step, cool, idle, target, slots)| {
            let policy = Policy {
                maximum: (minimum + more).max(1),
                target,
                step,
                cool_down_ms: cool * SECOND,
                idle_ms: idle * SECOND,
                ..policy(minimum, 1)
            };
            (policy, slots)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// What each decision must keep to is in `second`. Whatever came is done in the end, and then nothing is left over.
    #[test]
    fn never_above_the_maximum_never_below_the_need_and_nothing_stays_behind(
        (policy, slots) in policies(),
        load in prop::collection::vec(0usize..4, 1..400),
    ) {
        let mut service = Service::new(policy.clone(), slots);
        let mut came = 0;
        for jobs in load {
            // Most seconds bring nothing.
            let jobs = if jobs == 3 { 2 } else { 0 };
            came += jobs;
            service.second(jobs)?;
        }
        for _ in 0..came * 20 + 60 {
            service.second(0)?;
        }
        prop_assert_eq!((service.done, service.waiting.len()), (came, 0));
        for _ in 0..(policy.idle_ms + policy.cool_down_ms * u64::from(slots) + 60 * SECOND) / SECOND {
            service.second(0)?;
        }
        prop_assert_eq!(service.instances.len() as u32, service.bounds().minimum);
    }

    /// Noise around any mean: it turns at most twice in an idle time.
    #[test]
    fn a_noisy_load_does_not_make_it_flap(
        (policy, slots) in policies(),
        load in prop::collection::vec(0u32..100, 600..1200),
        mean in 1u32..30,
    ) {
        let mut service = Service::new(policy.clone(), slots);
        let seconds = load.len() as u64;
        for dice in load {
            service.second(usize::from(dice < mean))?;
        }
        let most = 2 + 2 * (seconds * SECOND).div_ceil(policy.idle_ms) as usize;
        prop_assert!(service.turns() <= most, "{} turns, {most} at most: {:?}", service.turns(), service.changes);
        // One that came stays for the idle time at least.
        for two in service.changes.windows(2).filter(|two| two[0].1 > 0 && two[1].1 < 0) {
            prop_assert!(two[1].0 - two[0].0 >= policy.idle_ms);
        }
    }

    /// Whatever the figures are, also such as no service has.
    #[test]
    fn any_figures_keep_to_the_bounds(
        (policy, slots) in policies(),
        now in any::<u64>(),
        numbers in any::<[u64; 4]>(),
        lives in prop::collection::vec((0u8..3, any::<bool>()), 0..9),
        paused in any::<bool>(),
    ) {
        let instances: Vec<InstanceFigure> = lives.iter().take(slots as usize).enumerate().map(|(slot, (life, busy))| {
            let life = [Life::Starting, Life::Ready, Life::Failing][usize::from(*life)];
            InstanceFigure { slot: slot as u32, life, busy: *busy }
        }).collect();
        let figures = Figures {
            now,
            waiting: numbers[0] / 2,
            given: numbers[1] / 2,
            oldest_ms: numbers[2],
            job_ms: Some(numbers[3]),
            instances: instances.clone(),
            ..Figures::default()
        };
        let maximum = policy.maximum.min(slots);
        let bounds = Bounds { minimum: policy.minimum.min(maximum), maximum, why: "the configuration" };
        let mut memory = Memory::default();
        let verdict = decide(&policy, &bounds, slots, paused.then_some("a@b"), &figures, &mut memory);
        let current = instances.len();
        match verdict.action {
            Action::Stay => {}
            Action::Up(new) => {
                prop_assert!(!paused && current + new.len() <= maximum as usize);
                prop_assert!(new.iter().all(|slot| *slot < slots && instances.iter().all(|i| i.slot != *slot)));
            }
            Action::Down(gone) => {
                let idle = |slot: &u32| instances.iter().any(|i| i.slot == *slot && !i.busy);
                prop_assert!(!paused && gone.iter().all(idle));
                prop_assert!(current - gone.len() >= bounds.minimum as usize);
            }
        }
    }
}

/// Minute by minute what a person would expect.
#[test]
fn from_nothing_to_the_maximum_and_back() {
    let mut service = Service::new(policy(0, 3), 4);
    service.second(0).unwrap();
    assert_eq!(service.instances.len(), 0);
    service.second(40).unwrap();
    assert_eq!(service.instances.len(), 1, "the first comes at once");
    for _ in 0..29 {
        service.second(0).unwrap();
    }
    assert_eq!(service.instances.len(), 1, "the pause between two");
    service.second(0).unwrap();
    assert_eq!(service.instances.len(), 2);
    for _ in 0..31 {
        service.second(0).unwrap();
    }
    assert_eq!(service.instances.len(), 3);
    while service.done < 40 {
        assert_eq!(service.instances.len(), 3);
        service.second(0).unwrap();
    }
    let ended = service.now;
    while service.instances.len() == 3 {
        service.second(0).unwrap();
    }
    let waited = (service.now - ended) / SECOND;
    assert!((200..=310).contains(&waited), "{waited} s");
    for _ in 0..400 {
        service.second(0).unwrap();
    }
    assert_eq!((service.instances.len(), service.done), (0, 40));
}

#[test]
fn a_time_to_wait_takes_as_many_as_jobs_that_long_need() {
    let target = |s| Policy { target: Target::WaitMs(s * SECOND), ..policy(0, 100) };
    let figures = |job_ms, waiting| Figures { waiting, job_ms, ..Figures::default() };
    // Jobs of 10 s, and a minute to wait: seven in a row.
    assert_eq!(need(&target(60), &figures(Some(10_000), 70)), 10);
    assert_eq!(need(&target(60), &figures(Some(120_000), 3)), 3);
    assert_eq!(need(&target(60), &figures(None, 4)), 2);
    // They take longer than was thought.
    let ready = |slot, life| InstanceFigure { slot, life, busy: true };
    let instances = vec![ready(0, Life::Ready), ready(1, Life::Ready)];
    let late = Figures { oldest_ms: 61_000, instances, ..figures(Some(1_000), 2) };
    assert_eq!(need(&target(60), &late), 3);
    let mut starting = late.clone();
    starting.instances.push(ready(2, Life::Starting));
    assert_eq!(need(&target(60), &starting), 2);
}

#[test]
fn each_decision_says_why() {
    let (policy, slots) = (policy(1, 2), 2);
    let bounds = Bounds { minimum: 1, maximum: 2, why: "the configuration" };
    let mut memory = Memory::default();
    let one = InstanceFigure { slot: 0, life: Life::Ready, busy: true };
    let mut figures = Figures { now: 1, waiting: 5, given: 2, instances: vec![one], ..Figures::default() };
    let verdict = decide(&policy, &bounds, slots, None, &figures, &mut memory);
    assert_eq!(verdict.action, Action::Up(vec![1]));
    assert_eq!(verdict.why, "5 jobs wait and 2 are at instances: 2 needed");
    let paused = decide(&policy, &bounds, slots, Some("a@b"), &figures, &mut memory);
    assert_eq!(paused.action, Action::Stay);
    assert_eq!(paused.why, "paused by a@b: 5 jobs wait and 2 are at instances would ask for 2");
    figures.instances.push(InstanceFigure { slot: 1, life: Life::Starting, busy: false });
    let full = decide(&policy, &bounds, slots, None, &figures, &mut memory);
    assert_eq!(full.why, "5 jobs wait and 2 are at instances: the configuration allows 2 at most");
    // One that does not come up is no help: where there is another place it is tried there.
    let wide = Bounds { maximum: 3, ..bounds.clone() };
    figures.instances[1].life = Life::Failing;
    figures.now += 31 * SECOND;
    let other = decide(&policy, &wide, 3, None, &figures, &mut memory);
    assert_eq!(other.action, Action::Up(vec![2]));
    // And it goes first.
    let calm = Figures { now: figures.now + 600 * SECOND, waiting: 0, given: 0, ..figures.clone() };
    let mut memory = Memory { began: Some(1), seen: 2, ..Memory::default() };
    assert_eq!(decide(&policy, &wide, 3, None, &calm, &mut memory).action, Action::Down(vec![1]));
    assert_eq!(
        decide(
            &policy,
            &bounds,
            2,
            None,
            &Figures { now: calm.now + SECOND, ..Figures::default() },
            &mut memory
        )
        .why,
        "the configuration asks for 1 at least"
    );
}

/// One that a deployment has just brought stays for the idle time, though nobody needs it yet.
#[test]
fn what_somebody_else_brought_is_not_taken_away_at_once() {
    let mut service = Service::new(policy(0, 3), 3);
    for _ in 0..600 {
        service.second(0).unwrap();
    }
    service.instances.push((0, 0, None));
    let brought = service.now;
    while !service.instances.is_empty() {
        service.second(0).unwrap();
    }
    assert_eq!((service.now - brought) / SECOND, 302);
}
