//! Questions to the agent that a host has: what it serves, its history, its log.
use crate::ship::send::Channel;
use crate::ship::ssh::{LastWords, Remote};
use crate::sys::error::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use std::time::Duration;

const ASK: &str = include_str!("ask.sh");
/// The script's own: no agent there.
const UNPREPARED: i32 = 97;
/// No root's rights for it.
const NO_RIGHTS: i32 = 98;

fn unprepared(host: &str) -> Error {
    Error::new(Kind::Host, format!("{host} is not prepared")).hint(format!("stillframe host prepare {host}"))
}

fn words<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    ["sh", "-c", ASK, "sh"].into_iter().chain(arguments.iter().copied()).collect()
}

/// Asks, and reads the JSON of the answer.
pub fn ask<T: DeserializeOwned>(remote: &Remote, arguments: &[&str], limit: Duration) -> Result<T> {
    let output = remote.run(&words(arguments), &[], limit)?;
    let host = &remote.name;
    match output.code {
        0 => serde_json::from_slice(&output.stdout).map_err(|e| {
            Error::new(Kind::Host, format!("{host}: the agent answered something else than was asked"))
                .caused_by(e)
                .hint("it may be of another version: deploy once with this stillframe")
        }),
        UNPREPARED => Err(unprepared(host)),
        NO_RIGHTS => Err(Error::new(Kind::Host, format!("{host}: no root's rights: {}", output.stderr))
            .hint("let the user run the agent by sudo without a password, or deploy as root")),
        _ => Err(told(host, &output.stderr)),
    }
}

/// The agent's own error, with its hint.
fn told(host: &str, stderr: &str) -> Error {
    let line = |key: &str| stderr.lines().find_map(|l| l.trim().strip_prefix(key)).map(str::to_string);
    let message = line("error: ").unwrap_or_else(|| stderr.trim().to_string());
    let cause = line("because: ").map(|c| format!(": {c}")).unwrap_or_default();
    let error = Error::new(Kind::Host, format!("{host}: {message}{cause}"));
    match line("hint: ") {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// A question whose answer goes on.
pub fn open(remote: &Remote, arguments: &[&str]) -> Result<(Channel, LastWords)> {
    remote.channel(&words(arguments))
}

/// Why such an answer ended, where it says nothing itself.
pub fn ended(host: &str, last_words: &LastWords) -> Error {
    let said = last_words.text();
    if said.is_empty() { unprepared(host) } else { told(host, &said) }
}
