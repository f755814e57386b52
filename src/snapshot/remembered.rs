//! What an earlier probe saw of an environment: a capture runs nothing and cannot see it.
use crate::capture::model::used::Used;
use crate::closure::registry::Registry;
use std::path::Path;

/// Of the newest snapshot of this environment that was probed.
pub fn used(registry: &Registry, environment: &Path) -> Option<Used> {
    // What is wrong with records is said by the commands that are about them.
    let records = registry.list().unwrap_or_default();
    let mut probes = records.into_iter().rev().filter(|record| record.environment == environment);
    probes.find_map(|record| record.probe).map(|probe| probe.used)
}
