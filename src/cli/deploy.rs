//! `stillframe deploy`: a snapshot to its hosts.
use super::documents;
use super::events::Shown;
use super::exit;
use super::fleet::{self, Selection};
use super::printer::Printer;
use super::settings::Settings;
use super::snapshot::{How, report_text};
use crate::closure::registry::{Record, Registry};
use crate::deploy::detach::{self, Detached, Detaching, Said};
use crate::deploy::events::{Ended, Event, Observer, STREAM_VERSION};
use crate::deploy::fleet::{Checked, Member};
use crate::deploy::look;
use crate::deploy::plan::Plan;
use crate::deploy::project;
use crate::deploy::records::{self, Finished};
use crate::ship::copy::Load;
use crate::snapshot::take::take;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use crate::sys::signals;
use crate::sys::who;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// The snapshot: id, label or store path (default: a new one of the environment).
    #[arg(long)]
    snapshot: Option<String>,
    #[command(flatten)]
    hosts: Selection,
    /// The hosts alone that do not run what they should (`stillframe drift`), and bring them that.
    #[arg(long, conflicts_with_all = ["snapshot", "resume"])]
    catch_up: bool,
    /// Go on with the newest deployment, whose workstation died before it reached all its hosts.
    #[arg(long, conflicts_with_all = ["snapshot", "detach", "dry_run"])]
    resume: bool,
    /// Show what would be done, and do nothing (hosts get the agent alone).
    #[arg(long)]
    dry_run: bool,
    /// Return as soon as it is under way; `stillframe attach` shows it.
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    /// Start new instances even where exactly this serves already.
    #[arg(long)]
    again: bool,
    /// Also where the service is another project's, which loses it.
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    how: How,
}

/// The first one: with the node classes that later ones are measured by.
pub fn first(config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let how = How { probe: true, ..How::default() };
    run(&Args { how, ..Args::default() }, config, printer)
}

/// What is to be deployed, and where.
struct Task {
    id: String,
    members: Vec<Member>,
    /// What names them.
    selector: Option<String>,
    /// None: a new one.
    snapshot: Option<String>,
}

impl Task {
    fn of(args: &Args, settings: &Settings, printer: &Printer) -> Result<Task> {
        let selector = args.hosts.hosts.clone();
        let mut members = fleet::members(settings, selector.as_deref(), printer)?;
        signals::heed()?;
        let id = detach::id().unwrap_or_else(records::new_id);
        if !args.catch_up && !args.resume {
            return Ok(Task { id, members, selector, snapshot: args.snapshot.clone() });
        }
        let fleet = fleet::standing(settings, &members)?;
        check_interrupt()?;
        let rest = match args.resume {
            true => fleet.unfinished()?,
            false => fleet.behind()?,
        };
        members.retain(|member| rest.hosts.contains(member.name()));
        let names: Vec<&str> = members.iter().map(Member::name).collect();
        let selector = Some(names.join(","));
        let id = if args.resume { rest.wanted.deployment } else { id };
        Ok(Task { id, members, selector, snapshot: Some(rest.wanted.snapshot) })
    }
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::resolve(None, config)?;
    let Task { id, members, selector, snapshot } = Task::of(args, &settings, printer)?;
    // All that can be wrong here is found before a host is troubled.
    let hosts = members.into_iter().map(Checked::of).collect::<Result<Vec<_>>>()?;
    let shown = Shown::new(printer, hosts.len());
    if snapshot.is_none() {
        look::ahead(&hosts, &settings.config.rollout, &shown)?;
    }
    let record = self::snapshot(snapshot.as_deref(), args, &settings, &shown)?;
    if args.detach {
        return detached(
            Detaching {
                id: &id,
                snapshot: &record.snapshot,
                config,
                hosts: selector.as_deref(),
                again: args.again,
                take_over: args.take_over,
                state: &settings.state,
            },
            printer,
        );
    }
    let plan = Plan {
        load: Load::of(&settings.store(), &record.snapshot)?,
        id,
        by: who::me(),
        again: args.again,
        dry_run: args.dry_run,
        project: project::of(&settings.project, args.dry_run)?,
        take_over: args.take_over,
        hosts: hosts.iter().map(|h| h.member.name().to_string()).collect(),
        service: settings.config.service.name().into(),
        rollout: settings.config.rollout,
        ship: settings.config.ship,
        state: settings.state,
        record,
    };
    plan.carry_out(hosts, &shown).map(exit::finished)
}

fn detached(detaching: Detaching, printer: &Printer) -> Result<ExitCode> {
    let id = detaching.id;
    match detaching.begin()? {
        Detached::GoesOn(log) => {
            printer.value(&documents::Detached { deployment: id.into(), detached: true, log });
            printer.line(format!(
                "{id} goes on by itself: stillframe attach shows it, stillframe cancel stops it"
            ));
            Ok(ExitCode::SUCCESS)
        }
        Detached::Over(said) => over(said, printer),
    }
}

/// The one that was asked for, or a new one.
fn snapshot(wanted: Option<&str>, args: &Args, settings: &Settings, shown: &Shown) -> Result<Record> {
    if let Some(wanted) = wanted {
        return Registry::new(&settings.state).find(Some(wanted));
    }
    let (record, report) = take(&settings.subject()?, &args.how.request(), shown.printer)?;
    report_text(&report, shown.printer);
    shown.event(&Event::Snapshot { version: STREAM_VERSION, snapshot: Box::new(report) });
    Ok(record)
}

/// A deployment that ended before it went on in the background: all it said.
fn over(said: Said, printer: &Printer) -> Result<ExitCode> {
    said.events.iter().for_each(|event| printer.event(event));
    if let Some(error) = said.error {
        return Err(error.into());
    }
    match said.events.last() {
        Some(Event::Result(Ended::Deployment { hosts, .. })) => {
            for host in hosts {
                let why = host.error.as_deref().unwrap_or_default();
                printer.line(format!("{}  {}  {why}", host.host, host.status));
            }
            Ok(exit::finished(Finished::of(hosts, check_interrupt().is_err())))
        }
        _ => {
            check_interrupt()?;
            Err(Error::new(Kind::Host, format!("it ended at once: {}", said.tail.join("; "))))
        }
    }
}
