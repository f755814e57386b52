//! Taking hosts from one generation to the next, stage by stage; a failure stops the rest and takes back the
//! hosts that were switched already. The same for a deployment and for a rollback.
use super::deployments::{Deployment, HostResult};
use super::fleet::on_each;
use super::printer::Printer;
use super::settings::Settings;
use crate::protocol::messages::{Event, Holder, Order, Outcome, Status};
use crate::protocol::spec::Rotation;
use crate::ship::config::RolloutConfig;
use crate::ship::conversation::Conversation;
use crate::ship::copy::Ready;
use crate::ship::rollout::stages;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use serde_json::json;
use std::process::ExitCode;
use std::time::Instant;

pub struct Host {
    pub name: String,
    pub conversation: Option<Box<Conversation>>,
    pub order: Order,
    /// The connection, which the conversation needs; and what keeps the paths from the host's garbage collector
    /// until its own roots do.
    pub _kept: Ready,
}

pub struct Rollout<'a> {
    pub config: &'a RolloutConfig,
    /// Hosts that are not there.
    pub missing: usize,
    pub rotation: Rotation,
}

pub fn busy(host: &str, holder: &Holder) -> Error {
    let since = clock::rfc3339(holder.since / 1000);
    Error::new(
        Kind::Busy,
        format!("{host}: a {} is under way, begun by {} at {since}", holder.kind.name(), holder.by),
    )
    .hint("watch it: stillframe attach; stop it: stillframe cancel; if it hangs: stillframe unlock")
}

/// A host's step, on the terminal or in the stream.
pub fn show_event(host: &str, event: &Event, printer: &Printer) {
    printer.event(&json!({"type": "event", "host": host, "event": event}));
    // The last one is said by the result.
    if !printer.json && event.outcome.is_none() {
        printer.progress().note(&format!(
            "{host}  {:9}  {}",
            event.status,
            super::printer::lines(&event.text)
        ));
    }
}

enum Acted {
    Done(Host, Outcome),
    Lost(Host, Error),
}

impl Rollout<'_> {
    pub fn run(&self, hosts: Vec<Host>, printer: &Printer) -> Vec<HostResult> {
        let plan = stages(self.config, hosts.len(), self.missing, self.rotation);
        let mut waiting: std::collections::VecDeque<Host> = hosts.into();
        let (mut switched, mut results) = (Vec::new(), Vec::new());
        let mut trouble: Option<String> = None;
        for stage in plan {
            let batch: Vec<Host> = waiting.drain(..stage.len().min(waiting.len())).collect();
            for acted in on_each(batch, |host| act(host, printer)) {
                match acted {
                    Acted::Done(host, outcome) if outcome.status == Status::Succeeded => {
                        switched.push((host, outcome))
                    }
                    Acted::Done(host, outcome) => {
                        let error = outcome.error.clone().unwrap_or_default();
                        trouble.get_or_insert(format!("{} failed: {}", host.name, first_line(&error)));
                        results.push(result(&host.name, &outcome));
                    }
                    Acted::Lost(host, error) => {
                        trouble.get_or_insert(format!(
                            "{} failed: {}",
                            host.name,
                            first_line(&error.message)
                        ));
                        results.push(lost(&host.name, &error));
                    }
                }
            }
            if trouble.is_some() {
                break;
            }
        }
        let Some(why) = trouble else {
            results.extend(switched.iter().map(|(host, outcome)| result(&host.name, outcome)));
            return results;
        };
        for host in waiting {
            let error = Error::new(Kind::Host, format!("not begun: {why}"));
            if let Some(mut conversation) = host.conversation {
                conversation.give_up(Status::Cancelled, &error);
            }
            results.push(HostResult { status: Status::Cancelled, ..lost(&host.name, &error) });
        }
        for taken in on_each(switched, |(host, _)| take_back(host, &why, printer)) {
            results.push(taken);
        }
        results
    }
}

fn act(mut host: Host, printer: &Printer) -> Acted {
    let Some(mut conversation) = host.conversation.take() else {
        return Acted::Lost(host, Error::new(Kind::Host, "no conversation"));
    };
    let name = host.name.clone();
    let order = std::mem::replace(&mut host.order, Order::End);
    let acted = conversation.act(&order, |event| show_event(&name, event, printer));
    host.conversation = Some(conversation);
    match acted {
        Ok(outcome) => Acted::Done(host, outcome),
        Err(e) => Acted::Lost(host, e.into()),
    }
}

fn take_back(host: Host, why: &str, printer: &Printer) -> HostResult {
    let Some(mut conversation) = host.conversation else {
        return lost(&host.name, &Error::new(Kind::Host, "no conversation"));
    };
    let order = Order::TakeBack { why: why.into() };
    match conversation.act(&order, |event| show_event(&host.name, event, printer)) {
        Ok(outcome) => {
            HostResult { error: Some(format!("taken back: {why}")), ..result(&host.name, &outcome) }
        }
        Err(e) => {
            let e = Error::from(e);
            let error =
                Error { message: format!("{}: could not be taken back: {}", host.name, e.message), ..e };
            lost(&host.name, &error)
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn result(host: &str, outcome: &Outcome) -> HostResult {
    HostResult {
        host: host.into(),
        status: outcome.status,
        generation: outcome.generation,
        error: outcome.error.clone().or_else(|| outcome.warnings.first().cloned()),
        hint: outcome.hint.clone(),
        on_host: true,
    }
}

fn lost(host: &str, error: &Error) -> HostResult {
    HostResult {
        host: host.into(),
        status: if error.kind == Kind::Interrupted { Status::Cancelled } else { Status::Failed },
        generation: None,
        error: Some(error.message.clone()),
        hint: error.hint.clone(),
        on_host: true,
    }
}

/// The deployment's end: its record, a line for each host, and the exit status.
pub fn end(
    mut deployment: Deployment,
    settings: &Settings,
    started: Instant,
    printer: &Printer,
) -> Result<ExitCode> {
    deployment.ended = Some(clock::now_ms());
    deployment.hosts.sort_by(|a, b| a.host.cmp(&b.host));
    deployment.save(&settings.state)?;
    let failed = deployment.hosts.iter().filter(|h| h.status != Status::Succeeded).count();
    let interrupted = deployment.hosts.iter().any(|h| h.status == Status::Cancelled)
        && crate::sys::progress::check_interrupt().is_err();
    printer.event(&json!({"type": "result", "deployment": deployment.deployment, "failed": failed,
        "seconds": started.elapsed().as_secs_f64(), "hosts": deployment.hosts}));
    for host in &deployment.hosts {
        let generation = host.generation.map_or("nothing".into(), |n| format!("generation {n}"));
        let said =
            host.error.as_deref().map(|e| format!(": {}", super::printer::lines(e))).unwrap_or_default();
        let serves = if host.on_host && host.status != Status::Succeeded && host.generation.is_none() {
            String::new()
        } else if host.on_host {
            format!("; {generation} serves")
        } else {
            String::new()
        };
        printer.line(format!("{}  {}{serves}{said}", host.host, printer.bold(host.status.name())));
        if let Some(hint) = &host.hint {
            printer.line(format!("  hint: {}", super::printer::lines(hint)));
        }
    }
    printer.line(format!(
        "{} of {} hosts succeeded in {:.1} s ({})",
        deployment.hosts.len() - failed,
        deployment.hosts.len(),
        started.elapsed().as_secs_f64(),
        deployment.deployment
    ));
    Ok(match (failed, interrupted) {
        (0, _) => ExitCode::SUCCESS,
        (_, true) => ExitCode::from(130),
        _ => ExitCode::FAILURE,
    })
}
