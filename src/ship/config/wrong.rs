//! What is wrong with a configuration.

/// A key whose value cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {why}")]
pub struct Wrong {
    pub key: &'static str,
    pub why: String,
}

pub(super) fn wrong(key: &'static str, why: impl Into<String>) -> Wrong {
    Wrong { key, why: why.into() }
}
