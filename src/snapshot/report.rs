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
    /// Why there is no result of a probe that was asked for.
    pub fn failed_probe(&self) -> Option<&Finding> {
        let about_all = |f: &&Finding| f.topic == Topic::Probe && !f.path.starts_with("custom_nodes/");
        self.findings.iter().find(about_all)
    }

    /// What would not survive a deployment.
    pub fn grave(&self) -> Vec<&Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Problem).collect()
    }
}
