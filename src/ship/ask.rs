//! Questions to the agent that a host has: what it serves, its history, its log.
use crate::ship::send::Channel;
use crate::ship::ssh::{LastWords, Remote};
use crate::sys::error::{Error, Kind, Report, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

const ASK: &str = include_str!("ask.sh");
/// The script's own: no agent there.
const UNPREPARED: i32 = 97;
/// The agent's command line knows no such question (clap's status for that; the agent's own errors are 1).
const UNKNOWN: i32 = 2;
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
    ask_with(remote, arguments, &[], limit)
}

/// The same, where more is to be said than arguments may hold.
pub fn ask_with<T: DeserializeOwned>(
    remote: &Remote,
    arguments: &[&str],
    input: &[u8],
    limit: Duration,
) -> Result<T> {
    let output = remote.run(&words(arguments), input, limit)?;
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
        UNKNOWN => Err(unknown(host, arguments, &output.stderr)),
        _ => Err(told(host, &output.stderr)),
    }
}

/// The agent's own error, if what was said on the standard error ends with one: a line of JSON.
pub fn reported(host: &str, stderr: &str) -> Option<Error> {
    #[derive(Deserialize)]
    struct Line {
        error: Report,
    }
    let line = stderr.lines().rev().find_map(|line| serde_json::from_str::<Line>(line).ok())?;
    let error = Error::from(line.error).within(host);
    // What is true of the request stays so; what went wrong there is not of this machine.
    Some(match error.kind {
        Kind::Input | Kind::Busy | Kind::Interrupted => error,
        _ => error.of_kind(Kind::Host),
    })
}

/// The agent's own error, or what else was said: by sudo, by a shell.
fn told(host: &str, stderr: &str) -> Error {
    reported(host, stderr).unwrap_or_else(|| Error::new(Kind::Host, format!("{host}: {}", stderr.trim())))
}

fn unknown(host: &str, arguments: &[&str], stderr: &str) -> Error {
    let question = arguments.first().copied().unwrap_or_default();
    Error::new(Kind::Host, format!("{host}: its agent does not know the question {question:?}"))
        .caused_by(stderr.lines().next().unwrap_or_default())
        .hint("it is older than this stillframe: deploy once with this one")
}

/// A question whose answer goes on.
pub fn open(remote: &Remote, arguments: &[&str]) -> Result<(Channel, LastWords)> {
    remote.channel(&words(arguments))
}

/// Orders, in a conversation that a Ctrl-C does not end.
pub fn converse(remote: &Remote) -> Result<(Channel, LastWords)> {
    remote.conversation(&words(&["order"]))
}

/// Why such an answer ended: what the agent, or whatever was there instead, said last.
pub fn ended(host: &str, last_words: &LastWords) -> Error {
    let said = last_words.text();
    if said.is_empty() { unprepared(host) } else { told(host, &said) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_error_arrives_as_it_was() {
        let told = |error: Error| {
            let said = format!("sudo: a warning\n{}\n", serde_json::json!({"error": error.report()}));
            told("alpha", &said)
        };
        let busy = told(Error::new(Kind::Busy, "one\nat a time").hint("wait"));
        assert_eq!((busy.kind, busy.message.as_str()), (Kind::Busy, "alpha: one\nat a time"));
        assert_eq!(busy.hint.as_deref(), Some("wait"));
        let broken = told(Error::io("read", "/var/x", std::io::Error::other("gone")));
        assert_eq!((broken.kind, broken.full().as_str()), (Kind::Host, "alpha: cannot read /var/x: gone"));
    }

    #[test]
    fn an_older_agent_is_told_apart() {
        let error = unknown("alpha", &["verify"], "error: unrecognized subcommand 'verify'\n\nUsage: …\n");
        assert_eq!(
            error.full(),
            "alpha: its agent does not know the question \"verify\": error: unrecognized subcommand 'verify'"
        );
        assert!(error.hint.is_some());
    }

    #[test]
    fn what_others_say_is_shown_as_it_is() {
        let told = told("alpha", "sh: error: no such thing\n");
        assert_eq!((told.kind, told.message.as_str()), (Kind::Host, "alpha: sh: error: no such thing"));
    }
}
