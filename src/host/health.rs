//! When an instance counts as healthy: N answers in a row over at least a minimum time, before a deadline.
//! Pure: what was seen and when goes in, a verdict comes out.
use crate::host::world::UnitState;
use crate::protocol::spec::Health;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Healthy,
    NotYet,
    /// It will not get healthy; why.
    Dead(String),
}

/// The looks at one instance.
#[derive(Debug, Clone)]
pub struct Checks {
    health: Health,
    started: u64,
    /// The first of the passes in a row, and how many.
    row: Option<(u64, u32)>,
    last: String,
    healthy: bool,
}

/// A unit that systemd had to start so often does not stay up by itself.
const CRASH_LOOP: u64 = 2;

impl Checks {
    pub fn new(health: &Health, started: u64) -> Self {
        Checks { health: health.clone(), started, row: None, last: "never answered".into(), healthy: false }
    }

    pub fn passed(&self) -> bool {
        self.healthy
    }

    pub fn look(&mut self, now: u64, unit: &UnitState, answer: Result<(), String>) -> Verdict {
        if unit.is_over() {
            return Verdict::Dead(format!("ended before it was healthy (it is {})", unit.told()));
        }
        if unit.restarts >= CRASH_LOOP {
            return Verdict::Dead(format!("ends again and again ({} restarts)", unit.restarts));
        }
        match answer {
            Ok(()) => {
                let (since, passes) = self.row.map_or((now, 1), |(since, n)| (since, n + 1));
                self.row = Some((since, passes));
                if passes >= self.health.passes && now - since >= self.health.minimum_ms {
                    self.healthy = true;
                    return Verdict::Healthy;
                }
            }
            Err(why) => {
                self.row = None;
                self.last = why;
            }
        }
        let took = now - self.started;
        if took >= self.health.deadline_ms {
            let what = match self.row {
                Some((_, passes)) => format!("{passes} of {} passes", self.health.passes),
                None => self.last.clone(),
            };
            return Verdict::Dead(format!(
                "was not healthy within {} s: {what}",
                self.health.deadline_ms / 1000
            ));
        }
        Verdict::NotYet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Checks {
        let health = Health { passes: 3, minimum_ms: 1000, deadline_ms: 10_000, ..Health::default() };
        Checks::new(&health, 0)
    }

    fn up() -> UnitState {
        UnitState { active: "active".into(), ..UnitState::default() }
    }

    #[test]
    fn passes_must_be_in_a_row_and_last() {
        let mut c = checks();
        for (now, answer, verdict) in [
            (100, Ok(()), Verdict::NotYet),
            (200, Ok(()), Verdict::NotYet),
            // Three, but within 200 ms.
            (300, Ok(()), Verdict::NotYet),
            (400, Err("answered 500".to_string()), Verdict::NotYet),
            (500, Ok(()), Verdict::NotYet),
            (1600, Ok(()), Verdict::NotYet),
            (1700, Ok(()), Verdict::Healthy),
        ] {
            assert_eq!(c.look(now, &up(), answer), verdict, "at {now}");
        }
        assert!(c.passed());
    }

    #[test]
    fn an_end_a_crash_loop_and_a_deadline_are_told_apart() {
        let over = UnitState { active: "failed".into(), result: "oom-kill".into(), ..UnitState::default() };
        assert_eq!(
            checks().look(1, &over, Err(String::new())),
            Verdict::Dead("ended before it was healthy (it is failed: oom-kill)".into())
        );
        let loops = UnitState { active: "activating".into(), restarts: 2, ..UnitState::default() };
        assert_eq!(
            checks().look(1, &loops, Err(String::new())),
            Verdict::Dead("ends again and again (2 restarts)".into())
        );
        let late = checks().look(10_000, &up(), Err("answered 500".into()));
        assert_eq!(late, Verdict::Dead("was not healthy within 10 s: answered 500".into()));
        let mut c = checks();
        c.look(9_900, &up(), Ok(()));
        assert_eq!(
            c.look(10_000, &up(), Ok(())),
            Verdict::Dead("was not healthy within 10 s: 2 of 3 passes".into())
        );
    }
}
