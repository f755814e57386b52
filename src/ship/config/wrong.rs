//! What is wrong with a configuration, and where it stands.
use crate::protocol::launch::is_plain;
use std::path::Path;

/// A key whose value cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {why}")]
pub struct Wrong {
    pub key: &'static str,
    pub why: String,
}

impl Wrong {
    /// `FILE line N`, of the first of these files (path, text) that sets the key.
    pub fn place<'a>(&self, files: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Option<String> {
        files.into_iter().find_map(|(path, text)| {
            line_of(text, self.key).map(|line| format!("{} line {line}", path.display()))
        })
    }
}

pub(super) fn wrong(key: &'static str, why: impl Into<String>) -> Wrong {
    Wrong { key, why: why.into() }
}

/// Paths become lines of unit files.
pub(super) fn clean_path(key: &'static str, path: &str) -> Result<(), Wrong> {
    if !is_plain(path) {
        let text = format!(
            "is {path:?}: write an absolute path, without \"..\", blanks, quotes, '\\', '%', '$', ':' and ';'"
        );
        return Err(wrong(key, text));
    }
    Ok(())
}

/// The line of a key in a TOML text, from 1; none where the text does not set it in so many words.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut section = String::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_start_matches('[').split(']').next().unwrap_or_default().trim().to_string();
            continue;
        }
        let Some((name, _)) = line.split_once('=') else { continue };
        let name = name.trim();
        let full = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
        if full == key || key.strip_prefix(&full).is_some_and(|rest| rest.starts_with('.')) {
            return Some(at + 1);
        }
    }
    None
}
