//! What a probe found out by starting the environment's own server: kept in the snapshot's record for
//! the health gate of a deployment.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackProbe {
    pub name: String,
    /// As ComfyUI prints it, in milliseconds.
    pub import_ms: u64,
    pub failed: bool,
    pub classes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Time until the server answered.
    pub ready_ms: u64,
    /// Node class and the module it comes from.
    pub classes: BTreeMap<String, String>,
    pub packs: Vec<PackProbe>,
}

/// Reads ComfyUI's own "Import times for custom nodes" lines:
/// `   0.3 seconds (IMPORT FAILED): /path/custom_nodes/name`.
pub fn import_times(log: &str) -> BTreeMap<String, (u64, bool)> {
    let mut found = BTreeMap::new();
    for line in log.lines() {
        let Some((before, path)) = line.split_once(": ") else { continue };
        let Some((head, flag)) = before.split_once(" seconds") else { continue };
        let Some(Ok(seconds)) = head.split_whitespace().last().map(str::parse::<f64>) else { continue };
        let failed = flag.contains("IMPORT FAILED");
        if !(flag.trim().is_empty() || failed) {
            continue;
        }
        if let Some(name) = path.trim().rsplit('/').next().filter(|_| path.contains('/')) {
            found.insert(name.to_string(), ((seconds * 1000.0).round() as u64, failed));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn import_times_are_read_from_the_servers_log() {
        let log = "Import times for custom nodes:\n   0.0 seconds: /e/custom_nodes/a\n   \
                   1.5 seconds (IMPORT FAILED): /e/custom_nodes/b.py\nfetched in 3 seconds: no path\n";
        let times = import_times(log);
        assert_eq!(times.len(), 2);
        assert_eq!(times["a"], (0, false));
        assert_eq!(times["b.py"], (1500, true));
    }
}
