//! Wrong API keys. A client that brings many is answered 429, and its requests become one line of the log in
//! place of one each.
//!
//! Several people may share an address (a company, `ssh -L`, a proxy that is not trusted), so one of them must
//! not lock the others out. Therefore a key that was right from there before stays right, and one wrong key
//! again and again, as a program with an old key sends it, is no guessing: other keys are still looked at. Only
//! after many different ones a key that is new from there is not looked at, right or wrong.
use crate::gateway::clock::Millis;
use crate::gateway::key::Key;
use crate::gateway::share::Source;
use parking_lot::Mutex;
use std::collections::HashMap;

const WINDOW: Millis = 60_000;
/// How many clients, and how many right keys of clients, are remembered: the oldest go first.
const REMEMBERED: usize = 4_096;
/// How many lines a tick may write; other clients are counted in one more.
const LINES: usize = 8;

#[derive(Default)]
pub struct Throttle {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    windows: HashMap<Source, Window>,
    /// When a key was last right from there.
    right: HashMap<(Source, Key), Millis>,
}

/// One client's wrong keys within a minute.
#[derive(Default)]
struct Window {
    began: Millis,
    wrong: u32,
    missing: u32,
    /// The different ones, as far as they matter.
    different: Vec<Key>,
    /// Requests that have no line of their own in the log.
    silent: u64,
}

/// How a request without a right key is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Seconds after which to come again; none: it may come at once.
    pub later: Option<u64>,
    pub silent: bool,
}

fn rest(began: Millis, now: Millis) -> u64 {
    (began + WINDOW).saturating_sub(now).div_ceil(1_000).max(1)
}

impl Known {
    fn window(&mut self, source: Source, now: Millis) -> &mut Window {
        if !self.windows.contains_key(&source)
            && self.windows.len() >= REMEMBERED
            && let Some(oldest) = self.windows.iter().min_by_key(|(_, w)| w.began).map(|(source, _)| *source)
        {
            self.windows.remove(&oldest);
        }
        self.windows.entry(source).or_insert_with(|| Window { began: now, ..Window::default() })
    }
}

impl Throttle {
    /// A right key: whether it counts, or in how many seconds it will.
    pub fn right(&self, source: Source, key: Key, most: u32, now: Millis) -> Result<(), u64> {
        let mut known = self.known.lock();
        if let Some(seen) = known.right.get_mut(&(source, key)) {
            *seen = now;
            return Ok(());
        }
        if let Some(window) = known.windows.get_mut(&source)
            && window.different.len() > most as usize
            && now < window.began + WINDOW
        {
            window.silent += 1;
            return Err(rest(window.began, now));
        }
        if known.right.len() >= REMEMBERED
            && let Some(oldest) = known.right.iter().min_by_key(|(_, seen)| **seen).map(|(key, _)| *key)
        {
            known.right.remove(&oldest);
        }
        known.right.insert((source, key), now);
        Ok(())
    }

    pub fn wrong(&self, source: Source, key: Key, most: u32, now: Millis) -> Verdict {
        let mut known = self.known.lock();
        let window = known.window(source, now);
        window.wrong = window.wrong.saturating_add(1);
        if window.different.len() <= most as usize && !window.different.contains(&key) {
            window.different.push(key);
        }
        let over = window.wrong > most;
        window.silent += u64::from(over);
        Verdict { later: over.then(|| rest(window.began, now)), silent: over }
    }

    /// A request without a key, as a browser sends it before it asks its user for one.
    pub fn missing(&self, source: Source, most: u32, now: Millis) -> Verdict {
        let mut known = self.known.lock();
        let window = known.window(source, now);
        window.missing = window.missing.saturating_add(1);
        let silent = window.missing > most;
        window.silent += u64::from(silent);
        Verdict { later: None, silent }
    }

    /// Forgets what is over; gives back the lines for the log.
    pub fn tidy(&self, now: Millis) -> Vec<String> {
        let mut known = self.known.lock();
        let mut lines = Vec::new();
        let (mut others, mut theirs) = (0, 0);
        known.windows.retain(|source, window| {
            if now < window.began + WINDOW {
                return true;
            }
            if window.silent == 0 {
                return false;
            }
            if lines.len() < LINES {
                lines.push(format!(
                    "{source} sent {} requests with a wrong API key and {} with none within {} s; {} of its \
                     refused ones have no line of their own",
                    window.wrong,
                    window.missing,
                    WINDOW / 1_000,
                    window.silent
                ));
            } else {
                (others, theirs) = (others + 1, theirs + window.silent);
            }
            false
        });
        if others > 0 {
            lines.push(format!(
                "{others} more clients sent wrong API keys or none; {theirs} requests have no line of their own"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source::of(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn after_many_wrong_ones_it_has_to_wait_until_the_minute_is_over() {
        let throttle = Throttle::default();
        for n in 0..3 {
            let verdict = throttle.wrong(source(1), (n, n), 3, 1_000);
            assert_eq!(verdict, Verdict { later: None, silent: false });
        }
        let verdict = throttle.wrong(source(1), (9, 9), 3, 2_000);
        assert_eq!(verdict, Verdict { later: Some(59), silent: true });
        // A right one would tell whether it was guessed.
        assert_eq!(throttle.right(source(1), (7, 7), 3, 3_000), Err(58));
        assert_eq!(throttle.right(source(2), (7, 7), 3, 3_000), Ok(()));
        assert!(throttle.tidy(60_999).is_empty());
        let lines = throttle.tidy(61_000);
        assert_eq!(
            lines,
            [
                "0.0.0.1 sent 4 requests with a wrong API key and 0 with none within 60 s; 2 of its refused ones \
              have no line of their own"
            ]
        );
        assert_eq!(throttle.right(source(1), (7, 7), 3, 61_000), Ok(()));
        assert_eq!(throttle.wrong(source(1), (9, 9), 3, 61_000).later, None);
    }

    #[test]
    fn whoever_shares_an_address_is_not_locked_out() {
        let throttle = Throttle::default();
        assert_eq!(throttle.right(source(1), (7, 7), 3, 0), Ok(()));
        // A program that goes on with one old key.
        let old: Vec<_> = (0..100).map(|_| throttle.wrong(source(1), (5, 5), 3, 0)).collect();
        assert_eq!(old.iter().filter(|verdict| verdict.later.is_some()).count(), 97);
        assert_eq!(throttle.right(source(1), (8, 8), 3, 0), Ok(()));
        // One that guesses.
        assert!((0..100).all(|n| throttle.wrong(source(1), (n, 1), 3, 0).later.is_some()));
        assert_eq!(throttle.right(source(1), (7, 7), 3, 0), Ok(()));
        assert_eq!(throttle.right(source(1), (6, 6), 3, 0), Err(60));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let throttle = Throttle::default();
        for n in 0..2 * REMEMBERED as u32 {
            let _ = throttle.right(source(n), (0, 0), 3, u64::from(n));
            for key in 0..9 {
                let _ = throttle.wrong(source(n), (key, 1), 3, u64::from(n));
            }
        }
        let known = throttle.known.lock();
        assert_eq!((known.windows.len(), known.right.len()), (REMEMBERED, REMEMBERED));
        assert!(known.windows.values().all(|window| window.different.len() == 4));
        assert!(known.right.contains_key(&(source(2 * REMEMBERED as u32 - 1), (0, 0))));
        drop(known);
        let lines = throttle.tidy(10 * WINDOW);
        assert_eq!(lines.len(), LINES + 1);
        assert!(lines[LINES].starts_with("4088 more clients "), "{}", lines[LINES]);
        assert!(throttle.known.lock().windows.is_empty());
    }

    #[test]
    fn a_missing_key_is_no_wrong_one() {
        let throttle = Throttle::default();
        let verdicts: Vec<Verdict> = (0..5).map(|_| throttle.missing(source(1), 3, 0)).collect();
        assert!(verdicts.iter().all(|verdict| verdict.later.is_none()));
        assert_eq!(verdicts.iter().filter(|verdict| verdict.silent).count(), 2);
        assert_eq!(throttle.wrong(source(1), (1, 1), 3, 0).later, None);
    }
}
