//! What the last minutes tell: how long jobs waited, and how long one runs.
use std::collections::VecDeque;

/// How much is remembered.
const MOST: usize = 512;
const MINUTES: u64 = 15;
/// A new job's time counts so much, in hundredths.
const SHARE: u64 = 20;

#[derive(Debug, Default, Clone)]
pub struct Estimate {
    /// When a job began to run, and how long it had waited.
    waits: VecDeque<(u64, u64)>,
    job_ms: Option<u64>,
}

impl Estimate {
    /// A job that has ended: when it was accepted, when it began and when it ended, in milliseconds since 1970.
    pub fn ended(&mut self, accepted: u64, started: u64, ended: u64) {
        self.waits.push_back((started, started.saturating_sub(accepted)));
        while self.waits.len() > MOST {
            self.waits.pop_front();
        }
        let ran = ended.saturating_sub(started);
        self.job_ms = Some(match self.job_ms {
            Some(before) => (before * (100 - SHARE) + ran * SHARE) / 100,
            None => ran,
        });
    }

    pub fn job_ms(&self) -> Option<u64> {
        self.job_ms
    }

    /// The median and the 95th of a hundred of the waits of the last minutes (nearest rank).
    pub fn waits(&self, now: u64) -> Option<(u64, u64)> {
        let since = now.saturating_sub(MINUTES * 60_000);
        let mut waits: Vec<u64> =
            self.waits.iter().filter(|(at, _)| *at >= since).map(|(_, wait)| *wait).collect();
        waits.sort_unstable();
        let rank = |hundredths: usize| waits.get((waits.len() * hundredths).div_ceil(100).checked_sub(1)?);
        Some((*rank(50)?, *rank(95)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_ranked_and_forgotten() {
        let mut estimate = Estimate::default();
        assert_eq!((estimate.waits(0), estimate.job_ms()), (None, None));
        for wait in 1..=100 {
            estimate.ended(1_000, 1_000 + wait, 2_000);
        }
        assert_eq!(estimate.waits(2_000), Some((50, 95)));
        assert_eq!(estimate.waits(2_000 + 16 * 60_000), None);
        assert!(estimate.job_ms().is_some_and(|ms| (900..1_000).contains(&ms)));
        for _ in 0..2 * MOST {
            estimate.ended(0, 0, 10);
        }
        assert_eq!((estimate.waits.len(), estimate.job_ms()), (MOST, Some(10)));
    }
}
