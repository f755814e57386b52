//! How much goes to a place at a time. One that does not answer rests, and then one delivery finds out whether it is back;
//! a place that hangs never takes all there is. Pure.
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct Gates {
    places: HashMap<String, Gate>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Gate {
    under_way: usize,
    /// In a row.
    failures: u32,
    rests_until: u64,
}

impl Gates {
    pub fn under_way(&self) -> usize {
        self.places.values().map(|gate| gate.under_way).sum()
    }

    /// How many more may go there now, of `at_once` in all.
    pub fn room(&self, place: &str, at_once: usize, now: u64) -> usize {
        let gate = self.places.get(place).copied().unwrap_or_default();
        let most = if gate.failures > 0 { 1 } else { at_once.div_ceil(2).max(1) };
        if gate.rests_until > now {
            return 0;
        }
        most.saturating_sub(gate.under_way).min(at_once.saturating_sub(self.under_way()))
    }

    pub fn began(&mut self, place: &str) {
        self.places.entry(place.into()).or_default().under_way += 1;
    }

    /// It answered, whatever it said. True: it had not before.
    pub fn answered(&mut self, place: &str) -> bool {
        let gate = self.places.entry(place.into()).or_default();
        let back = gate.failures > 0;
        *gate = Gate { under_way: gate.under_way.saturating_sub(1), ..Gate::default() };
        back
    }

    /// It did not answer, or has to be left alone. How often that was in a row; none where it rests already: what was
    /// under way together fails together.
    pub fn failed(&mut self, place: &str, now: u64) -> Option<u32> {
        let gate = self.places.entry(place.into()).or_default();
        gate.under_way = gate.under_way.saturating_sub(1);
        if gate.rests_until > now {
            return None;
        }
        gate.failures = gate.failures.saturating_add(1);
        Some(gate.failures)
    }

    pub fn rest(&mut self, place: &str, until: u64) {
        self.places.entry(place.into()).or_default().rests_until = until;
    }

    /// An operator says that all are back.
    pub fn forget(&mut self) {
        for gate in self.places.values_mut() {
            (gate.failures, gate.rests_until) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_never_takes_all_and_one_that_fails_gets_one() {
        let mut gates = Gates::default();
        assert_eq!(gates.room("a", 8, 0), 4);
        (0..4).for_each(|_| gates.began("a"));
        assert_eq!((gates.room("a", 8, 0), gates.room("b", 8, 0)), (0, 4));
        assert_eq!(gates.failed("a", 0), Some(1));
        gates.rest("a", 100);
        assert_eq!((gates.room("a", 8, 99), gates.room("b", 8, 99)), (0, 4));
        // The other three are still under way.
        assert_eq!(gates.room("a", 8, 100), 0);
        (0..3).for_each(|_| assert_eq!(gates.failed("a", 99), None));
        assert_eq!(gates.room("a", 8, 100), 1);
        gates.began("a");
        assert!(gates.answered("a"));
        assert_eq!((gates.room("a", 8, 100), gates.under_way()), (4, 0));
        assert_eq!(gates.room("a", 1, 100), 1);
    }
}
