//! The keys of `[service.scaling]`.
use crate::ship::quantity::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ScalingConfig {
    /// So many instances run always; with 0 the first starts when somebody asks (default: one a slot, `maximum` at most).
    pub minimum: Option<u32>,
    /// At most so many, where the gateway has the queue (default: one a slot); else as many as `minimum`.
    pub maximum: Option<u32>,
    /// So many jobs may wait for each instance before another one starts (default: 1).
    pub target_waiting: Option<u32>,
    /// So long may a job wait before another instance starts, in place of `target-waiting`.
    pub target_wait: Option<Span>,
    /// So many instances start, or end, at once (default: 1).
    pub step: Option<u32>,
    /// Between two changes in one direction (default: 30s).
    pub cool_down: Option<Span>,
    /// The load is low for so long before an instance ends (default: 5min).
    pub idle: Option<Span>,
    /// Other numbers at some hours; of several in force the last counts (default: none).
    pub schedules: Option<Vec<ScheduleConfig>>,
}

/// Another minimum or maximum at some hours of some days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScheduleConfig {
    /// "mon" to "sun", "weekdays" or "weekend" (default: every day).
    pub days: Option<Vec<DayWord>>,
    /// As in "08:00".
    pub from: ClockTime,
    /// As in "20:00"; before `from`: of the next day.
    pub to: ClockTime,
    /// By its name in the IANA database, as in "Europe/Berlin".
    pub zone: String,
    /// In place of the service's own.
    pub minimum: Option<u32>,
    /// In place of the service's own.
    pub maximum: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DayWord {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
    Weekdays,
    Weekend,
}

/// Minutes since midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClockTime(pub u16);

impl TryFrom<String> for ClockTime {
    type Error = String;

    fn try_from(text: String) -> Result<ClockTime, String> {
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        let read = |part: &str| if digits(part) { part.parse::<u16>().ok() } else { None };
        let parts = text.split_once(':').and_then(|(hour, minute)| Some((read(hour)?, read(minute)?)));
        match parts {
            Some((hour, minute)) if hour < 24 && minute < 60 => Ok(ClockTime(hour * 60 + minute)),
            // The end of a day.
            Some((24, 0)) => Ok(ClockTime(24 * 60)),
            _ => Err(format!("{text:?} is no time of a day: write \"08:00\"")),
        }
    }
}

impl From<ClockTime> for String {
    fn from(ClockTime(minutes): ClockTime) -> String {
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl JsonSchema for ClockTime {
    fn schema_name() -> Cow<'static, str> {
        "ClockTime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$",
            "x-expects": "a time of a day as in \"08:00\""})
    }
}
