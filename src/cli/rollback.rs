//! `stillframe rollback`: to a generation that the hosts still have. Nothing is copied, and nothing of this
//! workstation is needed but where the hosts are.
use super::deployments::{self, Deployment, HostResult};
use super::fleet::{self, Member, Selection, on_each};
use super::printer::Printer;
use super::rollout_run::{self, show_event};
use super::settings::Settings;
use crate::closure::registry::Registry;
use crate::protocol::messages::{Attempt, AttemptKind, Back, Order, Outcome, Status};
use crate::ship::ask;
use crate::ship::conversation::{Begun, Conversation, ConversationError};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::signals;
use crate::sys::who;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A generation's number (of one host), or a snapshot: id, label or store path. Default: the exact
    /// generation that served before.
    #[arg(value_name = "GENERATION|SNAPSHOT")]
    to: Option<String>,
    #[command(flatten)]
    hosts: Selection,
}

/// What the user means: numbers are each host's own.
fn back(settings: &Settings, to: Option<&str>, members: &[Member]) -> Result<Back> {
    let Some(to) = to else { return Ok(Back::Previous) };
    if let Ok(number) = to.parse::<u64>() {
        if members.len() > 1 {
            return Err(Error::new(Kind::Input, format!("each host has its own generation {number}")).hint(
                "name one host with --hosts, or name the snapshot: every host has its own number for it",
            ));
        }
        return Ok(Back::Generation(number));
    }
    // Of another workstation's snapshot the beginning of its hash is known from `stillframe status`.
    match Registry::new(&settings.state).find(Some(to)) {
        Ok(record) => Ok(Back::Snapshot(record.snapshot)),
        Err(_) if to.len() >= 6 && to.chars().all(|c| c.is_ascii_alphanumeric() || "/-._+".contains(c)) => {
            Ok(Back::Snapshot(to.into()))
        }
        Err(e) => Err(e),
    }
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let started = Instant::now();
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    signals::heed()?;
    let to = back(&settings, args.to.as_deref(), &members)?;
    let names: Vec<String> = members.iter().map(|m| m.name().to_string()).collect();
    let by = who::me();
    let id = deployments::new_id();
    let goal = match &to {
        Back::Previous => "what served before".to_string(),
        Back::Generation(number) => format!("generation {number}"),
        Back::Snapshot(path) => path.clone(),
    };
    printer.line(printer.bold(&format!("rolling back to {goal}: {}", names.join(", "))));
    printer.event(&json!({"type": "begin", "version": 1, "deployment": id, "rollback": to, "hosts": names}));
    let mut deployment = Deployment::new(&id, AttemptKind::Rollback, settings.config.service.name(), &by);
    deployment.save(&settings.state)?;
    let attempt = |member: &Member| Attempt {
        version: 0,
        attempt: 0,
        service: member.service.name().into(),
        deployment: id.clone(),
        kind: AttemptKind::Rollback,
        by: by.clone(),
        snapshot: None,
        label: None,
        hosts: names.clone(),
        began: clock::now_ms(),
    };
    let results = on_each(members.iter().collect(), |member: &Member| {
        let mut begun = false;
        let outcome = one(member, &attempt(member), &to, &mut begun, printer);
        (member.name().to_string(), begun, outcome)
    });
    let registry = Registry::new(&settings.state);
    for (host, begun, outcome) in results {
        deployment.hosts.push(match outcome {
            Ok(outcome) => {
                if outcome.status == Status::Succeeded {
                    registry.note_served(
                        &host,
                        settings.config.service.name(),
                        outcome.snapshot.as_deref(),
                    )?;
                }
                HostResult {
                    host,
                    status: outcome.status,
                    generation: outcome.generation,
                    error: outcome.error.clone().or_else(|| outcome.warnings.first().cloned()),
                    hint: outcome.hint,
                    on_host: true,
                }
            }
            Err(e) => HostResult {
                host,
                status: if e.kind == Kind::Interrupted { Status::Cancelled } else { Status::Failed },
                generation: None,
                error: Some(e.message.clone()),
                hint: e.hint.clone(),
                on_host: begun,
            },
        });
    }
    rollout_run::end(deployment, &settings, started, printer)
}

fn one(
    member: &Member,
    attempt: &Attempt,
    to: &Back,
    begun: &mut bool,
    printer: &Printer,
) -> Result<Outcome> {
    let remote = member.remote()?;
    let (channel, last_words) = ask::open(&remote, &["order"])?;
    let mut conversation = match Conversation::begin(channel, last_words.clone(), attempt) {
        Ok(Begun::Held(conversation, _)) => conversation,
        Ok(Begun::Busy(holder)) => return Err(rollout_run::busy(member.name(), &holder)),
        // There is no agent, or it said itself why it does not go on.
        Err(ConversationError::Gone { .. }) => return Err(ask::ended(member.name(), &last_words)),
        Err(e) => return Err(e.into()),
    };
    *begun = true;
    let order = Order::Return { to: to.clone() };
    Ok(conversation.act(&order, |event| show_event(member.name(), event, printer))?)
}
