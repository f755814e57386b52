//! What a probe found out by starting the environment's own server: kept in the snapshot's record for
//! the health gate of a deployment.
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::model::used::{Configured, Used};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackProbe {
    pub name: String,
    /// As ComfyUI prints it, in milliseconds; `None` where its log has no line of the pack.
    pub import_ms: Option<u64>,
    /// `None`: not known. Its log has no line of the pack, and no node class is the pack's.
    pub failed: Option<bool>,
    pub classes: Vec<String>,
}

impl PackProbe {
    /// What the log says of a pack, and the node classes that are its own.
    pub fn new(name: &str, times: &BTreeMap<String, (u64, bool)>, classes: Vec<String>) -> PackProbe {
        let line = times.get(name).copied();
        // A pack that failed has no classes.
        let failed = line.map(|(_, failed)| failed).or((!classes.is_empty()).then_some(false));
        PackProbe { name: name.into(), import_ms: line.map(|(ms, _)| ms), failed, classes }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeResult {
    /// Time until the server answered.
    pub ready_ms: u64,
    /// Node class and the module it comes from.
    pub classes: BTreeMap<String, String>,
    pub packs: Vec<PackProbe>,
    /// What it uses of this machine, and the imports from the snapshot with it.
    #[serde(default, skip_serializing_if = "Used::is_empty")]
    pub used: Used,
    /// The scripts that pages of the server load (`GET /extensions`); null where it did not tell.
    #[serde(default)]
    pub extensions: Option<BTreeSet<String>>,
    /// Method and path of what it answers, as in `GET /prompt`; null where that is not known. A path below `/api` is left
    /// out where it is there without `/api`, too.
    #[serde(default)]
    pub routes: Option<BTreeSet<String>>,
}

impl ProbeResult {
    /// What is worth knowing before a deployment.
    pub fn findings(&self, configured: &Configured) -> Vec<Finding> {
        let of = |pack: &PackProbe| {
            let message = match pack.failed {
                Some(false) => return None,
                Some(true) => "fails to import in the environment's own server",
                None => {
                    "not known whether it could be imported: the server's log has no line of it, and no node class is its own"
                }
            };
            Some(Finding {
                severity: Severity::Warning,
                topic: Topic::Probe,
                path: format!("custom_nodes/{}", pack.name),
                message: message.into(),
            })
        };
        self.packs.iter().filter_map(of).chain(self.used.findings(configured)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::comfy::log::import_times;

    #[test]
    fn a_pack_that_the_log_does_not_name_is_not_said_to_work() {
        let times = import_times(
            "   0.2 seconds: /e/custom_nodes/a\n   0.1 seconds (IMPORT FAILED): /e/custom_nodes/b",
        );
        let pack = |name: &str, classes: &[&str]| {
            PackProbe::new(name, &times, classes.iter().map(|c| c.to_string()).collect())
        };
        let packs = vec![pack("a", &[]), pack("b", &[]), pack("quiet", &["Node"]), pack("unknown", &[])];
        let said: Vec<_> = packs.iter().map(|p| (p.import_ms, p.failed)).collect();
        assert_eq!(
            said,
            [(Some(200), Some(false)), (Some(100), Some(true)), (None, Some(false)), (None, None)]
        );
        let findings = ProbeResult { packs, ..ProbeResult::default() }.findings(&Configured::default());
        let named: Vec<_> = findings.iter().map(|f| (f.path.as_str(), &f.message[..9])).collect();
        assert_eq!(named, [("custom_nodes/b", "fails to "), ("custom_nodes/unknown", "not known")]);
    }

    #[test]
    fn records_that_say_of_each_pack_whether_it_failed_are_read() {
        let text = r#"{"name": "a", "import_ms": 3, "failed": true, "classes": []}"#;
        let pack: PackProbe = serde_json::from_str(text).unwrap();
        assert_eq!((pack.import_ms, pack.failed), (Some(3), Some(true)));
    }
}
