//! The command line of `stillframe-agent`. Its callers are stillframe itself and the units it writes.
mod jobs;

use crate::gateway;
use crate::host::cancel;
use crate::host::clearing;
use crate::host::instance;
use crate::host::integrity;
use crate::host::journal::{self, Follower};
use crate::host::layout::{Layout, Service, Unit};
use crate::host::lease;
use crate::host::scaler;
use crate::host::scaling;
use crate::host::session;
use crate::host::slots;
use crate::host::socket;
use crate::host::{
    activating, maintenance, overview, prepare, receive, removal, renaming, repair, retention,
};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::messages::Attempt;
use crate::protocol::scaling::Change;
use crate::protocol::spec::valid_service;
use crate::protocol::wire;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process;
use crate::sys::say::say;
use crate::sys::signals;
use clap::{Parser, Subcommand};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

/// Where an agent keeps what is not its to lose.
const STATE: &str = "/var/lib/stillframe";

/// Of an attempt in JSON: the names of some thousands of hosts are less.
const ATTEMPT_LIMIT: u64 = 4 << 20;

#[derive(Debug, Parser)]
#[command(name = "stillframe-agent", version, about = "Runs stillframe services on this host")]
struct Arguments {
    /// Where state is kept.
    #[arg(long, global = true, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take store paths from standard input: the host's end of a transfer.
    Receive,
    /// Converse with the workstation about one deployment, on standard input and output.
    Order,
    /// Carry out what an attempt is to do; runs in a unit of its own.
    Activate { service: String, attempt: u64 },
    /// After a start of the host: make each service what its state says.
    Boot,
    /// Become an instance: what an instance's unit starts.
    Instance { file: PathBuf },
    /// Let the gateway into an instance's folder, or at its own settings: what units run as root.
    Admit { service: String, instance: Option<InstanceId> },
    /// Take the slots of ended instances apart, or show their pictures to others.
    Clear { file: PathBuf },
    /// Set this host up: folders, the link to this agent, the boot service.
    Install,
    /// Give a stopped service another name; as JSON, whether it had another one. The attempt is a line of JSON on standard
    /// input.
    Rename { service: String, to: String },
    /// Take away what `install` put here, once no service is left.
    Uninstall,
    /// Begin or end this host's maintenance; as JSON.
    Maintenance {
        #[command(subcommand)]
        command: Maintenance,
    },
    /// What is served, as JSON.
    Status { service: Option<String> },
    /// The newest attempts, newest first, as JSON.
    History {
        service: String,
        #[arg(long, default_value_t = 20)]
        count: usize,
    },
    /// The events of an attempt as JSON lines, until it ends.
    Follow {
        service: String,
        /// Default: the newest.
        attempt: Option<u64>,
    },
    /// The log of a service or of one of its instances.
    Logs {
        service: String,
        /// `s0-g7`, `gateway` or `activation`.
        part: Option<String>,
        #[arg(short, long)]
        follow: bool,
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: u32,
        #[arg(long)]
        json: bool,
    },
    /// The jobs that the gateway of a service owns.
    Jobs {
        service: String,
        #[command(subcommand)]
        command: jobs::Command,
    },
    /// Start and stop instances as the gateway of a service asks: what its socket unit starts.
    Scaler { service: String },
    /// How many instances run, as JSON; with options, what holds from now on.
    Scale {
        service: String,
        #[arg(long)]
        minimum: Option<u32>,
        #[arg(long)]
        maximum: Option<u32>,
        #[arg(long, conflicts_with = "resume")]
        pause: bool,
        #[arg(long)]
        resume: bool,
        #[arg(long)]
        reset: bool,
        #[arg(long, default_value = "root on the host")]
        by: String,
        /// What the history calls it.
        #[arg(long, default_value = "scale")]
        id: String,
    },
    /// Stop the deployment that is under way.
    Cancel {
        service: String,
        #[arg(long)]
        by: String,
    },
    /// Take the lease away from a deployment that hangs before its activation.
    Unlock { service: String },
    /// Make the state of services readable again, and each service what its state says; as JSON.
    Repair {
        service: Option<String>,
        #[arg(long, default_value = "root on the host")]
        by: String,
    },
    /// Services whose state is not as it should be, a line each.
    Problems,
    /// What is kept and why, as JSON.
    Retention {
        service: Option<String>,
        /// Let go of the rest and run the garbage collector.
        #[arg(long)]
        free: bool,
    },
    /// What the removal of a service would take away, as JSON.
    Removal {
        service: String,
        /// With its data.
        #[arg(long)]
        data: bool,
    },
    /// Whether the files of what serves are what they must be, as JSON.
    Verify { service: Option<String> },
    /// Carry the traffic of one service: the public port, its instances, its WebSockets.
    Gateway {
        /// The settings file, written by the agent.
        #[arg(long, value_name = "FILE")]
        settings: PathBuf,
        /// The step of an upgrade in which this process becomes another program.
        #[arg(long, value_name = "PROGRAM", hide = true)]
        r#become: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Maintenance {
    /// From now on nothing new is brought here.
    Begin {
        #[arg(long)]
        by: String,
    },
    /// It is about to end: what served may be started.
    Return,
    End,
}

pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, arguments.command.answers());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let layout = Layout::new(&arguments.state);
    match &arguments.command {
        Command::Receive => receive::receive(
            std::io::stdin().lock(),
            std::io::stdout().lock(),
            &receive::store_config(None),
            &layout,
        ),
        Command::Order => session::converse(&layout, std::io::stdin(), &mut std::io::stdout().lock()),
        Command::Activate { service, attempt } => {
            signals::heed()?;
            activating::run(&layout, named(service)?, *attempt)
        }
        Command::Boot => repair::boot(&layout),
        Command::Instance { file } => instance::run(file),
        Command::Admit { service, instance } => {
            let service = layout.service(named(service)?);
            instance.map_or_else(
                || socket::admit_to_settings(&service),
                |id| socket::admit_to_instance(&service, id),
            )
        }
        Command::Clear { file } => print(&clearing::run(file)?),
        Command::Install => {
            let own = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
            let path = own.parent().and_then(|bin| bin.parent()).unwrap_or(&own);
            prepare::install(&layout, path)
        }
        Command::Rename { service, to } => {
            let attempt: Option<Attempt> =
                wire::read_line(&mut std::io::BufReader::new(std::io::stdin().lock().take(ATTEMPT_LIMIT)))
                    .map_err(|e| Error::new(Kind::Input, "this is no attempt").caused_by(e))?;
            let attempt = attempt.ok_or_else(|| Error::new(Kind::Input, "there is no attempt"))?;
            print(&renaming::rename(&layout, named(service)?, named(to)?, &attempt)?)
        }
        Command::Uninstall => prepare::uninstall(&layout).and_then(|()| print(&true)),
        Command::Maintenance { command } => match command {
            Maintenance::Begin { by } => print(&maintenance::begin(&layout, by)?),
            Maintenance::Return => print(&maintenance::returning(&layout)?),
            Maintenance::End => maintenance::end(&layout).and_then(|()| print(&true)),
        },
        Command::Status { service } => print(&overview::look(&layout, service.as_deref())?),
        Command::History { service, count } => {
            print(&journal::newest(&layout.service(named(service)?), *count)?)
        }
        Command::Follow { service, attempt } => follow(&layout, named(service)?, *attempt),
        Command::Logs { service, part, follow, lines, json } => {
            logs(&layout.service(named(service)?), part.as_deref(), *follow, *lines, *json)
        }
        Command::Jobs { service, command } => {
            jobs::run(&layout.service(named(service)?), command, &nobody_reads)
        }
        Command::Scaler { service } => scaler::run(&layout, named(service)?),
        Command::Scale { service, minimum, maximum, pause, resume, reset, by, id } => {
            let paused = (*pause || *resume).then_some(*pause);
            let change = Change { minimum: *minimum, maximum: *maximum, paused, reset: *reset };
            print(&scaling::scale(&layout.service(named(service)?), &change, (by, id))?)
        }
        Command::Cancel { service, by } => cancel(&layout, named(service)?, by),
        Command::Unlock { service } => print(&lease::break_it(&layout.service(named(service)?))?),
        Command::Repair { service, by } => {
            signals::heed()?;
            let only = service.as_deref().map(named).transpose()?;
            print(&repair::repair(&layout, only, by)?)
        }
        Command::Problems => overview::problems(&layout).iter().try_for_each(|problem| line(problem)),
        Command::Retention { service, free } => {
            let config = receive::store_config(None);
            print(&retention::retention(&layout, service.as_deref(), &config, *free)?)
        }
        Command::Removal { service, data } => print(&removal::look(&layout, named(service)?, *data)?),
        Command::Verify { service } => {
            print(&integrity::verify(&layout, &receive::store_config(None), service.as_deref())?)
        }
        Command::Gateway { settings, r#become: None } => gateway::process::run(settings),
        Command::Gateway { settings, r#become: Some(program) } => {
            Err(gateway::upgrade::become_program(program, settings))
        }
    }
}

/// Names become paths and unit names.
fn named(service: &str) -> Result<&str> {
    if valid_service(service) {
        return Ok(service);
    }
    Err(Error::new(Kind::Input, format!("{service:?} is no name for a service")))
}

fn print(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|e| Error::new(Kind::Io, "cannot write the answer").caused_by(e))?;
    line(&text)
}

fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|e| Error::io("write to", "standard output", e))
}

fn follow(layout: &Layout, name: &str, attempt: Option<u64>) -> Result<()> {
    let service = layout.service(name);
    let Some(number) = attempt.or_else(|| journal::numbers(&service).pop()) else {
        return Err(Error::new(Kind::Input, format!("{name} was never deployed here")));
    };
    print(&journal::read(&service, number)?.attempt)?;
    let mut follower = Follower::new(&service, number, false);
    let mut idle = 0;
    loop {
        let events = follower.more()?;
        for event in &events {
            print(event)?;
        }
        if events.last().is_some_and(|e| e.outcome.is_some()) {
            return Ok(());
        }
        // Whoever wrote it may be gone for good; a killed activation is started again within seconds.
        let working = lease::holder(&service).is_some_and(|(h, _)| h.attempt == number);
        idle = if working || !events.is_empty() { 0 } else { idle + 1 };
        if idle > 300 {
            activating::end_abandoned(&service)?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

const FOLLOW_PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Waits a moment: the connection is closed, or more may have come.
fn nobody_reads() -> bool {
    let out = std::io::stdout();
    let mut gone = [PollFd::new(&out, PollFlags::empty())];
    rustix::event::poll(&mut gone, Some(&FOLLOW_PAUSE)).is_ok_and(|n| n > 0)
}

fn logs(service: &Service, part: Option<&str>, follow: bool, lines: u32, json: bool) -> Result<()> {
    let gateway = service.gateway_unit("service");
    let units: BTreeSet<String> = match part {
        // A service that was never deployed has none: journalctl without a unit gives the log of the whole host.
        None => [gateway].into_iter().chain(logged(service)?).collect(),
        Some("activation") => {
            let mut units = logged(service)?;
            units.retain(|unit| matches!(service.unit(unit), Some(Unit::Activation(_))));
            if units.is_empty() {
                return Err(never(service, "an activation"));
            }
            units
        }
        Some("gateway") => [gateway].into(),
        Some(id) => {
            let id: InstanceId = id.parse().map_err(|_| {
                Error::new(Kind::Input, format!("{id:?} is no instance"))
                    .hint("as `stillframe instances` shows them: s0-g7; or gateway, activation")
            })?;
            let unit = id.unit(&service.name);
            if !logged(service)?.contains(&unit) {
                return Err(never(service, &format!("an instance {id}")));
            }
            [unit].into()
        }
    };
    let count = lines.to_string();
    let output = if json { "--output=json" } else { "--output=short-iso" };
    let base = ["journalctl", "--quiet", "--no-pager", "--no-hostname", output];
    let mut words = [&base[..], &["-n", &count]].concat();
    words.extend(units.iter().flat_map(|unit| ["-u", unit]));
    if follow {
        words.push("-f");
    }
    if follow && part.is_none() {
        return follow_all(service, &words, &base);
    }
    Err(Error::io("start", "journalctl", process::command(&words).exec()))
}

fn never(service: &Service, what: &str) -> Error {
    Error::new(Kind::Input, format!("the log of this host knows nothing of {what} of {}", service.name))
        .hint("stillframe instances shows those there are, stillframe history what was deployed; a journal that is not kept forgets")
}

/// Units of a service that the journal knows: by their own lines, and by what systemd says of them.
fn logged(service: &Service) -> Result<BTreeSet<String>> {
    let mut units = BTreeSet::new();
    for field in ["--field=_SYSTEMD_UNIT", "--field=UNIT"] {
        let text = process::must(&["journalctl", "--quiet", field], Duration::from_secs(60))?;
        let text = String::from_utf8_lossy(&text);
        units.extend(text.lines().filter(|unit| service.unit(unit).is_some()).map(String::from));
    }
    Ok(units)
}

/// The units of a generation that comes later are followed by a process each, from their first line on, for as long as they
/// are there.
fn follow_all(service: &Service, words: &[&str], base: &[&str]) -> Result<()> {
    let units = || slots::loaded(service);
    let begin = |words: &[&str]| {
        process::command(words).stdin(Stdio::null()).spawn().map_err(|e| Error::io("start", "journalctl", e))
    };
    let mut known = units()?;
    let mut first = begin(words)?;
    let mut more: BTreeMap<String, Child> = BTreeMap::new();
    loop {
        if nobody_reads() {
            for child in more.values_mut().chain([&mut first]) {
                let _ = child.kill();
                let _ = child.wait();
            }
            return Ok(());
        }
        // Of a service that was never deployed there is nothing yet, and it has ended.
        let _ = first.try_wait();
        let now = units()?;
        for unit in now.difference(&known) {
            let own = [base, &["-n", "all", "-f", "-u", unit]].concat();
            more.insert(unit.clone(), begin(&own)?);
        }
        // Its last lines are written by now: it was there a look before.
        more.retain(|unit, child| {
            let stays = now.contains(unit) || known.contains(unit);
            if !stays {
                let _ = child.kill();
                let _ = child.wait();
            }
            stays
        });
        known = now;
    }
}

fn cancel(layout: &Layout, name: &str, by: &str) -> Result<()> {
    let service = layout.service(name);
    let Some((holder, _)) = lease::under_way(&service) else {
        return Err(Error::new(Kind::Input, format!("no deployment of {name} is under way here")));
    };
    // One that was cut off hears nothing, and is on its way to its end.
    if lease::holder(&service).is_some() {
        cancel::request(&service, &holder.deployment, by)?;
    }
    print(&holder)
}

impl Command {
    /// Whether the workstation asks this and reads why it failed; the others' errors are for a log or for a person.
    fn answers(&self) -> bool {
        match self {
            Command::Order
            | Command::Status { .. }
            | Command::History { .. }
            | Command::Follow { .. }
            | Command::Logs { .. }
            | Command::Jobs { .. }
            | Command::Scale { .. }
            | Command::Cancel { .. }
            | Command::Unlock { .. }
            | Command::Repair { .. }
            | Command::Problems
            | Command::Rename { .. }
            | Command::Uninstall
            | Command::Maintenance { .. }
            | Command::Removal { .. }
            | Command::Verify { .. }
            | Command::Retention { .. } => true,
            Command::Receive
            | Command::Activate { .. }
            | Command::Boot
            | Command::Instance { .. }
            | Command::Admit { .. }
            | Command::Clear { .. }
            | Command::Scaler { .. }
            | Command::Install
            | Command::Gateway { .. } => false,
        }
    }
}

/// For a program as one line of JSON (`ship::ask` reads it), for a person as text.
fn report(error: &Error, answers: bool) {
    if answers && !std::io::stderr().is_terminal() {
        say(format_args!("{}", json!({"error": error.report()})));
        return;
    }
    say(format_args!("error: {error}"));
    for cause in error.causes() {
        say(format_args!("  because: {cause}"));
    }
    if let Some(hint) = &error.hint {
        say(format_args!("hint: {hint}"));
    }
}
