//! When a delivery that failed is tried again: after a pause that doubles, half of it by chance, so that those who failed
//! together do not come back together. Pure.
use crate::protocol::deliveries::Deliveries;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At this time.
    Again(u64),
    GiveUp,
}

/// In milliseconds, after `failed` failures in a row. `chance`: any number.
pub fn pause(rules: &Deliveries, failed: u32, chance: u64) -> u64 {
    let longest = rules.longest_pause_ms.max(1);
    let doubled =
        1u64.checked_shl(failed.saturating_sub(1)).and_then(|times| rules.pause_ms.checked_mul(times));
    let whole = doubled.unwrap_or(longest).clamp(1, longest);
    let half = whole / 2;
    whole - half + chance % (half + 1)
}

/// `failed`: with this try; `asked`: for how long the receiver wants to be left alone.
pub fn next(rules: &Deliveries, failed: u32, made: u64, now: u64, asked: Option<u64>, chance: u64) -> Next {
    let asked = asked.unwrap_or(0).min(rules.longest_pause_ms);
    let at = now.saturating_add(pause(rules, failed, chance).max(asked));
    if failed >= rules.tries || at > made.saturating_add(rules.age_ms) {
        Next::GiveUp
    } else {
        Next::Again(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(pause_ms: u64, longest_pause_ms: u64, tries: u32, age_ms: u64) -> Deliveries {
        Deliveries { pause_ms, longest_pause_ms, tries, age_ms, ..Deliveries::default() }
    }

    #[test]
    fn it_doubles_up_to_the_longest() {
        let rules = rules(5_000, 60_000, 20, u64::MAX);
        let bounds =
            |failed| (pause(&rules, failed, 0), pause(&rules, failed, 30_000.min(5_000 << failed >> 2)));
        assert_eq!(bounds(1), (2_500, 5_000));
        assert_eq!(bounds(2), (5_000, 10_000));
        assert_eq!(pause(&rules, 40, 0), 30_000);
    }

    proptest! {
        #[test]
        fn a_pause_is_within_its_bounds_and_none_is_shorter_than_half_of_the_one_before(
            first in 1u64..10_000_000, more in 0u64..1_000_000_000, failed in 1u32..200, chance: u64,
        ) {
            let rules = rules(first, first + more, 1, 1);
            let whole = (u128::from(first) << failed.saturating_sub(1).min(64)).min(u128::from(first + more)) as u64;
            let now = pause(&rules, failed, chance);
            prop_assert!(now >= whole / 2 && now <= whole && now >= 1, "{now} of {whole}");
            prop_assert!(pause(&rules, failed + 1, chance) >= whole / 2);
        }

        #[test]
        fn it_ends(
            first in 1u64..100_000, more in 0u64..100_000_000, tries in 1u32..60, age in 0u64..1_000_000_000,
            asked in proptest::option::of(0u64..u64::MAX), chances in proptest::collection::vec(any::<u64>(), 64),
        ) {
            let rules = rules(first, first + more, tries, age);
            let (made, mut now, mut failed) = (1_000, 1_000, 0);
            for chance in chances {
                failed += 1;
                match next(&rules, failed, made, now, asked, chance) {
                    Next::GiveUp => return Ok(()),
                    Next::Again(at) => {
                        prop_assert!(at > now, "it moves on");
                        prop_assert!(at <= made + age, "never beyond its age");
                        let longest = asked.unwrap_or(0).min(rules.longest_pause_ms).max(rules.longest_pause_ms);
                        prop_assert!(at - now <= longest);
                        now = at;
                    }
                }
                prop_assert!(failed < tries, "never more often than it may be");
            }
            prop_assert!(false, "it does not end");
        }
    }
}
