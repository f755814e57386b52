//! Questions to the agents of hosts: what they serve, their history, their log; and the orders that one word
//! gives: cancel, unlock, free.
use crate::deploy::events::{Event, STREAM_VERSION};
use crate::deploy::fleet::Member;
use crate::protocol::integrity::{INTEGRITY_VERSION, Integrity};
use crate::protocol::maintenance::Maintenance;
use crate::protocol::messages::{self, Attempt, Holder, RECORD_VERSION, Record};
use crate::protocol::overview::{HostView, OVERVIEW_VERSION, Repaired};
use crate::protocol::removal::{REMOVAL_VERSION, Removal};
use crate::protocol::retention::RetentionReport;
use crate::protocol::scaling::{Change, ScalingView};
use crate::protocol::version;
use crate::protocol::wire;
use crate::ship::ask;
use crate::ship::ssh::Remote;
use crate::sys::error::{Error, Kind, Result};
use std::io::BufRead;
use std::ops::ControlFlow;
use std::time::Duration;

/// A host that is asked for its state answers at once or is in trouble.
pub const LIMIT: Duration = Duration::from_secs(30);
/// A slow disk reads a hundred gigabytes in less.
const VERIFY_LIMIT: Duration = Duration::from_secs(3600);
/// It may bring an activation to its end, and starts what should serve.
const REPAIR_LIMIT: Duration = Duration::from_secs(600);
/// It ends what was cut off before.
const RENAME_LIMIT: Duration = Duration::from_secs(600);
/// A garbage collector reads all of a store.
const COLLECT_LIMIT: Duration = Duration::from_secs(3600);

/// What a host serves; it may be asked again over the same connection.
pub fn status(remote: &Remote, service: &str) -> Result<HostView> {
    let view: HostView = ask::ask(remote, &["status", service], LIMIT)?;
    read_as(&remote.name, view.version, OVERVIEW_VERSION)?;
    Ok(view)
}

/// A host's agent may be older or newer than this program.
fn read_as(host: &str, found: u32, reads: u32) -> Result<()> {
    version::check(found, reads).map_err(|e| {
        Error::new(Kind::Host, format!("{host}: its agent's answer is of {e}"))
            .hint("use the newer stillframe, or deploy once with this one")
    })
}

/// The newest records, newest first.
pub fn history(member: &Member, count: usize) -> Result<Vec<Record>> {
    history_on(&member.remote()?, member.service.name(), count)
}

/// The same over a connection that is there.
pub fn history_on(remote: &Remote, service: &str, count: usize) -> Result<Vec<Record>> {
    let count = count.to_string();
    let records: Vec<Record> = ask::ask(remote, &["history", service, "--count", &count], LIMIT)?;
    records.iter().try_for_each(|r| read_as(&remote.name, r.attempt.version, RECORD_VERSION))?;
    Ok(records)
}

/// Tells the deployment under way to stop; who had begun it.
pub fn cancel(member: &Member, by: &str) -> Result<Holder> {
    ask::ask(&member.remote()?, &["cancel", member.service.name(), "--by", by], LIMIT)
}

/// How the number of instances stands; with a change, what it is from now on.
/// `id`: the same on all hosts, for their histories.
pub fn scale(member: &Member, change: &Change, by: &str, id: &str) -> Result<ScalingView> {
    let [minimum, maximum] = [change.minimum, change.maximum].map(|n| n.map(|n| n.to_string()));
    let mut words = vec!["scale", member.service.name(), "--by", by, "--id", id];
    for (option, value) in [("--minimum", &minimum), ("--maximum", &maximum)] {
        words.extend(value.as_deref().into_iter().flat_map(|value| [option, value]));
    }
    words.extend(change.paused.map(|paused| if paused { "--pause" } else { "--resume" }));
    words.extend(change.reset.then_some("--reset"));
    ask::ask(&member.remote()?, &words, LIMIT)
}

/// Takes the lock away; who had it.
pub fn unlock(member: &Member) -> Result<Option<Holder>> {
    ask::ask(&member.remote()?, &["unlock", member.service.name()], LIMIT)
}

/// Makes the state of services readable again; one service, or all of the host.
pub fn repair(member: &Member, all: bool, by: &str) -> Result<Vec<Repaired>> {
    let mut words = vec!["repair", "--by", by];
    if !all {
        words.push(member.service.name());
    }
    ask::ask(&member.remote()?, &words, REPAIR_LIMIT)
}

/// What a host keeps; with `free`, it lets go of the rest.
pub fn retention(member: &Member, free: bool) -> Result<RetentionReport> {
    let mut words = vec!["retention", member.service.name()];
    if free {
        words.push("--free");
    }
    ask::ask(&member.remote()?, &words, COLLECT_LIMIT)
}

/// Everything that a host serves, of whatever project.
pub fn whole_host(member: &Member) -> Result<HostView> {
    let view: HostView = ask::ask(&member.remote()?, &["status"], LIMIT)?;
    read_as(member.name(), view.version, OVERVIEW_VERSION)?;
    Ok(view)
}

pub fn begin_maintenance(member: &Member, by: &str) -> Result<Maintenance> {
    ask::ask(&member.remote()?, &["maintenance", "begin", "--by", by], LIMIT)
}

pub fn return_from_maintenance(member: &Member) -> Result<Option<Maintenance>> {
    ask::ask(&member.remote()?, &["maintenance", "return"], LIMIT)
}

pub fn end_maintenance(member: &Member) -> Result<()> {
    ask::ask::<bool>(&member.remote()?, &["maintenance", "end"], LIMIT).map(drop)
}

/// Gives a stopped service another name; whether it had another one.
pub fn rename(member: &Member, to: &str, attempt: &Attempt) -> Result<bool> {
    let mut input = Vec::new();
    wire::write_line(&mut input, attempt).map_err(|e| Error::io("write", "the attempt", e))?;
    let words = ["rename", attempt.service.as_str(), to];
    ask::ask_with(&member.remote()?, &words, &input, RENAME_LIMIT)
}

/// Takes away what `host prepare` put there.
pub fn uninstall(member: &Member) -> Result<()> {
    ask::ask::<bool>(&member.remote()?, &["uninstall"], LIMIT).map(drop)
}

/// What the removal of a service would take from a host.
pub fn removal(member: &Member, data: bool) -> Result<Removal> {
    let mut words = vec!["removal", member.service.name()];
    if data {
        words.push("--data");
    }
    let found: Removal = ask::ask(&member.remote()?, &words, LIMIT)?;
    read_as(member.name(), found.version, REMOVAL_VERSION)?;
    Ok(found)
}

/// Reads every file of what a host serves, and of its agent.
pub fn verify(member: &Member) -> Result<Integrity> {
    let found: Integrity = ask::ask(&member.remote()?, &["verify"], VERIFY_LIMIT)?;
    read_as(member.name(), found.version, INTEGRITY_VERSION)?;
    Ok(found)
}

/// What was heard of a deployment to the end of the line.
#[derive(Debug, Clone)]
pub struct Followed {
    pub attempt: Attempt,
    pub last: Option<messages::Event>,
}

impl Followed {
    /// What came of it, if it has ended.
    pub fn outcome(&self) -> Option<&messages::Outcome> {
        self.last.as_ref()?.outcome.as_ref()
    }
}

/// Follows the deployment under way, or shows the last one, from its first event; `heard` says whether to go on.
pub fn follow(member: &Member, heard: impl FnMut(Event) -> ControlFlow<()>) -> Result<Followed> {
    follow_on(&member.remote()?, member.service.name(), heard)
}

/// The same over a connection that is there.
pub fn follow_on(
    remote: &Remote,
    service: &str,
    mut heard: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Followed> {
    let name = remote.name.as_str();
    let (mut channel, last_words) = ask::open(remote, &["follow", service])?;
    let lost =
        |e: std::io::Error| Error::new(Kind::Host, format!("{name}: the connection ended")).caused_by(e);
    let Some(attempt) = wire::read_line::<Attempt>(&mut channel.input).map_err(lost)? else {
        return Err(ask::ended(name, &last_words));
    };
    read_as(name, attempt.version, RECORD_VERSION)?;
    let first = Event::Attempt { version: STREAM_VERSION, host: name.into(), attempt: attempt.clone() };
    let mut followed = Followed { attempt, last: None };
    if heard(first).is_break() {
        return Ok(followed);
    }
    while let Some(event) = wire::read_line::<messages::Event>(&mut channel.input).map_err(lost)? {
        followed.last = Some(event.clone());
        if heard(Event::Event { host: name.into(), event }).is_break() {
            break;
        }
    }
    Ok(followed)
}

/// Which part of a log.
#[derive(Debug, Clone, Copy)]
pub struct LogOf<'a> {
    /// An instance, `gateway` or `activation`; all without one.
    pub part: Option<&'a str>,
    /// How many lines to begin with.
    pub lines: u32,
    /// Goes on with what comes.
    pub follow: bool,
    /// Each line a JSON document of the journal.
    pub json: bool,
}

/// Reads a log; `heard` says whether to go on.
pub fn log(member: &Member, of: LogOf, mut heard: impl FnMut(&str) -> ControlFlow<()>) -> Result<()> {
    let remote = member.remote()?;
    let lines = of.lines.to_string();
    let mut words = vec!["logs", member.service.name()];
    words.extend(of.part);
    words.extend(["-n", &lines]);
    words.extend(of.follow.then_some("-f"));
    words.extend(of.json.then_some("--json"));
    let (mut channel, last_words) = ask::open(&remote, &words)?;
    let mut any = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = channel.input.read_until(b'\n', &mut line);
        if read.map_err(|e| Error::io("read the log of", member.name(), e))? == 0 {
            break;
        }
        any = true;
        if heard(String::from_utf8_lossy(&line).trim_end_matches('\n')).is_break() {
            return Ok(());
        }
    }
    if !any && !last_words.text().is_empty() {
        return Err(ask::ended(member.name(), &last_words));
    }
    Ok(())
}
