//! A snapshot's closure onto one host, step by step: arrive and look, bring the agent, ask what is missing and
//! see that it fits, send it.
use crate::formats::nix::store_path::StorePath;
use crate::ship::agent::{self, Agent};
use crate::ship::gate::Gate;
use crate::ship::nix_settings::{self, NixSettings};
use crate::ship::preflight::{self, Facts, Needs, Problem};
use crate::ship::send::{self, Channel, Closure, Missing, Sent};
use crate::ship::ssh::{Remote, Target};
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Progress, Silent, check_interrupt};
use std::collections::BTreeSet;

/// Streams to a host: more than that only wait for each other, and sshd allows ten sessions a connection.
const STREAMS: usize = 4;
/// Below this, one stream is as fast and opens sooner.
const SMALL: u64 = 1 << 20;

/// What goes to every host.
pub struct Load {
    pub source: StoreConfig,
    pub agent: Agent,
    pub closure: Closure,
    /// Who is sent to at once.
    pub gate: Gate,
}

impl Load {
    /// The closure of a snapshot (an absolute store path) and the agent.
    pub fn of(source: &StoreConfig, snapshot: &str) -> Result<Load> {
        let mut store = Store::connect(source)?;
        let root = StorePath::from_absolute(&source.store_dir, snapshot)
            .map_err(|e| Error::new(Kind::Input, format!("{snapshot} is no store path")).caused_by(e))?;
        let agent = agent::add(&mut store)?;
        let closure = store.closure(&[root, agent.path.clone()])?;
        Ok(Load { source: source.clone(), agent, closure, gate: Gate::default() })
    }

    /// The agent alone.
    pub fn agent(source: &StoreConfig) -> Result<Load> {
        let mut store = Store::connect(source)?;
        let agent = agent::add(&mut store)?;
        let closure = store.closure(std::slice::from_ref(&agent.path))?;
        Ok(Load { source: source.clone(), agent, closure, gate: Gate::default() })
    }

    pub fn bytes(&self) -> u64 {
        self.closure.values().map(|info| info.nar_size).sum()
    }
}

/// A host that was looked at.
pub struct Arrived {
    pub remote: Remote,
    pub facts: Facts,
    /// The agent's end of a transfer, if this agent was there already; it has been asked what is missing.
    channel: Option<Channel>,
    /// What it answered, once that is read.
    missing: Option<Missing>,
}

/// A host that has the agent, and what it lacks. The first channel keeps everything of the closure from the
/// host's garbage collector as long as this lives.
pub struct Ready {
    pub remote: Remote,
    pub facts: Facts,
    pub missing: Missing,
    pub missing_bytes: u64,
    channel: Channel,
}

/// Says what is wrong with a host, all at once.
pub fn refuse(host: &str, problems: &[Problem]) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let whats: Vec<&str> = problems.iter().map(|p| p.what.as_str()).collect();
    let hints: Vec<&str> = problems.iter().map(|p| p.hint.as_str()).collect();
    Err(Error::new(Kind::Host, format!("{host}: {}", whats.join("; "))).hint(hints.join("; ")))
}

/// Connects and asks; changes nothing.
pub fn arrive(target: &Target, needs: &Needs, load: &Load) -> Result<Arrived> {
    greet(Remote::connect(target)?, needs, load)
}

/// The same on a connection that was made meanwhile.
pub fn greet(mut remote: Remote, needs: &Needs, load: &Load) -> Result<Arrived> {
    // What is missing is asked ahead of all answers: a round trip less. No agent, nobody reads it.
    let ask = |channel: &mut Channel| {
        let _ = send::ask_missing(channel, &load.source.store_dir.0, &load.closure);
    };
    let (facts, channel) = preflight::greet(&mut remote, needs, &load.agent.program, ask)?;
    Ok(Arrived { remote, facts, channel, missing: None })
}

/// Looks alone.
pub fn facts(target: &Target, needs: &Needs) -> Result<Facts> {
    Ok(preflight::greet(&mut Remote::connect(target)?, needs, "", |_| {})?.0)
}

/// The same; also at how Nix is set, where it is.
pub fn look(target: &Target, needs: &Needs) -> Result<(Facts, Option<NixSettings>)> {
    let mut remote = Remote::connect(target)?;
    let facts = preflight::greet(&mut remote, needs, "", |_| {})?.0;
    let settings = facts.nix.is_some().then(|| nix_settings::ask(&remote)).transpose()?;
    Ok((facts, settings))
}

impl Arrived {
    /// Whether an agent can run here at all: what must be known before one is brought.
    pub fn can_have_agent(&self, system: &str) -> Result<()> {
        let needs = Needs { system: system.into(), ..Needs::default() };
        refuse(&self.remote.name, &preflight::check(&self.facts, &needs))?;
        // Not even the agent fits on a full disk, and Nix's own words for that come too late.
        refuse(&self.remote.name, &preflight::room(&self.facts, 0, 1))
    }

    /// Whether the host's own agent is not what this program would bring under its name.
    pub fn has_wrong_agent(&mut self, load: &Load) -> Result<bool> {
        Ok(self.told_missing(load)?.is_some_and(|missing| missing.wrong.contains(&load.agent.path)))
    }

    /// What the agent answers that was asked on arrival; none where no agent heard it.
    fn told_missing(&mut self, load: &Load) -> Result<Option<&Missing>> {
        if let (Some(channel), None) = (&mut self.channel, &self.missing) {
            self.missing = Some(send::told_missing(channel, &load.closure)?);
        }
        Ok(self.missing.as_ref())
    }

    /// Brings the agent where it is not, or is not whole, and asks what else is missing.
    pub fn plan(mut self, load: &Load) -> Result<Ready> {
        self.told_missing(load)?;
        let Arrived { remote, mut facts, channel, missing } = self;
        let ask = |mut channel: Channel| {
            let missing = send::missing(&mut channel, &load.source.store_dir.0, &load.closure)?;
            Ok((channel, missing))
        };
        let (channel, missing) = match channel.zip(missing) {
            Some(asked) => asked,
            None => {
                let _place = load.gate.enter(&check_interrupt)?;
                if !agent::bring(&load.agent, &remote, &load.source)? {
                    let stopgap = agent::bring_beside(&remote)?;
                    let mended = ask(remote.channel(&[&stopgap, "receive"])?.0)
                        .and_then(|(channel, missing)| mend_agent(channel, &missing, load));
                    agent::remove_beside(&remote);
                    mended?;
                }
                ask(receiver(&remote, load)?)?
            }
        };
        let (channel, missing) = if missing.paths.contains(&load.agent.path) {
            // It runs, so it can mend itself; what follows is begun with the right one.
            let place = load.gate.enter(&check_interrupt)?;
            mend_agent(channel, &missing, load)?;
            drop(place);
            ask(receiver(&remote, load)?)?
        } else {
            (channel, missing)
        };
        if facts.broken_agent.as_deref() == Some(&load.agent.path.to_absolute(&load.source.store_dir)) {
            facts.broken_agent = None;
        }
        let missing_bytes = bytes_of(&missing, load);
        Ok(Ready { remote, facts, missing, missing_bytes, channel })
    }
}

/// Sends the agent alone, over the connection that said that it is missing.
fn mend_agent(mut channel: Channel, missing: &Missing, load: &Load) -> Result<()> {
    send_alone(&mut channel, missing, load, |path| *path == load.agent.path)
}

fn send_alone(
    channel: &mut Channel,
    missing: &Missing,
    load: &Load,
    these: impl Fn(&StorePath) -> bool,
) -> Result<()> {
    let alone = Missing {
        paths: missing.paths.iter().filter(|path| these(path)).cloned().collect(),
        partial: missing
            .partial
            .iter()
            .filter(|(path, _)| these(path))
            .map(|(p, n)| (p.clone(), *n))
            .collect(),
        wrong: missing.wrong.clone(),
    };
    let channels = std::slice::from_mut(channel);
    send::send(&load.source, &load.closure, &alone, channels, &Silent, &check_interrupt).map(drop)
}

fn bytes_of(missing: &Missing, load: &Load) -> u64 {
    let size = |p: &StorePath| load.closure.get(p).map_or(0, |i| i.nar_size);
    missing.paths.iter().map(size).sum::<u64>() - missing.partial.values().sum::<u64>()
}

fn receiver(remote: &Remote, load: &Load) -> Result<Channel> {
    Ok(remote.channel(&[&load.agent.program, "receive"])?.0)
}

impl Ready {
    /// Whether what is missing fits.
    pub fn has_room(&self) -> Result<()> {
        let paths = self.missing.paths.len() as u64;
        refuse(&self.remote.name, &preflight::room(&self.facts, self.missing_bytes, paths))
    }

    /// Asks once more: something else may have brought paths.
    pub fn ask_again(&mut self, load: &Load) -> Result<()> {
        self.missing = send::missing(&mut self.channel, &load.source.store_dir.0, &load.closure)?;
        self.missing_bytes = bytes_of(&self.missing, load);
        Ok(())
    }

    /// Sends these of the missing and what they refer to, and has the host write them to disk.
    pub fn send_these(&mut self, load: &Load, paths: &BTreeSet<StorePath>) -> Result<()> {
        let lacking: BTreeSet<&StorePath> = self.missing.paths.iter().collect();
        let mut these = BTreeSet::new();
        let mut open: Vec<&StorePath> = paths.iter().collect();
        while let Some(path) = open.pop() {
            if lacking.contains(path) && these.insert(path) {
                open.extend(load.closure.get(path).iter().flat_map(|info| &info.references));
            }
        }
        let _place = load.gate.enter(&check_interrupt)?;
        send_alone(&mut self.channel, &self.missing, load, |path| these.contains(path))?;
        send::settle(&mut self.channel, these)
    }

    /// Sends what is missing, once there is a place for it, and has the host write it to disk. The host keeps it at least as long as `self` lives.
    pub fn send(
        &mut self,
        load: &Load,
        progress: &dyn Progress,
        check: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<Sent> {
        if self.missing.paths.is_empty() {
            return Ok(Sent::default());
        }
        let _place = load.gate.enter(check)?;
        let streams = if self.missing_bytes < SMALL { 1 } else { STREAMS.min(self.missing.paths.len()) };
        let mut more: Vec<Channel> =
            (1..streams).map(|_| receiver(&self.remote, load)).collect::<Result<_>>()?;
        // The first has the roots; it takes paths like the others.
        let end = || Channel {
            input: Box::new(std::io::empty()),
            output: Box::new(std::io::sink()),
            host: self.remote.name.clone(),
        };
        let first = std::mem::replace(&mut self.channel, end());
        more.insert(0, first);
        let sent = send::send(&load.source, &load.closure, &self.missing, &mut more, progress, check);
        self.channel = more.remove(0);
        let sent = sent?;
        send::settle(&mut self.channel, &self.missing.paths)?;
        Ok(sent)
    }
}
