//! What a command says of a snapshot that was taken: the document of `snapshot --json`, and of the event of a deployment
//! that took one.
use crate::capture::index::lookup::IndexReport;
use crate::capture::model::probe::ProbeResult;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::closure::realise;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Raised when a field changes its meaning or goes away.
pub const REPORT_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SnapshotReport")]
pub struct Report {
    pub version: u32,
    /// The store path.
    pub snapshot: String,
    pub id: String,
    pub label: Option<String>,
    /// The same content as a snapshot that was registered before.
    pub unchanged: bool,
    /// The store path of the snapshot's derivation.
    pub derivation: String,
    pub closure_paths: u64,
    pub closure_bytes: u64,
    pub realise: realise::Report,
    pub graph_ms: f64,
    pub derivations: usize,
    pub seconds: f64,
    /// What was asked of the package index; null where nothing was.
    pub index: Option<IndexReport>,
    /// Null where no probe was ever asked for.
    pub probe: Option<ProbeResult>,
    pub findings: Vec<Finding>,
}

impl Report {
    /// What somebody must know who takes a snapshot: what would not survive a deployment, and what is not in it or does
    /// not work though nobody asked for that.
    pub fn told(&self) -> Vec<&Finding> {
        let failed = self.failed_probe();
        told(&self.findings).into_iter().filter(|finding| Some(*finding) != failed).collect()
    }

    /// Why there is no result of a probe that was asked for.
    pub fn failed_probe(&self) -> Option<&Finding> {
        // Of the whole environment: other lines are about a pack in it, or about what to configure.
        let about_all = |f: &&Finding| f.topic == Topic::Probe && f.path.starts_with('/');
        self.findings.iter().find(about_all)
    }
}

fn told(findings: &[Finding]) -> Vec<&Finding> {
    let lost = [Topic::Secret, Topic::Probe, Topic::Imports];
    let is_told = |finding: &&Finding| match finding.severity {
        Severity::Problem => true,
        Severity::Warning => lost.contains(&finding.topic),
        Severity::Info => false,
    };
    findings.iter().filter(is_told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_were_left_out_and_failed_imports_are_told() {
        let finding = |severity, topic: Topic| Finding {
            severity,
            topic,
            path: topic.name().into(),
            message: String::new(),
        };
        let all = [
            finding(Severity::Problem, Topic::Audit),
            finding(Severity::Warning, Topic::Audit),
            finding(Severity::Warning, Topic::Imports),
            finding(Severity::Info, Topic::Imports),
            finding(Severity::Warning, Topic::Probe),
            finding(Severity::Warning, Topic::Secret),
        ];
        let paths: Vec<&str> = told(&all).iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["audit", "imports", "probe", "secret"]);
    }
}
