//! `stillframe-agent jobs SERVICE …`: the jobs that a gateway owns, for `stillframe jobs` and for scripts of this host.
use crate::host::jobs::{Owner, Watch};
use crate::host::layout::Service;
use crate::protocol::control::{JobsAnswer, JobsAsk};
use crate::protocol::jobs::JobsLine;
use crate::protocol::wire;
use crate::sys::error::{Error, Kind, Result};
use clap::Subcommand;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Of a question; ten thousand ids are less.
const LONGEST: u64 = 16 << 20;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One question, a line of JSON on standard input; the answer as JSON.
    Ask,
    /// The newest jobs and then each that changes, a line of JSON each, until nobody reads.
    Watch {
        #[arg(long)]
        owner: Option<String>,
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Every job with its prompt and its history, a line of JSON each.
    Export {
        /// Accepted then or later, in milliseconds since 1970.
        #[arg(long)]
        since: Option<u64>,
    },
    /// A consistent copy of the database, while it is in use.
    Backup {
        /// A file that is not there yet; without it, to standard output, after a line of JSON with its size.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// `gone`: waits a moment, and says whether nobody reads any more.
pub fn run(service: &Service, command: &Command, gone: &dyn Fn() -> bool) -> Result<()> {
    let owner = Owner::of(service)?;
    let mut out = std::io::stdout().lock();
    let lost = |e: std::io::Error| Error::io("write to", "standard output", e);
    match command {
        Command::Ask => {
            let input = std::io::Read::take(std::io::stdin().lock(), LONGEST);
            let ask: Option<JobsAsk> = wire::read_line(&mut std::io::BufReader::new(input))
                .map_err(|e| Error::new(Kind::Input, "this is no question").caused_by(e))?;
            let ask = ask.ok_or_else(|| Error::new(Kind::Input, "there is no question"))?;
            if matches!(ask, JobsAsk::Backup { .. }) {
                return Err(Error::new(Kind::Input, "a backup is asked for with `backup`"));
            }
            let answer: JobsAnswer = owner.ask(ask)?;
            wire::write_line(&mut out, &answer).map_err(lost)
        }
        Command::Watch { owner: whose, limit } => {
            let mut watch = Watch::new(whose.clone(), *limit);
            loop {
                for job in owner.changes(&mut watch)? {
                    wire::write_line(&mut out, &JobsLine::Changed { job: Box::new(job) }).map_err(lost)?;
                }
                if gone() {
                    return Ok(());
                }
            }
        }
        Command::Export { since } => {
            let jobs = owner.export(*since, |job| {
                wire::write_line(&mut out, &JobsLine::Job { job: Box::new(job) }).map_err(lost)
            })?;
            wire::write_line(&mut out, &JobsLine::End { jobs }).map_err(lost)
        }
        Command::Backup { to: None } => {
            let (mut file, bytes) = owner.backup()?;
            wire::write_line(&mut out, &JobsLine::Backup { bytes }).map_err(lost)?;
            // Nothing writes to it any more, so it stays as long as was said.
            std::io::copy(&mut file, &mut out).and_then(|_| out.flush()).map_err(lost)
        }
        Command::Backup { to: Some(to) } => {
            let bytes = into_file(&owner, to)?;
            wire::write_line(&mut out, &json!({"file": to, "bytes": bytes})).map_err(lost)
        }
    }
}

/// Prompts may hold what is nobody else's.
fn into_file(owner: &Owner, to: &Path) -> Result<u64> {
    let failed = |e: std::io::Error| Error::io("write", to, e);
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    let written = owner.backup().and_then(|(mut file, bytes)| {
        let copied = std::io::copy(&mut file, &mut target).and_then(|_| target.sync_all());
        copied.map(|()| bytes).map_err(failed)
    });
    if written.is_err() {
        // Half a copy is none; why it is one is said.
        let _ = std::fs::remove_file(to);
    }
    written
}
