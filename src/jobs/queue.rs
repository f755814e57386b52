//! What waits, in the order in which it is to run: pure, in memory.
//!
//! A higher priority comes first. Within one priority the owners take turns, round by round: in each round everybody
//! who has jobs runs one. Who comes gets a place at the end of the *next* round, never in the one that is under way,
//! so that a round ends however many come, and nobody gets credit for the time before. Within one owner the lower
//! `number` comes first (ComfyUI's `front` gives a negative one), then the lower `seq`: with a single owner that is
//! exactly ComfyUI's order.
use crate::jobs::model::Time;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// How many jobs of one round `pick` looks at.
const LOOKED_AT: usize = 4;
/// How often a job may be passed over by one whose models are in memory.
const PASSED_OVER: u8 = 4;
/// Of how many jobs that run, or have run last, the place is known, should they be put back. Many times what all
/// instances of a host have.
const REMEMBERED: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all owners together.
    pub waiting: usize,
    pub of_owner: usize,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    All,
    Owner,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub id: Arc<str>,
    pub owner: Arc<str>,
    pub number: f64,
    pub priority: i32,
    pub seq: u64,
    pub warmth: u64,
    pub accepted: Time,
}

/// What waits. 10,000 jobs take a few MiB. An operation is O(log n) but for `position`, which also looks at each
/// owner once, and for moving what stands behind the job in its owner's line, if it is neither its first nor its last.
#[derive(Debug, Default)]
pub struct Queue {
    levels: BTreeMap<Reverse<i32>, Level>,
    places: HashMap<Arc<str>, Place>,
    owners: HashMap<Arc<str>, usize>,
    /// When those ran that were picked last, by `seq`.
    picked: BTreeMap<u64, Turn>,
    /// The latest round of any level: a level that was empty for a while goes on from here.
    round: u64,
    /// The last token that was given.
    token: u64,
}

/// The jobs of one priority.
#[derive(Debug, Default)]
struct Level {
    /// Of the job that was picked last.
    round: u64,
    len: usize,
    lines: HashMap<Arc<str>, Line>,
    /// Whose turn is when; each owner of `lines` once.
    turns: BTreeMap<Turn, Arc<str>>,
    /// What was put back, at the turn that it had: it is before whatever is left in its owner's line.
    back: BTreeMap<Turn, Entry>,
}

/// One owner's jobs of one priority. The first runs at `turn`, each other one a round later than the one before it.
#[derive(Debug)]
struct Line {
    turn: Turn,
    jobs: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    job: Waiting,
    passed_over: u8,
}

/// A round, and who comes when in it: by the token that an owner got when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    round: u64,
    token: u64,
}

/// Where a job stands.
#[derive(Debug, Clone)]
struct Place {
    priority: i32,
    owner: Arc<str>,
    number: f64,
    seq: u64,
    back: Option<Turn>,
}

/// A job that may run next: at its turn, the first of this owner's line, or one that was put back.
type Head = (Turn, Option<Arc<str>>);

impl Queue {
    /// Whether one more job of this owner may wait.
    pub fn room(&self, owner: &str, limits: &Limits) -> Result<(), Full> {
        if self.len() >= limits.waiting {
            return Err(Full::All);
        }
        if self.of_owner(owner) >= limits.of_owner { Err(Full::Owner) } else { Ok(()) }
    }

    /// Adds a job, or puts one back that `pick` took: that one has the turn again that it had.
    pub fn push(&mut self, job: Waiting) {
        self.remove(&job.id);
        let back = self.picked.remove(&job.seq);
        let owner = job.owner.clone();
        let place =
            Place { priority: job.priority, owner: owner.clone(), number: job.number, seq: job.seq, back };
        self.places.insert(job.id.clone(), place);
        *self.owners.entry(owner.clone()).or_default() += 1;
        let latest = self.round;
        let level = self
            .levels
            .entry(Reverse(job.priority))
            .or_insert_with(|| Level { round: latest, ..Level::default() });
        level.len += 1;
        let (number, seq) = (job.number, job.seq);
        let entry = Entry { job, passed_over: 0 };
        if let Some(turn) = back {
            level.back.insert(turn, entry);
        } else if let Some(line) = level.lines.get_mut(&owner) {
            let at = line.place_of(number, seq);
            line.jobs.insert(at, entry);
        } else {
            self.token += 1;
            let turn = Turn { round: level.round + 1, token: self.token };
            level.turns.insert(turn, owner.clone());
            level.lines.insert(owner, Line { turn, jobs: [entry].into() });
        }
    }

    pub fn remove(&mut self, id: &str) -> Option<Waiting> {
        let place = self.places.get(id)?.clone();
        let level = self.levels.get_mut(&Reverse(place.priority))?;
        let entry = match place.back {
            Some(turn) => level.back.remove(&turn)?,
            None => {
                let at = level.lines.get(&place.owner)?.place_of(place.number, place.seq);
                level.take(&place.owner, at)?
            }
        };
        Some(self.gone(entry))
    }

    /// What runs next, if nothing is warm.
    pub fn next(&self) -> Option<&Waiting> {
        let level = self.levels.values().next()?;
        level.entry(level.heads().first()?).map(|entry| &entry.job)
    }

    /// Takes what runs next. A job with these models may come before others of the same round, each of another owner:
    /// so nobody loses more than places in one round, and with a single owner the order is ComfyUI's. 0: none is warm.
    pub fn pick(&mut self, warm: u64) -> Option<Waiting> {
        let level = self.levels.values_mut().next()?;
        let heads = level.heads();
        let is_warm = |head: &Head| level.entry(head).is_some_and(|e| e.job.warmth == warm);
        let may_wait = |head: &Head| level.entry(head).is_some_and(|e| e.passed_over < PASSED_OVER);
        let at = match heads.iter().position(is_warm) {
            Some(at) if warm != 0 && heads[..at].iter().all(may_wait) => at,
            _ => 0,
        };
        for head in &heads[..at] {
            level.pass_over(head);
        }
        let (turn, owner) = heads.get(at)?;
        level.round = level.round.max(turn.round);
        self.round = self.round.max(level.round);
        let entry = match owner {
            None => level.back.remove(turn)?,
            Some(owner) => {
                let entry = level.take(owner, 0)?;
                level.has_run(owner);
                entry
            }
        };
        self.picked.insert(entry.job.seq, *turn);
        if self.picked.len() > REMEMBERED {
            self.picked.pop_first();
        }
        Some(self.gone(entry))
    }

    /// How many jobs run before this one.
    pub fn position(&self, id: &str) -> Option<usize> {
        let place = self.places.get(id)?;
        let level = self.levels.get(&Reverse(place.priority))?;
        let turn = match place.back {
            Some(turn) => turn,
            None => {
                let line = level.lines.get(&place.owner)?;
                line.turn.later(line.place_of(place.number, place.seq))
            }
        };
        let above: usize = self.levels.range(..Reverse(place.priority)).map(|(_, level)| level.len).sum();
        let put_back = level.back.range(..turn).count();
        Some(above + put_back + level.lines.values().map(|line| line.before(turn)).sum::<usize>())
    }

    /// As they would run if nothing more came and nothing were warm.
    pub fn in_order(&self) -> Vec<&Waiting> {
        let mut all = Vec::with_capacity(self.len());
        for level in self.levels.values() {
            let mut jobs: Vec<(Turn, &Waiting)> = Vec::with_capacity(level.len);
            jobs.extend(level.back.iter().map(|(turn, e)| (*turn, &e.job)));
            for line in level.lines.values() {
                jobs.extend(line.jobs.iter().enumerate().map(|(at, e)| (line.turn.later(at), &e.job)));
            }
            jobs.sort_unstable_by_key(|(turn, _)| *turn);
            all.extend(jobs.into_iter().map(|(_, job)| job));
        }
        all
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn of_owner(&self, owner: &str) -> usize {
        self.owners.get(owner).copied().unwrap_or_default()
    }

    pub fn contains(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// What has left its level is not counted any more.
    fn gone(&mut self, Entry { job, .. }: Entry) -> Waiting {
        self.places.remove(&job.id);
        if let Some(count) = self.owners.get_mut(&job.owner) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&job.owner);
            }
        }
        let key = Reverse(job.priority);
        if let Some(level) = self.levels.get_mut(&key) {
            level.len -= 1;
            if level.len == 0 {
                self.levels.remove(&key);
            }
        }
        job
    }
}

impl Level {
    /// What comes next, and after it in the same round.
    fn heads(&self) -> Vec<Head> {
        let lines = self.turns.iter().take(LOOKED_AT).map(|(turn, owner)| (*turn, Some(owner.clone())));
        let back = self.back.keys().take(LOOKED_AT).map(|turn| (*turn, None));
        let mut heads: Vec<Head> = back.chain(lines).collect();
        heads.sort_unstable();
        heads.truncate(LOOKED_AT);
        let round = heads.first().map(|(turn, _)| turn.round);
        heads.retain(|(turn, _)| Some(turn.round) == round);
        heads
    }

    fn entry(&self, (turn, owner): &Head) -> Option<&Entry> {
        match owner {
            None => self.back.get(turn),
            Some(owner) => self.lines.get(owner)?.jobs.front(),
        }
    }

    fn pass_over(&mut self, (turn, owner): &Head) {
        let entry = match owner {
            None => self.back.get_mut(turn),
            Some(owner) => self.lines.get_mut(owner).and_then(|line| line.jobs.front_mut()),
        };
        if let Some(entry) = entry {
            entry.passed_over += 1;
        }
    }

    /// Takes a job out of its line. The turn of its owner stays, unless it has nothing left.
    fn take(&mut self, owner: &Arc<str>, at: usize) -> Option<Entry> {
        let line = self.lines.get_mut(owner)?;
        let entry = line.jobs.remove(at)?;
        if line.jobs.is_empty() {
            self.turns.remove(&line.turn);
            self.lines.remove(owner);
        }
        Some(entry)
    }

    /// What is left in this line comes a round later.
    fn has_run(&mut self, owner: &Arc<str>) {
        let Some(line) = self.lines.get_mut(owner) else { return };
        self.turns.remove(&line.turn);
        line.turn = line.turn.later(1);
        self.turns.insert(line.turn, owner.clone());
    }
}

impl Line {
    /// Where a job stands, or would.
    fn place_of(&self, number: f64, seq: u64) -> usize {
        let earlier = |e: &Entry| match order(e.job.number).total_cmp(&order(number)) {
            std::cmp::Ordering::Equal => e.job.seq < seq,
            other => other.is_lt(),
        };
        self.jobs.partition_point(earlier)
    }

    /// How many of its jobs come before that turn, which may be its own.
    fn before(&self, turn: Turn) -> usize {
        let rounds = turn.round.saturating_sub(self.turn.round);
        let also = turn.round >= self.turn.round && self.turn.token < turn.token;
        usize::try_from(rounds).unwrap_or(usize::MAX).saturating_add(also.into()).min(self.jobs.len())
    }
}

impl Turn {
    fn later(self, rounds: usize) -> Turn {
        Turn { round: self.round + rounds as u64, ..self }
    }
}

/// ComfyUI's `front` makes -0 of its first number, which is 0 for it.
fn order(number: f64) -> f64 {
    number + 0.0
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
