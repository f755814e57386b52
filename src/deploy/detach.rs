//! `deploy --detach`: the rest of the deployment in a process of its own, which no closed terminal ends. It is
//! this program again, with the snapshot that was taken; its stream of events is kept beside the deployment's
//! record.
use crate::deploy::events::{Event, Failure, Line};
use crate::deploy::own_command;
use crate::deploy::records;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use crate::words;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Tells that process the deployment's id, and that it is the one.
const VARIABLE: &str = "STILLFRAME_DETACHED";

const LOOK: Duration = Duration::from_millis(50);

/// What the other process is to deploy.
pub struct Detaching<'a> {
    pub id: &'a str,
    /// The snapshot's store path.
    pub snapshot: &'a str,
    /// As they were given to this process.
    pub config: Option<&'a Path>,
    pub hosts: Option<&'a str>,
    pub again: bool,
    pub take_over: bool,
    /// The folder of this workstation's records.
    pub state: &'a Path,
}

/// How the other process began.
#[derive(Debug, PartialEq)]
pub enum Detached {
    /// It is under way; its stream is in this file.
    GoesOn(PathBuf),
    /// It ended at once.
    Over(Said),
}

/// All that a process said that ended at once.
#[derive(Debug, Default, PartialEq)]
pub struct Said {
    pub events: Vec<Event>,
    /// The error that ended it.
    pub error: Option<Failure>,
    /// Its last lines, whatever they are.
    pub tail: Vec<String>,
}

/// The id of the deployment that this process goes on with, if it is such a one.
pub fn id() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Away from the terminal's own session, whose end would end it.
pub fn settle() {
    if id().is_some() {
        // A process that leads a group already has no terminal to lose.
        let _ = rustix::process::setsid();
    }
}

impl Detaching<'_> {
    /// Whether it begins at all is known here: nobody may look again for hours.
    pub fn begin(&self) -> Result<Detached> {
        let folder = records::folder(self.state);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create directory", &folder, e))?;
        let log = folder.join(format!("{}.log", self.id));
        let mut child = self.spawn(&log)?;
        let (mut at, mut told) = (0, false);
        loop {
            // It has a session of its own: a Ctrl-C here does not reach it.
            if check_interrupt().is_err() && !told {
                told = true;
                let pid = rustix::process::Pid::from_child(&child);
                // It may have ended by itself in this moment.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            }
            // In this order: what it said before its end is read after it.
            let ended = matches!(child.try_wait(), Ok(Some(_)));
            let (first, next) = first(&log, at)?;
            at = next;
            match first {
                Some(Event::Result(_)) => {
                    // Its end is near, and how it exits says no more than its result.
                    let _ = child.wait();
                    return said(&log).map(Detached::Over);
                }
                // Told to stop, it is waited for.
                Some(_) if !told => return Ok(Detached::GoesOn(log)),
                Some(_) => {}
                None if ended => return said(&log).map(Detached::Over),
                None => std::thread::sleep(LOOK),
            }
        }
    }

    fn spawn(&self, log: &Path) -> Result<Child> {
        let file = File::create(log).map_err(|e| Error::io("create", log, e))?;
        let copy = file.try_clone().map_err(|e| Error::io("use", log, e))?;
        let mut command = own_command::command("deploy", self.config, self.hosts)?;
        command.args(["--snapshot", self.snapshot]);
        if self.again {
            command.arg("--again");
        }
        if self.take_over {
            command.arg("--take-over");
        }
        command.env(VARIABLE, self.id).stdin(Stdio::null()).stdout(file).stderr(copy);
        command.spawn().map_err(|e| Error::new(Kind::Io, "cannot go on in the background").caused_by(e))
    }
}

/// The first plan or result from `at` on, and where to look next.
fn first(log: &Path, at: u64) -> Result<(Option<Event>, u64)> {
    let mut file = File::open(log).map_err(|e| Error::io("open", log, e))?;
    file.seek(SeekFrom::Start(at)).map_err(|e| Error::io("read", log, e))?;
    let (mut input, mut at) = (BufReader::new(file), at);
    loop {
        let mut line = String::new();
        let read = input.read_line(&mut line).map_err(|e| Error::io("read", log, e))?;
        if read == 0 || !line.ends_with('\n') {
            return Ok((None, at));
        }
        at += read as u64;
        if let Some(Line::Event(event)) = Line::read(&line)
            && matches!(*event, Event::Plan(_) | Event::Result(_))
        {
            return Ok((Some(*event), at));
        }
    }
}

fn said(log: &Path) -> Result<Said> {
    let text = std::fs::read_to_string(log).map_err(|e| Error::io("read", log, e))?;
    let lines: Vec<&str> = text.lines().collect();
    let tail = words::last_lines(&text, 5).into_iter().map(String::from).collect();
    let mut said = Said { tail, ..Said::default() };
    for line in lines.iter().filter_map(|line| Line::read(line)) {
        match line {
            Line::Event(event) => said.events.push(*event),
            Line::Error { error } => said.error = Some(error),
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str =
        r#"{"type":"begin","version":1,"deployment":"d","rollback":"previous","hosts":["a"]}"#;
    const RESULT: &str = r#"{"type":"result","dry_run":true,"failed":0}"#;
    const ERROR: &str =
        r#"{"error":{"kind":"store","message":"no store","causes":["refused"],"hint":"start it"}}"#;

    #[test]
    fn an_error_before_anything_went_on_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, format!("warning: x\n{BEGIN}\n{ERROR}\n")).unwrap();
        assert_eq!(first(&log, 0).unwrap().0, None);
        let said = said(&log).unwrap();
        assert_eq!((said.events.len(), said.tail.len()), (1, 3));
        let error = said.error.unwrap();
        assert_eq!((error.message.as_str(), error.hint.as_deref()), ("no store", Some("start it")));
    }

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (half, rest) = RESULT.split_at(9);
        std::fs::write(&log, format!("{BEGIN}\n{half}")).unwrap();
        let (none, at) = first(&log, 0).unwrap();
        assert_eq!((none, at as usize), (None, BEGIN.len() + 1));
        std::fs::write(&log, format!("{BEGIN}\n{half}{rest}\n")).unwrap();
        assert!(matches!(first(&log, at).unwrap().0, Some(Event::Result(_))));
    }
}
