//! Between which numbers the instances are at some time: of the configuration, of a schedule, or of an operator.
//!
//! Time zones come from the IANA database that is compiled in, so that the workstation which checks a name and the host
//! which goes by it mean the same, and no host needs a database of its own.
use crate::protocol::scaling::{Day, Order, Policy, Schedule};
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::sync::LazyLock;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The bounds that hold, and why they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    pub minimum: u32,
    pub maximum: u32,
    pub why: &'static str,
}

fn zone(name: &str) -> Option<TimeZone> {
    // The database also takes other spellings: a name is to be found again in it as it is written.
    ZONES.get(name).ok().filter(|zone| zone.iana_name() == Some(name))
}

pub fn is_zone(name: &str) -> bool {
    zone(name).is_some()
}

fn day(weekday: Weekday) -> Day {
    match weekday {
        Weekday::Monday => Day::Mon,
        Weekday::Tuesday => Day::Tue,
        Weekday::Wednesday => Day::Wed,
        Weekday::Thursday => Day::Thu,
        Weekday::Friday => Day::Fri,
        Weekday::Saturday => Day::Sat,
        Weekday::Sunday => Day::Sun,
    }
}

/// Whether it is in force at a time, in milliseconds since 1970. What goes over midnight belongs to the day on which it
/// begins.
pub fn is_in_force(schedule: &Schedule, now: u64) -> bool {
    let moment = i64::try_from(now).ok().and_then(|now| Timestamp::from_millisecond(now).ok());
    let Some((moment, zone)) = moment.zip(zone(&schedule.zone)) else { return false };
    let there = moment.to_zoned(zone);
    let minute = there.hour() as u16 * 60 + there.minute() as u16;
    let on = |weekday: Weekday| schedule.days.is_empty() || schedule.days.contains(&day(weekday));
    let today = on(there.weekday());
    if schedule.from < schedule.to {
        return today && (schedule.from..schedule.to).contains(&minute);
    }
    (today && minute >= schedule.from) || (minute < schedule.to && on(there.weekday().previous()))
}

/// Between which numbers the instances are now. Of several schedules in force the last that says something counts; what an
/// operator said counts before all of them.
pub fn bounds(policy: &Policy, order: Option<&Order>, slots: u32, now: u64) -> Bounds {
    let (mut minimum, mut maximum, mut why) = (policy.minimum, policy.maximum, "the configuration");
    for schedule in policy.schedules.iter().filter(|schedule| is_in_force(schedule, now)) {
        minimum = schedule.minimum.unwrap_or(minimum);
        maximum = schedule.maximum.unwrap_or(maximum);
        why = "a schedule";
    }
    if let Some(order) = order.filter(|order| order.minimum.is_some() || order.maximum.is_some()) {
        minimum = order.minimum.unwrap_or(minimum);
        // A minimum that was asked for by name is not taken back by what nobody thought of.
        maximum = order.maximum.unwrap_or(maximum.max(order.minimum.unwrap_or(0)));
        why = "stillframe scale";
    }
    let maximum = maximum.min(slots);
    Bounds { minimum: minimum.min(maximum), maximum, why }
}

/// The least and the most that there may be at any time: beyond these nothing is done, whoever asks.
pub fn hull(policy: &Policy, order: Option<&Order>, slots: u32) -> (u32, u32) {
    let least = policy.schedules.iter().filter_map(|s| s.minimum).chain([policy.minimum]).min();
    let most = policy.schedules.iter().filter_map(|s| s.maximum).chain([policy.maximum]).max();
    let (least, most) = (least.unwrap_or(0), most.unwrap_or(slots));
    let said = |of: fn(&Order) -> Option<u32>| order.and_then(of);
    let most = said(|o| o.maximum).unwrap_or(most.max(said(|o| o.minimum).unwrap_or(0))).min(slots);
    (said(|o| o.minimum).unwrap_or(least).min(most), most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::scaling::Target;

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    fn office() -> Schedule {
        Schedule {
            days: vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri],
            from: 8 * 60,
            to: 20 * 60,
            zone: "Europe/Berlin".into(),
            minimum: Some(2),
            maximum: None,
        }
    }

    pub fn policy() -> Policy {
        Policy {
            minimum: 0,
            maximum: 3,
            target: Target::Waiting(1),
            step: 1,
            cool_down_ms: 0,
            idle_ms: 0,
            schedules: vec![office()],
        }
    }

    #[test]
    fn a_schedule_goes_by_the_clock_of_its_zone() {
        // Monday, in winter and in summer: one and two hours before UTC.
        for (time, inside) in [
            ("2026-01-05T06:59:59Z", false),
            ("2026-01-05T07:00:00Z", true),
            ("2026-01-05T18:59:59Z", true),
            ("2026-01-05T19:00:00Z", false),
            ("2026-07-06T05:59:59Z", false),
            ("2026-07-06T06:00:00Z", true),
            // Saturday.
            ("2026-01-10T10:00:00Z", false),
        ] {
            assert_eq!(is_in_force(&office(), at(time)), inside, "{time}");
        }
        // On the night of the change to summer time two o'clock does not come.
        let night = Schedule { days: vec![Day::Sun], from: 120, to: 180, ..office() };
        assert!(!is_in_force(&night, at("2026-03-29T00:59:59Z")));
        assert!(!is_in_force(&night, at("2026-03-29T01:00:00Z")));
    }

    #[test]
    fn over_midnight_it_belongs_to_the_day_on_which_it_begins() {
        let night =
            Schedule { days: vec![Day::Fri], from: 22 * 60, to: 6 * 60, zone: "UTC".into(), ..office() };
        for (time, inside) in [
            ("2026-01-09T21:59:00Z", false),
            ("2026-01-09T22:00:00Z", true),
            ("2026-01-10T05:59:00Z", true),
            ("2026-01-10T06:00:00Z", false),
            // Friday's own morning is Thursday's night.
            ("2026-01-09T03:00:00Z", false),
        ] {
            assert_eq!(is_in_force(&night, at(time)), inside, "{time}");
        }
    }

    #[test]
    fn names_of_zones() {
        assert!(is_zone("Europe/Berlin") && is_zone("America/New_York") && is_zone("UTC"));
        for bad in ["Berlin", "europe/berlin", "CEST+1", "", "../etc/passwd", "Europe/Atlantis"] {
            assert!(!is_zone(bad), "{bad}");
        }
    }

    #[test]
    fn an_operator_counts_before_a_schedule_and_a_schedule_before_the_configuration() {
        let (monday, sunday) = (at("2026-01-05T10:00:00Z"), at("2026-01-04T10:00:00Z"));
        let of = |order: Option<&Order>, slots, now| {
            let Bounds { minimum, maximum, why } = bounds(&policy(), order, slots, now);
            (minimum, maximum, why)
        };
        assert_eq!(of(None, 8, sunday), (0, 3, "the configuration"));
        assert_eq!(of(None, 8, monday), (2, 3, "a schedule"));
        assert_eq!(of(None, 1, monday), (1, 1, "a schedule"));
        let order = |minimum, maximum| Order { minimum, maximum, ..Order::default() };
        assert_eq!(of(Some(&order(None, Some(1))), 8, monday), (1, 1, "stillframe scale"));
        assert_eq!(of(Some(&order(Some(5), None)), 8, monday), (5, 5, "stillframe scale"));
        assert_eq!(of(Some(&order(None, None)), 8, monday), (2, 3, "a schedule"));
        assert_eq!(hull(&policy(), None, 8), (0, 3));
        assert_eq!(hull(&policy(), Some(&order(Some(1), Some(2))), 8), (1, 2));
        assert_eq!(hull(&policy(), Some(&order(Some(5), None)), 4), (4, 4));
    }
}
