//! `[service.scaling]`: how many instances there may be, what is wrong with that, and the policy that hosts are told.
use super::scaling_types::{DayWord, ScheduleConfig};
use super::types::{QueueOf, ServiceConfig};
use super::wrong::{Wrong, wrong};
use crate::protocol::scaling::{Day, Policy, Schedule, Target};
use crate::scaling::schedule::is_zone;
use crate::ship::quantity::Span;

/// Keys that several checks name.
const MINIMUM: &str = "service.scaling.minimum";
const MAXIMUM: &str = "service.scaling.maximum";
const SCHEDULES: &str = "service.scaling.schedules";

impl ServiceConfig {
    fn gateway_has_the_queue(&self) -> bool {
        self.jobs.queue.unwrap_or_default() == QueueOf::Gateway
    }

    fn schedules(&self) -> &[ScheduleConfig] {
        self.scaling.schedules.as_deref().unwrap_or_default()
    }

    /// How many instances run always, and how many may at most.
    pub(super) fn instances(&self, slots: &[Vec<String>]) -> (u32, u32) {
        let slots = slots.len() as u32;
        let minimum =
            self.scaling.minimum.unwrap_or_else(|| self.scaling.maximum.unwrap_or(slots).min(slots));
        let maximum = if self.gateway_has_the_queue() { slots } else { minimum };
        (minimum, self.scaling.maximum.unwrap_or(maximum).max(minimum))
    }

    /// None where their number does not change.
    pub(super) fn policy(&self, slots: &[Vec<String>]) -> Option<Policy> {
        let (minimum, maximum) = self.instances(slots);
        let said = &self.scaling;
        if !self.gateway_has_the_queue() || (minimum == maximum && self.schedules().is_empty()) {
            return None;
        }
        let waiting = Target::Waiting(said.target_waiting.unwrap_or(1));
        Some(Policy {
            minimum,
            maximum,
            target: said.target_wait.map_or(waiting, |span| Target::WaitMs(span.0)),
            step: said.step.unwrap_or(1),
            cool_down_ms: said.cool_down.map_or(30_000, |span| span.0),
            idle_ms: said.idle.map_or(300_000, |span| span.0),
            schedules: self.schedules().iter().map(schedule).collect(),
        })
    }

    /// Whether there may be a time at which no instance runs.
    pub(super) fn may_be_none(&self) -> bool {
        let minimums = self.schedules().iter().map(|schedule| schedule.minimum);
        minimums.chain([self.scaling.minimum]).any(|minimum| minimum == Some(0))
    }

    /// What is wrong whatever the host has.
    pub(super) fn check_scaling(&self) -> Result<(), Wrong> {
        let said = &self.scaling;
        ordered(MAXIMUM, said.minimum, said.maximum)?;
        let zeros = [
            (MAXIMUM, said.maximum == Some(0), "is 0: nothing would ever run"),
            ("service.scaling.step", said.step == Some(0), "is 0: nothing would ever change"),
            (
                "service.scaling.target-wait",
                said.target_wait == Some(Span(0)),
                "is 0: write target-waiting = 0, where no job is to wait behind another one",
            ),
            (
                "service.scaling.idle",
                said.idle == Some(Span(0)),
                "is 0: an instance would end whenever it has nothing to do for a moment",
            ),
        ];
        if let Some((key, _, why)) = zeros.iter().find(|(_, zero, _)| *zero) {
            return Err(wrong(key, *why));
        }
        if said.target_wait.is_some() && said.target_waiting.is_some() {
            return Err(wrong("service.scaling.target-wait", "is set beside target-waiting: choose one"));
        }
        for schedule in self.schedules() {
            check_schedule(schedule, said.minimum, said.maximum)?;
        }
        self.check_queue()
    }

    /// A policy follows the queue, and only the gateway's own is one.
    fn check_queue(&self) -> Result<(), Wrong> {
        let said = &self.scaling;
        if self.gateway_has_the_queue() {
            return Ok(());
        }
        let asks = [
            (MINIMUM, said.minimum == Some(0)),
            (MAXIMUM, said.minimum.zip(said.maximum).is_some_and(|(minimum, maximum)| minimum < maximum)),
            ("service.scaling.target-waiting", said.target_waiting.is_some()),
            ("service.scaling.target-wait", said.target_wait.is_some()),
            ("service.scaling.step", said.step.is_some()),
            ("service.scaling.cool-down", said.cool_down.is_some()),
            ("service.scaling.idle", said.idle.is_some()),
            (SCHEDULES, !self.schedules().is_empty()),
        ];
        match asks.iter().find(|(_, asked)| *asked) {
            Some((key, _)) => Err(wrong(
                key,
                "lets the number of instances follow the queue, and each instance keeps its own: \
                 leave queue = \"instances\" out of [service.jobs]",
            )),
            None => Ok(()),
        }
    }

    /// Whether there are as many slots as instances may need.
    pub(super) fn check_places(&self, slots: usize) -> Result<(), Wrong> {
        let said = &self.scaling;
        let of_schedules = self.schedules().iter().flat_map(|schedule| {
            [(SCHEDULES, "asks for", schedule.minimum), (SCHEDULES, "allows", schedule.maximum)]
        });
        let own = [(MINIMUM, "asks for", said.minimum), (MAXIMUM, "allows", said.maximum)];
        for (key, does, count) in own.into_iter().chain(of_schedules) {
            if let Some(count) = count.filter(|count| *count as usize > slots) {
                return Err(wrong(key, format!("{does} {count} instances, and there are {slots} slots")));
            }
        }
        Ok(())
    }
}

fn ordered(key: &'static str, minimum: Option<u32>, maximum: Option<u32>) -> Result<(), Wrong> {
    match (minimum, maximum) {
        (Some(minimum), Some(maximum)) if minimum > maximum => {
            Err(wrong(key, format!("is {maximum}, below the minimum of {minimum}")))
        }
        _ => Ok(()),
    }
}

fn check_schedule(it: &ScheduleConfig, minimum: Option<u32>, maximum: Option<u32>) -> Result<(), Wrong> {
    if !is_zone(&it.zone) {
        let text = format!(
            "names the zone {:?}, which the IANA database does not have: write \"Europe/Berlin\"",
            it.zone
        );
        return Err(wrong(SCHEDULES, text));
    }
    if it.days.as_ref().is_some_and(Vec::is_empty) {
        return Err(wrong(SCHEDULES, "names no day: leave days out where every day is meant"));
    }
    if it.from == it.to || it.from.0 == 24 * 60 {
        let text = format!("is from {} to {}, which is no time", String::from(it.from), String::from(it.to));
        return Err(wrong(SCHEDULES, text));
    }
    if it.minimum.is_none() && it.maximum.is_none() {
        return Err(wrong(SCHEDULES, "changes nothing: set its minimum or its maximum"));
    }
    let (own, other) = (it.minimum.or(minimum), it.maximum.or(maximum));
    match own.zip(other) {
        Some((minimum, maximum)) if minimum > maximum => {
            let text = format!("has a maximum of {maximum}, below the minimum of {minimum}");
            Err(wrong(SCHEDULES, text))
        }
        _ => Ok(()),
    }
}

fn schedule(it: &ScheduleConfig) -> Schedule {
    let mut days: Vec<Day> = it.days.iter().flatten().flat_map(|word| days(*word)).copied().collect();
    days.sort();
    days.dedup();
    Schedule {
        days,
        from: it.from.0,
        to: it.to.0,
        zone: it.zone.clone(),
        minimum: it.minimum,
        maximum: it.maximum,
    }
}

fn days(word: DayWord) -> &'static [Day] {
    match word {
        DayWord::Mon => &[Day::Mon],
        DayWord::Tue => &[Day::Tue],
        DayWord::Wed => &[Day::Wed],
        DayWord::Thu => &[Day::Thu],
        DayWord::Fri => &[Day::Fri],
        DayWord::Sat => &[Day::Sat],
        DayWord::Sun => &[Day::Sun],
        DayWord::Weekdays => &[Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri],
        DayWord::Weekend => &[Day::Sat, Day::Sun],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::spec::Spec;

    fn spec(text: &str) -> Result<Spec, String> {
        let text = format!("models = \"/m\"\n{text}");
        let config: ServiceConfig = toml::from_str(&text).map_err(|e| e.message().to_string())?;
        config.spec(&[], Vec::new(), None).map_err(|w| w.to_string())
    }

    /// Each instance has its own queue.
    const OWN: &str = "jobs.queue = \"instances\"\n";

    fn scaled(text: &str) -> Result<Spec, String> {
        spec(&format!("slots = 3\n{text}"))
    }

    #[test]
    fn without_a_policy_each_slot_has_an_instance() {
        for (text, instances) in [
            ("slots = 2", (2, 2)),
            ("slots = 2\njobs.queue = \"instances\"", (2, 2)),
            ("", (1, 1)),
            ("slots = 3\nscaling.maximum = 2", (2, 2)),
            // Nobody would know when to start a second one.
            ("slots = 2\nscaling.minimum = 1\njobs.queue = \"instances\"", (1, 1)),
        ] {
            let spec = spec(text).unwrap();
            assert_eq!(
                (spec.instances, spec.maximum, spec.scaling),
                (instances.0, instances.1, None),
                "{text}"
            );
        }
    }

    #[test]
    fn a_policy_is_what_is_said_and_defaults() {
        let spec = scaled(
            "[scaling]\nminimum = 0\ntarget-wait = \"90s\"\n[[scaling.schedules]]\ndays = [\"weekdays\", \"fri\", \"sun\"]\n\
             from = \"08:00\"\nto = \"24:00\"\nzone = \"Europe/Berlin\"\nminimum = 2",
        )
        .unwrap();
        assert_eq!((spec.instances, spec.maximum, spec.gateway.hold_ms), (0, 3, 120_000));
        let policy = spec.scaling.unwrap();
        assert_eq!((policy.minimum, policy.maximum, policy.target), (0, 3, Target::WaitMs(90_000)));
        assert_eq!((policy.step, policy.cool_down_ms, policy.idle_ms), (1, 30_000, 300_000));
        let schedule = &policy.schedules[0];
        assert_eq!((schedule.from, schedule.to, schedule.minimum), (480, 1_440, Some(2)));
        assert_eq!(schedule.days, [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sun]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        let time = "from = \"08:00\", to = \"20:00\"";
        let schedule =
            |rest: &str| scaled(&format!("scaling.schedules = [{{ {rest} }}]")).map(drop).unwrap_err();
        for (text, why) in [
            (
                "scaling = { minimum = 2, maximum = 1 }",
                "service.scaling.maximum is 1, below the minimum of 2",
            ),
            ("scaling.minimum = 4", "service.scaling.minimum asks for 4 instances, and there are 3 slots"),
            ("scaling.maximum = 4", "service.scaling.maximum allows 4 instances, and there are 3 slots"),
            ("scaling.maximum = 0", "service.scaling.maximum is 0: nothing would ever run"),
            ("scaling.step = 0", "service.scaling.step is 0: nothing would ever change"),
            (
                "scaling = { target-wait = \"1s\", target-waiting = 1 }",
                "service.scaling.target-wait is set beside target-waiting: choose one",
            ),
        ] {
            assert_eq!(scaled(text).unwrap_err(), why, "{text}");
        }
        for (rest, why) in [
            (
                "zone = \"Europe/Atlantis\", minimum = 1",
                "names the zone \"Europe/Atlantis\", which the IANA database does not have: write \"Europe/Berlin\"",
            ),
            ("zone = \"UTC\"", "changes nothing: set its minimum or its maximum"),
            ("zone = \"UTC\", minimum = 4", "asks for 4 instances, and there are 3 slots"),
            ("zone = \"UTC\", minimum = 2, maximum = 1", "has a maximum of 1, below the minimum of 2"),
            (
                "zone = \"UTC\", days = [], minimum = 1",
                "names no day: leave days out where every day is meant",
            ),
        ] {
            let text = schedule(&format!("{time}, {rest}"));
            assert_eq!(text, format!("service.scaling.schedules {why}"), "{rest}");
        }
        let no_time = schedule("from = \"08:00\", to = \"08:00\", zone = \"UTC\", minimum = 1");
        assert_eq!(no_time, "service.scaling.schedules is from 08:00 to 08:00, which is no time");
        let bad = schedule("from = \"8:00\", to = \"20:00\", zone = \"UTC\", minimum = 1");
        assert_eq!(bad, "\"8:00\" is no time of a day: write \"08:00\"");
        let alone = spec(&format!("{OWN}slots = 2\nscaling.minimum = 0")).unwrap_err();
        assert_eq!(
            alone,
            "service.scaling.minimum lets the number of instances follow the queue, and each instance keeps its own: \
             leave queue = \"instances\" out of [service.jobs]"
        );
        assert!(spec(&format!("{OWN}slots = 2\nscaling = {{ minimum = 1, maximum = 2 }}")).is_err());
    }
}
