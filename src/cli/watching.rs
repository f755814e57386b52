//! What hosts say of themselves: `status`, `instances`, `attach`, `logs`.
use super::fleet::{self, Member, Selection, each_says, on_each};
use super::printer::{Printer, bytes, plain};
use super::rollout_run::show_event;
use super::settings::Settings;
use crate::closure::registry::Registry;
use crate::protocol::messages::{Attempt, Event, Status};
use crate::protocol::overview::{HostView, InstanceView, ServiceView};
use crate::protocol::wire;
use crate::ship::ask;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// A host that is asked for its state answers at once or is in trouble.
pub const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    hosts: Selection,
}

#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// An instance as `stillframe instances` shows it (s0-g7), or gateway, or activation. Default: all.
    instance: Option<String>,
    #[command(flatten)]
    hosts: Selection,
    /// Go on with what comes.
    #[arg(short, long)]
    follow: bool,
    /// How many lines to begin with.
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: u32,
}

pub fn exit(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn view(member: &Member) -> Result<HostView> {
    ask::ask(&member.remote()?, &["status", member.service.name()], LIMIT)
}

/// A snapshot as this workstation knows it: id and label.
pub fn known_as(settings: &Settings, path: &str) -> String {
    match Registry::new(&settings.state).find(Some(path)) {
        Ok(record) => match record.label {
            Some(label) => format!("{} ({})", record.id, plain(&label)),
            None => record.id,
        },
        Err(_) => path.rsplit('/').next().unwrap_or(path).chars().take(10).collect(),
    }
}

pub fn status(args: &StatusArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let mut unwell = 0;
    let (values, failed) = each_says(&members, printer, view, |member, view| {
        if view.services.is_empty() {
            printer.line(format!("{}  {} was never deployed here", member.name(), member.service.name()));
        }
        for service in &view.services {
            unwell += usize::from(service.ready < service.wanted);
            service_text(member.name(), service, &settings, printer);
        }
        json!({"host": member.name(), "view": view})
    });
    printer.value(&json!({"version": 1, "hosts": values, "failed": failed}));
    Ok(exit(failed + unwell))
}

fn service_text(host: &str, service: &ServiceView, settings: &Settings, printer: &Printer) {
    let serving = service.serving.and_then(|n| service.generations.iter().find(|g| g.generation == n));
    let what = match serving {
        Some(g) => format!("generation {}, snapshot {}", g.generation, known_as(settings, &g.snapshot)),
        None => "nothing".into(),
    };
    let address = service.address.map(|a| format!(" on {a}")).unwrap_or_default();
    let enough = if service.ready >= service.wanted { "32" } else { "31" };
    let count = printer.paint(enough, &format!("{} of {} instances", service.ready, service.wanted));
    printer.line(format!("{}  {} serves {what}{address}: {count}", printer.bold(host), service.service));
    if service.held > 0 {
        printer.line(format!("  {} requests wait for an instance", service.held));
    }
    if let Some(error) = &service.gateway_error {
        printer.line(format!("  the gateway does not answer: {}", plain(error)));
    }
    for instance in
        service.instances.iter().filter(|i| i.reason.is_some() || Some(i.generation) != service.serving)
    {
        let reason = instance.reason.as_deref().map(|r| format!(": {}", plain(r))).unwrap_or_default();
        printer.line(format!("  {} {}{reason}", instance.id, instance.condition.name()));
    }
    for instance in
        service.instances.iter().filter(|i| i.condition == crate::protocol::overview::Condition::Stopped)
    {
        printer.line(format!("  {} is stopped; start it: systemctl start {}", instance.id, instance.unit));
    }
    if let Some(holder) = &service.deployment {
        let since = clock::rfc3339(holder.since / 1000);
        printer.line(format!(
            "  a {} is under way, begun by {} at {since}: stillframe attach",
            holder.kind.name(),
            plain(&holder.by)
        ));
    }
    let others: Vec<String> = service
        .generations
        .iter()
        .filter(|g| Some(g.generation) != service.serving)
        .map(|g| format!("{} ({})", g.generation, known_as(settings, &g.snapshot)))
        .collect();
    if !others.is_empty() {
        printer.line(format!("  kept for rollback: {}", others.join(", ")));
    }
}

pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..86_400 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

pub fn instances(args: &StatusArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    printer.line(printer.bold(&format!(
        "{:14} {:9} {:>4} {:>4}  {:8} {:11} {:>8} {:>8} {:>6} {:>10}",
        "HOST", "INSTANCE", "GEN", "SLOT", "GPU", "STATE", "AGE", "RESTARTS", "QUEUE", "MEMORY"
    )));
    let (values, failed) = each_says(&members, printer, view, |member, view| {
        let all: Vec<&InstanceView> = view.services.iter().flat_map(|s| &s.instances).collect();
        for i in &all {
            let gpus = if i.gpus.is_empty() { "-".to_string() } else { i.gpus.join(",") };
            printer.line(format!(
                "{:14} {:9} {:>4} {:>4}  {:8} {:11} {:>8} {:>8} {:>6} {:>10}",
                member.name(),
                i.id,
                i.generation,
                i.slot,
                gpus,
                i.condition.name(),
                i.age_s.map_or("-".into(), age),
                i.restarts,
                i.queue.map_or("-".into(), |q| q.to_string()),
                i.memory_bytes.map_or("-".into(), bytes)
            ));
        }
        json!({"host": member.name(), "instances": all})
    });
    printer.value(&json!({"version": 1, "hosts": values, "failed": failed}));
    Ok(exit(failed))
}

/// Follows the deployment under way on each host, from its first event.
pub fn attach(args: &StatusArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let (values, mut failed) = each_says(
        &members,
        printer,
        |member| follow(member, printer),
        |member, (attempt, last)| {
            let outcome = last.as_ref().and_then(|e| e.outcome.as_ref());
            let status = last.as_ref().map_or(Status::Queued, |e| e.status);
            let text = last.as_ref().map(|e| super::printer::lines(&e.text)).unwrap_or_default();
            printer.line(format!("{}  {}  {text}", member.name(), printer.bold(status.name())));
            json!({"host": member.name(), "attempt": attempt, "outcome": outcome})
        },
    );
    failed += values.iter().filter(|v| v["error"].is_null() && v["outcome"]["status"] != "succeeded").count();
    printer.event(&json!({"type": "result", "failed": failed, "hosts": values}));
    Ok(exit(failed))
}

fn follow(member: &Member, printer: &Printer) -> Result<(Attempt, Option<Event>)> {
    let remote = member.remote()?;
    let (mut channel, last_words) = ask::open(&remote, &["follow", member.service.name()])?;
    let lost = |e: std::io::Error| {
        Error::new(Kind::Host, format!("{}: the connection ended", member.name())).caused_by(e)
    };
    let Some(attempt) = wire::read_line::<Attempt>(&mut channel.input).map_err(lost)? else {
        return Err(ask::ended(member.name(), &last_words));
    };
    printer.event(&json!({"type": "attempt", "host": member.name(), "attempt": attempt}));
    let mut last = None;
    while let Some(event) = wire::read_line::<Event>(&mut channel.input).map_err(lost)? {
        show_event(member.name(), &event, printer);
        last = Some(event);
    }
    Ok((attempt, last))
}

pub fn logs(args: &LogsArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let lines = args.lines.to_string();
    let several = members.len() > 1;
    let results = on_each(members.iter().collect(), |member: &Member| -> Result<()> {
        let remote = member.remote()?;
        let mut words = vec!["logs", member.service.name()];
        words.extend(args.instance.as_deref());
        words.extend(["-n", &lines]);
        if args.follow {
            words.push("-f");
        }
        if printer.json {
            words.push("--json");
        }
        let (mut channel, last_words) = ask::open(&remote, &words)?;
        let mut any = false;
        loop {
            let mut line = Vec::new();
            let read = channel.input.read_until(b'\n', &mut line);
            if read.map_err(|e| Error::io("read the log of", member.name(), e))? == 0 {
                break;
            }
            any = true;
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n');
            if printer.json {
                let entry: Value = serde_json::from_str(text).unwrap_or_default();
                printer.event(&json!({"host": member.name(), "entry": entry}));
            } else if several {
                printer.line(format!("{}  {}", member.name(), plain(text)));
            } else {
                printer.line(plain(text));
            }
        }
        if !any && !last_words.text().is_empty() {
            Err(ask::ended(member.name(), &last_words))
        } else {
            Ok(())
        }
    });
    let mut failed = 0;
    for result in results {
        if let Err(e) = result {
            failed += 1;
            printer.error(&e);
        }
    }
    Ok(exit(failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!([5, 65, 3725, 90_061].map(age), ["5s", "1min", "1h02", "1d01h"]);
    }
}
