//! Questions to hosts about the jobs that their gateways own.
use crate::deploy::fleet::Member;
use crate::protocol::jobs::{JobDetail, JobRow, JobsAnswer, JobsAsk, JobsLine};
use crate::protocol::wire;
use crate::ship::ask;
use crate::ship::send::Channel;
use crate::ship::ssh::LastWords;
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
    Error::new(Kind::Host, format!("{}: the agent answered something else than was asked", member.name()))
        .hint("it may be of another version: deploy once with this stillframe")
}

/// The lines of an answer that goes on.
struct Lines {
    channel: Channel,
    last_words: LastWords,
}

impl Lines {
    fn of(member: &Member, words: &[&str]) -> Result<Lines> {
        let all: Vec<&str> =
            ["jobs", member.service.name()].into_iter().chain(words.iter().copied()).collect();
        let (channel, last_words) = ask::open(&member.remote()?, &all)?;
        Ok(Lines { channel, last_words })
    }

    /// The next one. That it ends is an error: what comes last says so.
    fn next(&mut self, host: &str) -> Result<JobsLine> {
        let lost =
            |e: std::io::Error| Error::new(Kind::Host, format!("{host}: the connection ended")).caused_by(e);
        match wire::read_line(&mut self.channel.input).map_err(lost)? {
            Some(line) => Ok(line),
            None => Err(ask::ended(host, &self.last_words)),
        }
    }
}

/// Every job with its bodies, oldest first; how many there were.
pub fn export(
    member: &Member,
    since: Option<u64>,
    mut heard: impl FnMut(JobDetail) -> ControlFlow<()>,
) -> Result<u64> {
    let since = since.map(|since| since.to_string());
    let mut words = vec!["export"];
    words.extend(since.iter().flat_map(|since| ["--since", since]));
    let mut lines = Lines::of(member, &words)?;
    let mut count = 0;
    loop {
        match lines.next(member.name())? {
            JobsLine::Job { job } => {
                count += 1;
                if heard(*job).is_break() {
                    return Ok(count);
                }
            }
            JobsLine::End { jobs } if jobs == count => return Ok(count),
            _ => return Err(other(member)),
        }
    }
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
        match lines.next(member.name())? {
            JobsLine::Changed { job } => {
                if heard(*job).is_break() {
                    return Ok(());
                }
            }
            _ => return Err(other(member)),
        }
    }
}

/// A copy of the database, into a file that is not there yet: it has its name once it is whole. Says how many bytes it has.
pub fn backup(member: &Member, to: &Path) -> Result<u64> {
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
    let copied = receive(member, file, beside)
        .and_then(|bytes| std::fs::rename(beside, to).map(|()| bytes).map_err(|e| Error::io("write", to, e)));
    if copied.is_err() {
        // Half a copy is none; why it is one is said.
        let _ = std::fs::remove_file(beside);
    }
    copied
}

fn receive(member: &Member, mut file: File, path: &Path) -> Result<u64> {
    let host = member.name();
    let mut lines = Lines::of(member, &["backup"])?;
    let JobsLine::Backup { bytes } = lines.next(host)? else { return Err(other(member)) };
    let mut left = bytes;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = lines.channel.input.read(&mut buffer[..most]);
        let read = read.map_err(|e| Error::io("read the jobs of", host, e))?;
        if read == 0 {
            return Err(ask::ended(host, &lines.last_words));
        }
        file.write_all(&buffer[..read]).map_err(|e| Error::io("write", path, e))?;
        left -= read as u64;
    }
    file.sync_all().map_err(|e| Error::io("write", path, e))?;
    Ok(bytes)
}
