//! How many instances of a service run: what its configuration and its operator want, what its gateway asks of the small
//! root program that starts and stops them, and what both tell. The decision itself is `scaling::policy`'s.
use crate::protocol::version::{self, OtherVersion};
use serde::{Deserialize, Serialize};

/// Of what an operator has said on a host.
pub const ORDER_VERSION: u32 = 1;
/// Of what a gateway asks of the root program.
pub const SLOT_VERSION: u32 = 1;

/// When the number of instances changes. A service without it has the same number always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "ScalingPolicy"))]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// With 0 nothing runs while nobody asks.
    pub minimum: u32,
    pub maximum: u32,
    pub target: Target,
    /// So many instances more, or fewer, at once.
    pub step: u32,
    /// Between two changes in one direction.
    pub cool_down_ms: u64,
    /// The load was low for so long before an instance goes.
    pub idle_ms: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "ScalingTarget"))]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Jobs, for each instance.
    Waiting(u32),
    /// The last of the jobs, in milliseconds.
    WaitMs(u64),
}

/// Other bounds at some hours of some days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "ScalingSchedule"))]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Empty: every day.
    pub days: Vec<Day>,
    /// Minutes since midnight. Where `to` is not after `from` it is the next day's.
    pub from: u16,
    pub to: u16,
    /// By its name in the IANA time zone database.
    pub zone: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// What an operator has said since, without a deployment: it holds until it is taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "ScalingOrder"))]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<u32>,
    /// Nothing changes.
    #[serde(default)]
    pub paused: bool,
    /// `user@workstation`, and when, in milliseconds since 1970.
    pub by: String,
    pub at: u64,
}

impl Order {
    pub fn check_document(document: &serde_json::Value) -> Result<(), OtherVersion> {
        version::check_document(document, ORDER_VERSION)
    }
}

/// What `stillframe scale` changes. What is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub minimum: Option<u32>,
    pub maximum: Option<u32>,
    pub paused: Option<bool>,
    /// Back to the configuration, before the others count.
    pub reset: bool,
}

impl Change {
    pub fn is_none(&self) -> bool {
        *self == Change::default()
    }

    /// What holds from now on.
    pub fn over(&self, order: Option<&Order>, by: &str, at: u64) -> Order {
        let base = order.filter(|_| !self.reset).cloned().unwrap_or_default();
        Order {
            version: ORDER_VERSION,
            minimum: self.minimum.or(base.minimum),
            maximum: self.maximum.or(base.maximum),
            paused: self.paused.unwrap_or(base.paused),
            by: by.into(),
            at,
        }
    }

    /// In words, for the history.
    pub fn told(&self) -> String {
        let mut parts = Vec::new();
        if self.reset {
            parts.push("back to the configuration".to_string());
        }
        parts.extend(self.minimum.map(|n| format!("minimum {n}")));
        parts.extend(self.maximum.map(|n| format!("maximum {n}")));
        parts.extend(self.paused.map(|paused| if paused { "paused" } else { "resumed" }.to_string()));
        parts.join(", ")
    }
}

/// What the gateway is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingSettings {
    pub policy: Policy,
    /// How many places there are.
    pub slots: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// How long an instance may take to be healthy, in milliseconds.
    pub start_ms: u64,
    /// Where the root program listens.
    pub socket: std::path::PathBuf,
}

/// All that a gateway can ask of the root program, as one line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRequest {
    pub version: u32,
    pub generation: u64,
    pub slot: u32,
    pub to: UpDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpDown {
    Up,
    Down,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotReply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// Of another user than the gateway's.
    Caller,
    /// It is no request.
    Malformed,
    /// Of a generation that does not serve.
    Generation,
    /// No such slot, or more or fewer instances than there may be.
    Bounds,
    /// A deployment changes the service: it may be asked again.
    Busy,
    /// The instance has something to do: it stays.
    Occupied,
    /// It was tried.
    Failed,
}

/// What an instance is to the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// It does not answer yet, and still may.
    Starting,
    Ready,
    /// It has not been healthy within its time, or is not any more.
    Failing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFigure {
    pub slot: u32,
    pub life: Life,
    /// It has a job, or a request that is open.
    pub busy: bool,
}

/// All that a decision is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Milliseconds since 1970.
    pub now: u64,
    /// Jobs that wait in the gateway, and those that instances have.
    pub waiting: u64,
    pub given: u64,
    /// How long the first of them has waited, in milliseconds.
    pub oldest_ms: u64,
    /// Other requests that wait for an instance, and whether any were answered since the last look.
    pub held: u64,
    pub requests: bool,
    /// How long a job runs, where that is known.
    pub job_ms: Option<u64>,
    pub instances: Vec<InstanceFigure>,
}

/// What the gateway decided at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "ScalingDecision"))]
pub struct Decision {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Instances before, and after it.
    pub from: u32,
    pub to: u32,
    pub why: String,
    /// Jobs that waited, and that instances had.
    pub waiting: u64,
    pub given: u64,
    /// Requests that waited for an instance.
    pub held: u64,
    /// What the root program answered, where it did not do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// How the number of instances stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct ScalingView {
    /// The bounds that hold now: of the configuration, of a schedule, or of an operator.
    pub minimum: u32,
    pub maximum: u32,
    /// How many there are to be, how many there are, and how many of those have requests.
    pub wanted: u32,
    pub actual: u32,
    pub ready: u32,
    /// Why so many.
    pub why: String,
    /// What an operator has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// How long the jobs of the last minutes waited until they ran, in milliseconds.
    pub wait_p50_ms: Option<u64>,
    pub wait_p95_ms: Option<u64>,
    /// The newest first.
    pub decisions: Vec<Decision>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_laid_over_what_held_before() {
        let first = Change { minimum: Some(1), ..Change::default() }.over(None, "a@b", 5);
        assert_eq!((first.minimum, first.maximum, first.paused, first.at), (Some(1), None, false, 5));
        let second =
            Change { maximum: Some(2), paused: Some(true), ..Change::default() }.over(Some(&first), "c", 6);
        assert_eq!((second.minimum, second.maximum, second.paused), (Some(1), Some(2), true));
        let reset = Change { reset: true, minimum: Some(0), ..Change::default() };
        let third = reset.over(Some(&second), "c", 7);
        assert_eq!((third.minimum, third.maximum, third.paused), (Some(0), None, false));
        assert_eq!(reset.told(), "back to the configuration, minimum 0");
    }

    #[test]
    fn nothing_but_two_requests_can_be_said() {
        let read = |text: &str| serde_json::from_str::<SlotRequest>(text);
        let up = read("{\"version\":1,\"generation\":7,\"slot\":2,\"to\":\"up\"}").unwrap();
        assert_eq!(up, SlotRequest { version: 1, generation: 7, slot: 2, to: UpDown::Up });
        for bad in [
            "{\"version\":1,\"generation\":7,\"slot\":2,\"to\":\"restart\"}",
            "{\"version\":1,\"generation\":7,\"slot\":2,\"to\":\"up\",\"unit\":\"sshd.service\"}",
            "{\"version\":1,\"generation\":7,\"slot\":-1,\"to\":\"up\"}",
            "{\"version\":1,\"generation\":\"7\",\"slot\":2,\"to\":\"up\"}",
            "\"up\"",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
