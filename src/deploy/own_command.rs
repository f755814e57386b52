//! A command of this program in a process of its own, and what it came to: `watch` does by it what its keys ask for.
use crate::deploy::events::{Ended, Event, Failure, Line};
use crate::protocol::messages::Status;
use crate::sys::error::{Error, Kind, Result};
use serde::Deserialize;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::NamedTempFile;

/// `stillframe WORD --json` for the configuration and the hosts that this process was given.
pub fn command(word: &str, config: Option<&Path>, hosts: Option<&str>) -> Result<Command> {
    let program = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let mut command = Command::new(program);
    command.args(["--json", word]);
    command.args(config.into_iter().flat_map(|config| [Path::new("--config"), config]));
    command.args(hosts.into_iter().flat_map(|hosts| ["--hosts", hosts]));
    Ok(command)
}

/// A command that is under way.
pub struct Running {
    word: &'static str,
    child: Child,
    log: NamedTempFile,
}

/// Begins `stillframe WORD --json`. It writes to a file, and has a process group of its own: it goes on to its end when
/// whoever began it is gone.
pub fn begin(word: &'static str, config: Option<&Path>, hosts: Option<&str>) -> Result<Running> {
    let cannot = |e| Error::new(Kind::Io, format!("cannot run {word}")).caused_by(e);
    let log = NamedTempFile::new().map_err(cannot)?;
    let (out, err) = (log.reopen().map_err(cannot)?, log.reopen().map_err(cannot)?);
    let mut command = command(word, config, hosts)?;
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    Ok(Running { word, child: command.spawn().map_err(cannot)?, log })
}

impl Running {
    /// Waits for its end: what it came to, in a line.
    pub fn outcome(mut self) -> String {
        match self.child.wait() {
            Ok(_) => outcome(self.word, &std::fs::read_to_string(self.log.path()).unwrap_or_default()),
            Err(e) => format!("cannot wait for {}: {e}", self.word),
        }
    }
}

/// What a command came to, from its JSON: one document, or a stream whose last line is the result.
fn outcome(word: &str, text: &str) -> String {
    let found = trouble(text).or_else(|| text.lines().rev().find_map(trouble));
    match found {
        None => format!("{word} ended without a word"),
        Some(None) => format!("{word} is done"),
        Some(Some(error)) => format!("{word}: {error}"),
    }
}

/// The document of a command that asked each host.
#[derive(Deserialize)]
struct Answers {
    hosts: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    host: String,
    error: Option<Failure>,
}

/// The first thing that went wrong; none of a text that is no result.
fn trouble(text: &str) -> Option<Option<String>> {
    match Line::read(text) {
        Some(Line::Error { error }) => return Some(Some(error.message)),
        Some(Line::Event(event)) => {
            let Event::Result(Ended::Deployment { hosts, .. }) = *event else { return None };
            let failed = hosts.into_iter().find(|host| host.status != Status::Succeeded);
            return Some(failed.map(|host| format!("{}: {}", host.host, host.error.unwrap_or_default())));
        }
        None => {}
    }
    let answers: Answers = serde_json::from_str(text).ok()?;
    let error = |answer: Answer| Some(format!("{}: {}", answer.host, answer.error?.message));
    Some(answers.hosts.into_iter().find_map(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_came_to() {
        let of = |text: &str| outcome("rollback", text);
        let begin = r#"{"type":"begin","version":1,"deployment":"d","rollback":"previous","hosts":["a"]}"#;
        let host = |status: &str, more: &str| {
            format!(
                r#"{{"type":"result","deployment":"d","failed":0,"seconds":1.0,"hosts":[{{"host":"a","status":"{status}","generation":1,"hint":null,"on_host":true,{more}}}]}}"#
            )
        };
        let good = host("succeeded", r#""error":null"#);
        assert_eq!(of(&format!("{begin}\n{good}\n")), "rollback is done");
        // It is done: that something is left behind is no failure.
        let warned = host("succeeded", r#""error":"an old unit did not stop""#);
        assert_eq!(of(&format!("{begin}\n{warned}\n")), "rollback is done");
        let bad = host("failed", r#""error":"it is not there""#);
        assert_eq!(of(&format!("{begin}\n{bad}\n")), "rollback: a: it is not there");
        let error = r#"{"kind": "host", "message": "m", "causes": [], "hint": null}"#;
        assert_eq!(of(&format!("{begin}\n{{\"error\": {error}}}\n")), "rollback: m");
        assert_eq!(of(&format!("{{\n \"error\": {error}\n}}\n")), "rollback: m");
        assert_eq!(of(begin), "rollback ended without a word");
        let cancel =
            |answer: &str| outcome("cancel", &format!("{{\n\"version\": 1, \"hosts\": [{answer}]\n}}\n"));
        assert_eq!(cancel(&format!(r#"{{"host": "a", "error": {error}}}"#)), "cancel: a: m");
        assert_eq!(cancel(r#"{"host": "a", "cancelled": {}}"#), "cancel is done");
        assert_eq!(of(""), "rollback ended without a word");
    }
}
