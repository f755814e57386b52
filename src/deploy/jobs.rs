//! Questions to hosts about the jobs that their gateways own.
use crate::deploy::fleet::Member;
use crate::protocol::jobs::{JobDetail, JobRow, JobsAnswer, JobsAsk, JobsLine};
use crate::protocol::wire;
use crate::ship::ask;
use crate::ship::send::Channel;
use crate::ship::ssh::{LastWords, Remote};
use crate::sys::error::{Error, Kind, Result};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Ten thousand jobs may be meant.
const LIMIT: Duration = Duration::from_secs(120);

pub fn ask(member: &Member, ask: &JobsAsk) -> Result<JobsAnswer> {
    let mut question = Vec::new();
    wire::write_line(&mut question, ask)
        .map_err(|e| Error::new(Kind::Io, "cannot write the question").caused_by(e))?;
    ask::ask_with(&member.remote()?, &["jobs", member.service.name(), "ask"], &question, LIMIT)
}

/// An answer to another question.
pub fn other(member: &Member) -> Error {
    another(member.name())
}

fn another(host: &str) -> Error {
    Error::new(Kind::Host, format!("{host}: the agent answered something else than was asked"))
        .hint("it may be of another version: deploy once with this stillframe")
}

/// An answer that goes on, a line at a time.
struct Lines {
    channel: Channel,
    last_words: LastWords,
    /// Whether any was heard: the agent is there.
    any: bool,
    /// The connection that the channel is in: it ends with this.
    _remote: Option<Remote>,
}

impl Lines {
    fn of(member: &Member, words: &[&str]) -> Result<Lines> {
        let all: Vec<&str> =
            ["jobs", member.service.name()].into_iter().chain(words.iter().copied()).collect();
        let remote = member.remote()?;
        let (channel, last_words) = ask::open(&remote, &all)?;
        Ok(Lines { channel, last_words, any: false, _remote: Some(remote) })
    }

    /// The next one. That there is none is an error: the last one says that it is.
    fn next(&mut self) -> Result<JobsLine> {
        let line = wire::read_line(&mut self.channel.input).map_err(|e| self.cut().caused_by(e))?;
        self.any |= line.is_some();
        line.ok_or_else(|| self.ended())
    }

    fn cut(&self) -> Error {
        let text = format!("{}: the connection ended before the answer did", self.channel.host);
        Error::new(Kind::Host, text).hint("run the command again")
    }

    fn ended(&self) -> Error {
        if self.any && self.last_words.text().is_empty() {
            return self.cut();
        }
        ask::ended(&self.channel.host, &self.last_words)
    }

    fn other(&self) -> Error {
        another(&self.channel.host)
    }

    fn export(&mut self, mut heard: impl FnMut(JobDetail) -> ControlFlow<()>) -> Result<u64> {
        let mut count = 0;
        loop {
            match self.next()? {
                JobsLine::Job { job } => {
                    count += 1;
                    if heard(*job).is_break() {
                        return Ok(count);
                    }
                }
                JobsLine::End { jobs } if jobs == count => return Ok(count),
                _ => return Err(self.other()),
            }
        }
    }

    /// A database, into `file`, whose path is `path`.
    fn backup(&mut self, mut file: File, path: &Path) -> Result<u64> {
        let JobsLine::Backup { bytes } = self.next()? else { return Err(self.other()) };
        let mut left = bytes;
        let mut buffer = vec![0; 256 << 10];
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.channel.input.read(&mut buffer[..most]).map_err(|e| self.cut().caused_by(e))?;
            if read == 0 {
                return Err(self.ended());
            }
            file.write_all(&buffer[..read]).map_err(|e| Error::io("write", path, e))?;
            left -= read as u64;
        }
        file.sync_all().map_err(|e| Error::io("write", path, e))?;
        Ok(bytes)
    }
}

/// Every job with its bodies, oldest first; how many there were.
pub fn export(
    member: &Member,
    since: Option<u64>,
    heard: impl FnMut(JobDetail) -> ControlFlow<()>,
) -> Result<u64> {
    let since = since.map(|since| since.to_string());
    let mut words = vec!["export"];
    words.extend(since.iter().flat_map(|since| ["--since", since]));
    Lines::of(member, &words)?.export(heard)
}

/// The newest `limit` jobs and then each that changes, for as long as `heard` goes on.
pub fn watch(
    member: &Member,
    owner: Option<&str>,
    limit: u64,
    mut heard: impl FnMut(JobRow) -> ControlFlow<()>,
) -> Result<()> {
    let limit = limit.to_string();
    let mut words = vec!["watch", "--limit", &limit];
    words.extend(owner.iter().flat_map(|owner| ["--owner", owner]));
    let mut lines = Lines::of(member, &words)?;
    loop {
        let JobsLine::Changed { job } = lines.next()? else { return Err(lines.other()) };
        if heard(*job).is_break() {
            return Ok(());
        }
    }
}

/// A copy of the database, into a file that is not there yet: it has its name once it is whole. Says how many bytes it has.
pub fn backup(member: &Member, to: &Path) -> Result<u64> {
    into_file(to, |file, path| Lines::of(member, &["backup"])?.backup(file, path))
}

fn into_file(to: &Path, fill: impl FnOnce(File, &Path) -> Result<u64>) -> Result<u64> {
    if to.symlink_metadata().is_ok() {
        return Err(Error::new(Kind::Input, format!("{} is there already", to.display()))
            .hint("name a file that is not, or move it away"));
    }
    let mut beside = to.as_os_str().to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = Path::new(&beside);
    let failed = |e: std::io::Error| Error::io("write", beside, e);
    // Prompts may hold what is nobody else's.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside).map_err(failed)?;
    let copied = fill(file, beside)
        .and_then(|bytes| std::fs::rename(beside, to).map(|()| bytes).map_err(|e| Error::io("write", to, e)));
    if copied.is_err() {
        // Half a copy is none; why it is one is said.
        let _ = std::fs::remove_file(beside);
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Cursor;

    fn lines(wire: Vec<u8>) -> Lines {
        let channel = Channel {
            input: Box::new(Cursor::new(wire)),
            output: Box::new(std::io::sink()),
            host: "alpha".into(),
        };
        Lines { channel, last_words: LastWords::default(), any: false, _remote: None }
    }

    fn job(seq: u64) -> serde_json::Value {
        json!({"type": "job", "job": {"id": seq.to_string(), "seq": seq, "state": "queued", "priority": 0, "number": 1.0,
            "owner": "o", "accepted": 1, "tries": []}})
    }

    #[test]
    fn an_export_that_is_cut_is_no_whole_one() {
        let wire = |lines: &[serde_json::Value]| {
            lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect::<Vec<u8>>()
        };
        let export = |wire: Vec<u8>| {
            let mut seen = Vec::new();
            let end = lines(wire).export(|job| {
                seen.push(job.row.seq);
                ControlFlow::Continue(())
            });
            (seen, end.map_err(|e| e.message))
        };
        let end = |jobs| json!({"type": "end", "jobs": jobs});
        assert_eq!(export(wire(&[job(1), job(2), end(2)])), (vec![1, 2], Ok(2)));
        let cut = "alpha: the connection ended before the answer did";
        assert_eq!(export(wire(&[job(1)])), (vec![1], Err(cut.into())));
        assert_eq!(export(b"{\"type\":\"jo".to_vec()), (vec![], Err(cut.into())));
        let (_, fewer) = export(wire(&[job(1), end(2)]));
        assert!(fewer.unwrap_err().contains("something else"));
        // Nothing at all: there is no agent.
        assert_eq!(export(Vec::new()).1, Err("alpha is not prepared".into()));
    }

    #[test]
    fn half_a_database_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("jobs.sqlite");
        let sent = |bytes: &[u8]| {
            let mut wire = b"{\"type\":\"backup\",\"bytes\":5}\n".to_vec();
            wire.extend(bytes);
            into_file(&to, |file, path| lines(wire).backup(file, path))
        };
        let error = sent(b"abc").unwrap_err();
        assert_eq!(error.message, "alpha: the connection ended before the answer did");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(sent(b"abcde").unwrap(), 5);
        assert_eq!(std::fs::read(&to).unwrap(), b"abcde");
        let error = sent(b"abcde").unwrap_err();
        assert_eq!((error.kind, error.message), (Kind::Input, format!("{} is there already", to.display())));
    }
}
