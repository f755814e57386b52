//! The record of each attempt: one file of JSON lines, appended to and synced before the step that a line
//! speaks of is taken. The last line has the outcome; a record without one was cut off.
use crate::host::layout::Service;
use crate::protocol::messages::{Attempt, AttemptKind, Event, Outcome, RECORD_VERSION, Record, Status};
use crate::protocol::version;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    attempt: u64,
}

fn file_of(service: &Service, attempt: u64) -> PathBuf {
    service.attempts().join(format!("{attempt:06}.jsonl"))
}

/// The numbers of all attempts, oldest first.
pub fn numbers(service: &Service) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(service.attempts()) else { return Vec::new() };
    let mut found: Vec<u64> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_suffix(".jsonl")?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

impl Journal {
    /// Opens the record of a new attempt, whose number is set here.
    pub fn begin(service: &Service, attempt: Attempt) -> Result<(Journal, Attempt)> {
        let folder = service.attempts();
        fs::create_dir_all(&folder).map_err(|e| Error::io("create directory", &folder, e))?;
        let number = numbers(service).last().map_or(1, |n| n + 1);
        let attempt = Attempt { version: RECORD_VERSION, attempt: number, began: clock::now_ms(), ..attempt };
        let path = file_of(service, number);
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        let mut journal = Journal { file, path, attempt: number };
        journal.line(&attempt).inspect_err(|_| drop(fs::remove_file(&journal.path)))?;
        files::sync_dir(&folder)?;
        Ok((journal, attempt))
    }

    /// Goes on with a record.
    pub fn reopen(service: &Service, attempt: u64) -> Result<Journal> {
        let path = file_of(service, attempt);
        let mut file =
            File::options().read(true).append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        // A line that a power loss cut must not swallow the next one.
        let mut last = [b'\n'];
        if file.metadata().is_ok_and(|m| m.len() > 0) {
            let read = file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last));
            read.map_err(|e| Error::io("read", &path, e))?;
        }
        let mut journal = Journal { file, path, attempt };
        if last != *b"\n" {
            journal.write(b"\n")?;
        }
        Ok(journal)
    }

    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    pub fn event(&mut self, status: Status, text: &str, bytes: Option<(u64, u64)>) -> Result<Event> {
        let event = Event { at: clock::now_ms(), status, text: text.into(), bytes, outcome: None };
        self.line(&event)?;
        Ok(event)
    }

    pub fn end(&mut self, outcome: &Outcome) -> Result<Event> {
        let text = match (&outcome.error, outcome.generation) {
            (Some(error), _) => error.clone(),
            (None, Some(generation)) => format!("generation {generation} serves"),
            (None, None) => "nothing serves".into(),
        };
        let event = Event {
            at: clock::now_ms(),
            status: outcome.status,
            text,
            bytes: None,
            outcome: Some(outcome.clone()),
        };
        self.line(&event)?;
        Ok(event)
    }

    fn line(&mut self, value: &impl serde::Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec(value).map_err(|e| Error::io("write", &self.path, e.into()))?;
        bytes.push(b'\n');
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let before = self.file.metadata().map_err(|e| Error::io("look at", &self.path, e))?.len();
        if let Err(e) = self.file.write_all(bytes) {
            // What came of it would swallow the next line.
            let _ = self.file.set_len(before);
            return Err(Error::io("write", &self.path, e));
        }
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }
}

/// Keeps the record for one process: whoever brings its attempt to an end. Nothing is written for that, so it
/// works where there is no space.
pub fn keep(service: &Service, attempt: u64) -> Result<File> {
    let path = file_of(service, attempt);
    let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
    file.lock().map_err(|e| Error::io("lock", &path, e))?;
    Ok(file)
}

/// Reads a record. A line that is cut off, or is damaged, is as if it had not been written.
pub fn read(service: &Service, attempt: u64) -> Result<Record> {
    let path = file_of(service, attempt);
    let bytes = files::read(&path)?;
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let head = match lines.next().and_then(|line| serde_json::from_slice::<serde_json::Value>(line).ok()) {
        Some(head) => read_head(head).map_err(|why| {
            Error::new(Kind::Io, format!("{} is not a deployment's record: {why}", path.display()))
                .hint("a newer stillframe wrote it: deploy with that one")
        })?,
        // Power was lost while it was begun: it did nothing. Or the disk lost it: what it did is in the state.
        None => lost_head(service, attempt),
    };
    let events = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    Ok(Record { attempt: head, events })
}

fn read_head(head: serde_json::Value) -> std::result::Result<Attempt, String> {
    version::check_document(&head, RECORD_VERSION).map_err(|e| e.to_string())?;
    serde_json::from_value(head).map_err(|e| e.to_string())
}

fn lost_head(service: &Service, attempt: u64) -> Attempt {
    Attempt {
        version: RECORD_VERSION,
        attempt,
        service: service.name.clone(),
        deployment: String::new(),
        kind: AttemptKind::Deploy,
        by: "unknown".into(),
        snapshot: None,
        label: None,
        hosts: Vec::new(),
        began: 0,
        project: None,
        take_over: false,
    }
}

/// The newest records, newest first.
pub fn newest(service: &Service, count: usize) -> Result<Vec<Record>> {
    numbers(service).into_iter().rev().take(count).map(|n| read(service, n)).collect()
}

/// Reads on where an earlier look stopped: for those who follow a record while it is written.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// It stays open: a service that is removed takes its records with it, and the last line is still to be read.
    file: Option<File>,
    at: u64,
}

impl Follower {
    /// From the first event, or only from those written from now on.
    pub fn new(service: &Service, attempt: u64, from_now: bool) -> Follower {
        let path = file_of(service, attempt);
        let at = if from_now { fs::metadata(&path).map_or(0, |m| m.len()) } else { 0 };
        Follower { file: File::open(&path).ok(), path, at }
    }

    pub fn more(&mut self) -> Result<Vec<Event>> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path).map_err(|e| Error::io("open", &self.path, e))?,
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.at))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(|e| Error::io("read", &self.path, e))?;
        self.file = Some(file);
        // Only whole lines; the rest is still being written.
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.at += whole as u64;
        let lines = bytes[..whole].split(|b| *b == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::Layout;
    use std::path::Path;

    fn attempt() -> Attempt {
        Attempt { by: "a@b".into(), deployment: "d1".into(), ..lost_head(&service(Path::new("/x")), 0) }
    }

    fn service(state: &Path) -> Service {
        Layout::new(state).service("demo")
    }

    #[test]
    fn a_record_is_numbered_followed_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let (mut one, begun) = Journal::begin(&service, attempt()).unwrap();
        assert_eq!(begun.attempt, 1);
        let mut follower = Follower::new(&service, 1, false);
        one.event(Status::Queued, "waiting", None).unwrap();
        assert_eq!(follower.more().unwrap()[0].text, "waiting");
        assert_eq!(follower.more().unwrap(), []);
        one.event(Status::Copying, "", Some((1, 2))).unwrap();
        assert_eq!(follower.more().unwrap()[0].bytes, Some((1, 2)));
        assert_eq!(read(&service, 1).unwrap().status(), Status::Copying);
        let outcome = Outcome::succeeded(4, None);
        one.end(&outcome).unwrap();
        let record = read(&service, 1).unwrap();
        assert_eq!((record.outcome(), record.attempt.by.as_str()), (Some(&outcome), "a@b"));
        assert_eq!(Journal::begin(&service, attempt()).unwrap().1.attempt, 2);
        assert_eq!(newest(&service, 1).unwrap()[0].attempt.attempt, 2);
    }

    #[test]
    fn one_damaged_byte_costs_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let (mut journal, _) = Journal::begin(&service, attempt()).unwrap();
        for text in ["one", "two", "three"] {
            journal.event(Status::Starting, text, None).unwrap();
        }
        journal.end(&Outcome::succeeded(4, None)).unwrap();
        let path = file_of(&service, 1);
        for (at, lines) in [("\"two\"", 3), ("\"by\"", 4)] {
            let mut bytes = fs::read(&path).unwrap();
            let place = bytes.windows(at.len()).position(|w| w == at.as_bytes()).unwrap();
            let whole = bytes.clone();
            bytes[place + 1] = 0xff;
            fs::write(&path, &bytes).unwrap();
            let record = read(&service, 1).unwrap();
            assert_eq!((record.events.len(), record.outcome().is_some()), (lines, true), "{at}");
            fs::write(&path, whole).unwrap();
        }
    }

    #[test]
    fn a_cut_line_is_not_there_and_swallows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let (mut journal, _) = Journal::begin(&service, attempt()).unwrap();
        journal.event(Status::Starting, "one", None).unwrap();
        let path = file_of(&service, 1);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"at\":1,\"status\":\"che").unwrap();
        assert_eq!(read(&service, 1).unwrap().events.len(), 1);
        Journal::reopen(&service, 1).unwrap().event(Status::Checking, "two", None).unwrap();
        let record = read(&service, 1).unwrap();
        assert_eq!(record.events.iter().map(|e| e.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    }
}
