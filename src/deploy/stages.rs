//! The stages of a rollout: a few hosts first, then the others in batches; and how many may be missing. Pure.
use crate::protocol::spec::Rotation;
use crate::ship::config::{RolloutConfig, Share};
use crate::sys::error::{Error, Kind, Result};
use std::ops::Range;

/// The hosts of each stage, as ranges of their list.
pub fn stages(config: &RolloutConfig, hosts: usize, missing: usize, rotation: Rotation) -> Vec<Range<usize>> {
    let canary = (config.canary.unwrap_or(1) as usize).min(hosts);
    let mut batch = config.batch.unwrap_or(Share::Percent(25)).of(hosts).max(1);
    if rotation == Rotation::Replace {
        // Each of them serves nothing for a while, as those do that are missing.
        let left = allowed(config, hosts + missing).saturating_sub(missing);
        batch = batch.min(left.max(1));
    }
    let mut stages = Vec::new();
    let mut at = 0;
    if canary > 0 {
        stages.push(0..canary);
        at = canary;
    }
    while at < hosts {
        let end = (at + batch).min(hosts);
        stages.push(at..end);
        at = end;
    }
    stages
}

/// How many of so many hosts may be missing.
pub fn allowed(config: &RolloutConfig, hosts: usize) -> usize {
    config.max_unavailable.unwrap_or(Share::Percent(50)).of(hosts)
}

/// Whether traffic may move with so many hosts that are not there.
pub fn enough(config: &RolloutConfig, missing: usize, all: usize) -> Result<()> {
    let limit = allowed(config, all);
    if missing <= limit {
        return Ok(());
    }
    Err(Error::new(
        Kind::Host,
        format!(
            "{missing} of {all} hosts cannot be deployed to; at most {limit} may be missing ([rollout] max-unavailable)"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_first_then_batches() {
        let plan = |text: &str, hosts, missing, rotation| {
            let config: RolloutConfig = toml::from_str(text).unwrap();
            stages(&config, hosts, missing, rotation).into_iter().map(|r| r.len()).collect::<Vec<_>>()
        };
        let surge = Rotation::Surge;
        assert_eq!(plan("", 1, 0, surge), [1]);
        assert_eq!(plan("", 2, 0, surge), [1, 1]);
        assert_eq!(plan("", 9, 0, surge), [1, 2, 2, 2, 2]);
        assert_eq!(plan("canary = 0\nbatch = \"100%\"", 9, 0, surge), [9]);
        assert_eq!(plan("canary = 2\nbatch = 5", 9, 0, surge), [2, 5, 2]);
        assert_eq!(plan("canary = 5", 3, 0, surge), [3]);
        // No more than half of them without service at once, and three are down already.
        assert_eq!(plan("batch = 8", 7, 3, Rotation::Replace), [1, 2, 2, 2]);
        assert_eq!(plan("batch = 8\nmax-unavailable = 0", 3, 0, Rotation::Replace), [1, 1, 1]);
    }

    #[test]
    fn how_many_may_be_missing() {
        let limit = |text: &str, hosts| allowed(&toml::from_str(text).unwrap(), hosts);
        assert_eq!((limit("", 2), limit("", 1), limit("max-unavailable = 3", 9)), (1, 0, 3));
    }
}
