//! What keys of `watch` do: the commands of the same names, each a process of its own.
use super::model::{Act, News};
use crate::deploy::events::{Ended, Event, Failure, Line};
use crate::protocol::messages::Status;
use serde::Deserialize;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;

/// Keys do what the commands of the same names do, by those commands.
pub struct Commands {
    pub config: Option<PathBuf>,
    pub hosts: Option<String>,
    pub tell: Sender<News>,
}

impl Commands {
    pub fn begin(&mut self, act: Act) {
        let tell = self.tell.clone();
        let told = |text: String| News::Done(text);
        let program = match std::env::current_exe() {
            Ok(program) => program,
            Err(e) => {
                let _ = tell.send(told(format!("cannot find this program: {e}")));
                return;
            }
        };
        let mut command = Command::new(program);
        command.arg(act.word()).arg("--json");
        command.args(self.config.iter().flat_map(|c| [Path::new("--config"), c]));
        command.args(self.hosts.iter().flat_map(|h| ["--hosts", h]));
        // A file, and a group of its own: it goes on to its end when this screen is closed.
        let log = match tempfile::NamedTempFile::new() {
            Ok(log) => log,
            Err(e) => {
                let _ = tell.send(told(format!("cannot run {}: {e}", act.word())));
                return;
            }
        };
        let open = || log.reopen().map(Stdio::from);
        let (Ok(out), Ok(err)) = (open(), open()) else { return };
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        std::thread::spawn(move || {
            let text = match command.status() {
                Ok(_) => outcome(act, &std::fs::read_to_string(log.path()).unwrap_or_default()),
                Err(e) => format!("cannot run {}: {e}", act.word()),
            };
            // Nobody to tell: the screen is closed.
            let _ = tell.send(told(text));
        });
    }
}

/// What a command came to, from its JSON: one document, or a stream whose last line is the result.
fn outcome(act: Act, text: &str) -> String {
    let found = trouble(text).or_else(|| text.lines().rev().find_map(trouble));
    match found {
        None => format!("{} ended without a word", act.word()),
        Some(None) => format!("{} is done", act.word()),
        Some(Some(error)) => format!("{}: {error}", act.word()),
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
        let of = |text: &str| outcome(Act::RollBack, text);
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
            |answer: &str| outcome(Act::Cancel, &format!("{{\n\"version\": 1, \"hosts\": [{answer}]\n}}\n"));
        assert_eq!(cancel(&format!(r#"{{"host": "a", "error": {error}}}"#)), "cancel: a: m");
        assert_eq!(cancel(r#"{"host": "a", "cancelled": {}}"#), "cancel is done");
        assert_eq!(of(""), "rollback ended without a word");
    }
}
