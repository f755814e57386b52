use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap as Map;

fn job(seq: u64, owner: &str) -> Waiting {
    let (id, owner) = (format!("job-{seq}").into(), owner.into());
    Waiting { id, owner, number: seq as f64, priority: 0, seq, warmth: 0, accepted: 1000 + seq }
}

fn queue(jobs: impl IntoIterator<Item = Waiting>) -> Queue {
    let mut queue = Queue::default();
    jobs.into_iter().for_each(|job| queue.push(job));
    queue
}

fn drain(queue: &mut Queue) -> Vec<u64> {
    std::iter::from_fn(|| queue.pick(0)).map(|job| job.seq).collect()
}

#[test]
fn one_owner_has_the_order_of_comfyui() {
    let jobs = [(1, 0.0), (2, 1.0), (3, -2.0), (4, 3.0), (5, -4.0), (6, 1.0), (7, -0.0), (8, 0.5)];
    let mut queue = queue(jobs.map(|(seq, number)| Waiting { number, ..job(seq, "a") }));
    // What `heapq` makes of (number, order of arrival).
    assert_eq!(drain(&mut queue), [5, 3, 1, 7, 8, 2, 6, 4]);
    assert!(queue.is_empty() && queue.next().is_none() && queue.pick(7).is_none());
}

#[test]
fn one_owner_keeps_its_order_whatever_is_warm() {
    let mut queue = queue((1..=6).map(|seq| Waiting { warmth: seq % 2 + 1, ..job(seq, "a") }));
    let order: Vec<u64> = std::iter::from_fn(|| queue.pick(1)).map(|job| job.seq).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_higher_priority_comes_first_whoever_it_is() {
    let mut queue = queue([
        job(1, "a"),
        Waiting { priority: -3, ..job(2, "b") },
        Waiting { priority: 5, ..job(3, "a") },
        Waiting { priority: 5, ..job(4, "a") },
        Waiting { priority: 5, ..job(5, "b") },
    ]);
    assert_eq!(drain(&mut queue), [3, 5, 4, 1, 2]);
}

/// However many jobs one owner has, and however many owners come, a job runs within two rounds.
#[test]
fn nobody_starves() {
    let mut queue = queue((1..=1000).map(|seq| job(seq, "many")));
    for _ in 0..10 {
        queue.pick(0);
    }
    queue.push(job(2000, "one"));
    assert!(queue.position("job-2000").unwrap() <= 2);
    assert_eq!([queue.pick(0), queue.pick(0)].map(|job| job.unwrap().seq), [11, 2000]);

    // A new owner with each pick, more than ever run: the many still get their turn in each round.
    let mut of_many = 0;
    for round in 0..600u64 {
        queue.push(job(3000 + 2 * round, &format!("new-{round}")));
        queue.push(job(3001 + 2 * round, &format!("newer-{round}")));
        of_many += u32::from(&*queue.pick(0).unwrap().owner == "many");
    }
    // The rounds double in length: 2, 4, 8 …
    assert!(of_many >= 8, "{of_many}");
}

#[test]
fn who_comes_late_or_one_by_one_gets_no_credit() {
    let mut queue = queue((1..=50).map(|seq| job(seq, "early")));
    for _ in 0..20 {
        queue.pick(0);
    }
    (101..=150).for_each(|seq| queue.push(job(seq, "late")));
    let next: Vec<Arc<str>> = (0..10).map(|_| queue.pick(0).unwrap().owner).collect();
    assert_eq!(next.iter().filter(|owner| &***owner == "late").count(), 5);

    // Who sends the next job when one has run gets every third place, no more.
    let mut shares = Map::new();
    for seq in 200..220 {
        queue.push(job(seq, "drip"));
        while queue.of_owner("drip") > 0 {
            *shares.entry(queue.pick(0).unwrap().owner.to_string()).or_insert(0) += 1;
        }
    }
    assert_eq!(shares["drip"], 20);
    assert!(shares["early"] + shares["late"] >= 38, "{shares:?}");
}

#[test]
fn what_is_put_back_is_where_it_was() {
    let mut queue = queue([job(1, "a"), job(2, "a"), job(3, "b"), job(4, "b"), job(5, "c")]);
    let before: Vec<u64> = queue.in_order().iter().map(|job| job.seq).collect();
    assert_eq!(before, [1, 3, 5, 2, 4]);
    let taken: Vec<Waiting> = (0..4).map(|_| queue.pick(0).unwrap()).collect();
    // In whatever order, and others have come meanwhile.
    queue.push(job(6, "d"));
    for at in [2, 0, 3, 1] {
        queue.push(taken[at].clone());
    }
    let after: Vec<u64> = queue.in_order().iter().map(|job| job.seq).collect();
    assert_eq!(after, [1, 3, 5, 2, 4, 6]);
    assert_eq!(drain(&mut queue), after);

    // The last one of a level, too.
    queue.push(job(7, "a"));
    let last = queue.pick(0).unwrap();
    queue.push(job(8, "b"));
    queue.push(last);
    assert_eq!(drain(&mut queue), [7, 8]);
}

#[test]
fn what_is_warm_comes_first_in_its_round_but_passes_nobody_over_for_long() {
    let warm = |seq, owner: &str, warmth| Waiting { warmth, ..job(seq, owner) };
    let mut q = queue([warm(1, "a", 1), warm(2, "b", 2), warm(3, "c", 2), warm(4, "a", 2)]);
    assert_eq!(q.pick(2).unwrap().seq, 2);
    // A job that names no model is like no other.
    assert_eq!(q.pick(0).unwrap().seq, 1);
    assert_eq!(q.pick(2).unwrap().seq, 3);
    assert_eq!(q.pick(9).unwrap().seq, 4);

    // The fifth of a round is not looked at.
    let mut q = queue((1..=5).map(|n| warm(n, &format!("o{n}"), n)));
    assert_eq!(q.pick(5).unwrap().seq, 1);
    assert_eq!(q.pick(5).unwrap().seq, 5);

    let six = (11..=16).map(|seq| warm(seq, &format!("warm-{seq}"), 2));
    let mut q = queue(std::iter::once(warm(1, "cold", 1)).chain(six));
    let order: Vec<u64> = std::iter::from_fn(|| q.pick(2)).map(|job| job.seq).collect();
    assert_eq!(order, [11, 12, 13, 14, 1, 15, 16]);
}

#[test]
fn there_is_room_up_to_both_limits() {
    let mut queue = queue([job(1, "a"), job(2, "a"), job(3, "b")]);
    let limits = |waiting, of_owner| Limits { waiting, of_owner };
    assert_eq!(queue.room("a", &limits(4, 3)), Ok(()));
    assert_eq!(queue.room("a", &limits(4, 2)), Err(Full::Owner));
    assert_eq!(queue.room("b", &limits(4, 2)), Ok(()));
    assert_eq!(queue.room("b", &limits(3, 2)), Err(Full::All));
    assert_eq!(queue.remove("job-1").unwrap().seq, 1);
    assert!(queue.remove("job-1").is_none() && !queue.contains("job-1"));
    assert_eq!((queue.of_owner("a"), queue.of_owner("x"), queue.len()), (1, 0, 2));
    assert_eq!(queue.room("b", &limits(3, 2)), Ok(()));
}

#[test]
fn the_same_id_waits_once() {
    let mut queue = queue([job(1, "a"), job(2, "a")]);
    queue.push(Waiting { priority: 1, ..job(2, "a") });
    assert_eq!((queue.len(), queue.of_owner("a")), (2, 2));
    assert_eq!(drain(&mut queue), [2, 1]);
}

/// The same in lists, without a thought about time: whose turn is when is written at each owner, and everything is
/// looked through.
#[derive(Default)]
struct Naive {
    jobs: Vec<Waiting>,
    /// By priority and owner: round, token.
    turns: Map<(i32, String), (u64, u64)>,
    rounds: Map<i32, u64>,
    picked: Map<u64, (u64, u64)>,
    back: Map<u64, (u64, u64)>,
    latest: u64,
    token: u64,
}

impl Naive {
    fn line(&self, priority: i32, owner: &str) -> Vec<&Waiting> {
        let own = |j: &&Waiting| j.priority == priority && &*j.owner == owner;
        let mut line: Vec<&Waiting> =
            self.jobs.iter().filter(own).filter(|j| !self.back.contains_key(&j.seq)).collect();
        line.sort_by(|a, b| (a.number, a.seq).partial_cmp(&(b.number, b.seq)).unwrap());
        line
    }

    fn push(&mut self, job: Waiting) {
        self.remove(&job.id);
        let key = (job.priority, job.owner.to_string());
        if !self.jobs.iter().any(|j| j.priority == job.priority) {
            self.rounds.insert(job.priority, self.latest);
        }
        if let Some(turn) = self.picked.remove(&job.seq) {
            self.back.insert(job.seq, turn);
        } else if self.line(key.0, &key.1).is_empty() {
            self.token += 1;
            self.turns.insert(key, (self.rounds[&job.priority] + 1, self.token));
        }
        self.jobs.push(job);
    }

    fn remove(&mut self, id: &str) -> Option<Waiting> {
        let at = self.jobs.iter().position(|j| &*j.id == id)?;
        self.back.remove(&self.jobs[at].seq);
        Some(self.jobs.remove(at))
    }

    fn in_order(&self) -> Vec<u64> {
        let mut all: Vec<(i32, u64, u64, u64)> = Vec::new();
        for ((priority, owner), (round, token)) in &self.turns {
            let line = self.line(*priority, owner);
            all.extend(line.iter().enumerate().map(|(k, j)| (-priority, round + k as u64, *token, j.seq)));
        }
        for job in &self.jobs {
            all.extend(
                self.back.get(&job.seq).map(|(round, token)| (-job.priority, *round, *token, job.seq)),
            );
        }
        all.sort();
        all.into_iter().map(|(.., seq)| seq).collect()
    }

    fn pick(&mut self) -> Option<Waiting> {
        let seq = *self.in_order().first()?;
        let at = self.jobs.iter().position(|j| j.seq == seq)?;
        let job = self.jobs.remove(at);
        let line = (job.priority, job.owner.to_string());
        let turn = self.back.remove(&seq).unwrap_or_else(|| {
            let turn = self.turns.get_mut(&line).unwrap();
            turn.0 += 1;
            (turn.0 - 1, turn.1)
        });
        self.picked.insert(job.seq, turn);
        let round = self.rounds.get_mut(&job.priority)?;
        *round = turn.0.max(*round);
        self.latest = self.latest.max(*round);
        Some(job)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push { owner: u8, priority: i32, number: i32 },
    Remove(usize),
    Pick,
    PutBack(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u8..5, 0i32..3, -3i32..3)
            .prop_map(|(owner, priority, number)| Step::Push { owner, priority: priority / 2, number }),
        1 => any::<usize>().prop_map(Step::Remove),
        3 => Just(Step::Pick),
        1 => any::<usize>().prop_map(Step::PutBack),
    ]
}

proptest! {
    #[test]
    fn it_does_what_the_naive_one_does(steps in proptest::collection::vec(step(), 1..120)) {
        let (mut queue, mut naive, mut out) = (Queue::default(), Naive::default(), Vec::new());
        for (seq, step) in (1..).zip(steps) {
            match step {
                Step::Push { owner, priority, number } => {
                    let new = Waiting { priority, number: number.into(), ..job(seq, &format!("o{owner}")) };
                    queue.push(new.clone());
                    naive.push(new);
                }
                Step::Remove(which) if !naive.jobs.is_empty() => {
                    let id = naive.jobs[which % naive.jobs.len()].id.clone();
                    prop_assert_eq!(queue.remove(&id), naive.remove(&id));
                }
                Step::PutBack(which) if !out.is_empty() => {
                    let back: Waiting = out.remove(which % out.len());
                    queue.push(back.clone());
                    naive.push(back);
                }
                Step::Pick => {
                    prop_assert_eq!(queue.next().map(|j| j.seq), naive.in_order().first().copied());
                    let picked = queue.pick(0);
                    prop_assert_eq!(&picked, &naive.pick());
                    out.extend(picked);
                }
                _ => {}
            }
            let order: Vec<u64> = queue.in_order().iter().map(|j| j.seq).collect();
            prop_assert_eq!(&order, &naive.in_order());
            for (at, job) in queue.in_order().into_iter().enumerate() {
                prop_assert_eq!(queue.position(&job.id), Some(at));
            }
            prop_assert_eq!(queue.len(), naive.jobs.len());
            for owner in (0..5).map(|n| format!("o{n}")) {
                let of_owner = naive.jobs.iter().filter(|j| *j.owner == *owner).count();
                prop_assert_eq!(queue.of_owner(&owner), of_owner);
            }
            // Nothing is left of who has gone.
            prop_assert!(queue.owners.values().all(|count| *count > 0));
            prop_assert!(queue.levels.values().all(|l| l.len > 0 && l.lines.len() == l.turns.len()));
            prop_assert_eq!(queue.levels.values().map(|l| l.len).sum::<usize>(), queue.len());
        }
    }

    /// With warm picks each job still runs once, in its owner's order, and nobody's next job is passed over more
    /// than four times by jobs of its own round.
    #[test]
    fn warm_picks_lose_nothing(
        jobs in proptest::collection::vec((0u8..6, 0u64..4), 1..80),
        warm in proptest::collection::vec(0u64..4, 80),
    ) {
        let mut queue = queue((1..).zip(&jobs).map(|(seq, (owner, warmth))| {
            Waiting { warmth: *warmth, ..job(seq, &format!("o{owner}")) }
        }));
        let mut last: Map<String, u64> = Map::new();
        for warm in warm.into_iter().take(jobs.len()) {
            let first = queue.next().unwrap().clone();
            let picked = queue.pick(warm).unwrap();
            prop_assert!(picked.seq == first.seq || picked.warmth == warm && warm != 0);
            prop_assert!(last.insert(picked.owner.to_string(), picked.seq).unwrap_or(0) < picked.seq);
            for line in queue.levels.values().flat_map(|level| level.lines.values()) {
                prop_assert!(line.jobs.iter().all(|e| e.passed_over <= PASSED_OVER));
            }
        }
        prop_assert!(queue.is_empty());
    }
}

/// 10,000 waiting jobs of 100 owners: memory is not looked at here, time is, so that nothing is quadratic.
#[test]
fn ten_thousand_wait_without_a_sweat() {
    let began = std::time::Instant::now();
    let mut queue = queue((1..=10_000).map(|seq| job(seq, &format!("o{}", seq % 100))));
    let positions: usize =
        (1..=10_000).step_by(10).map(|n| queue.position(&format!("job-{n}")).unwrap()).sum();
    assert!(positions > 0);
    (1..=10_000).step_by(3).for_each(|seq| assert!(queue.remove(&format!("job-{seq}")).is_some()));
    assert_eq!(drain(&mut queue).len(), 6666);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}
