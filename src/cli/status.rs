//! `stillframe status`: what each host serves, and how many instances of those wanted are ready.
use super::documents::{Status, with_dates};
use super::exit;
use super::fleet::{self, HostsArgs, each_says, known_as};
use super::printer::{Printer, plain};
use super::scale;
use super::settings::Settings;
use crate::deploy::fleet::Member;
use crate::deploy::questions;
use crate::protocol::overview::{Condition, GenerationView, HostView, ServiceView};
use crate::sys::clock;
use crate::sys::error::Result;
use crate::sys::say::counted;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &HostsArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (settings, members) = fleet::chosen(&args.hosts, config, printer)?;
    let mut unwell = 0;
    let ask = |member: &Member| questions::status(&member.remote()?, member.service.name());
    let (values, failed) = each_says(&members, printer, ask, |member, view| {
        if let Some(now) = &view.maintenance {
            printer.line(format!(
                "{}  is under maintenance since {}, by {}: stillframe host return {}",
                printer.bold(member.name()),
                clock::rfc3339(now.since / 1000),
                plain(&now.by),
                member.name()
            ));
        }
        if view.services.is_empty() {
            printer.line(format!("{}  {} was never deployed here", member.name(), member.service.name()));
        }
        for service in &view.services {
            unwell += usize::from(!is_enough(service) || service.problem.is_some());
            service_text(member.name(), service, &settings, printer);
        }
        Status { view: document(view) }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed + unwell))
}

/// Where their number follows the queue, one that has just been started is nothing amiss.
fn is_enough(service: &ServiceView) -> bool {
    let least = service.scaling.as_ref().map_or(service.wanted, |s| s.minimum.min(service.wanted));
    service.ready >= least
}

/// What the agent says, with dates as every document has them.
fn document(view: &HostView) -> Value {
    let mut value = json!(view);
    for service in value["services"].as_array_mut().into_iter().flatten() {
        *service = with_dates(service.take(), "generations");
    }
    value
}

fn service_text(host: &str, service: &ServiceView, settings: &Settings, printer: &Printer) {
    let serving = service.serving.and_then(|n| service.generations.iter().find(|g| g.generation == n));
    let what = match serving {
        Some(g) => format!("generation {}, snapshot {}", g.generation, known_as(settings, &g.snapshot)),
        None => "nothing".into(),
    };
    if let Some(stopped) = &service.stopped {
        let snapshot = service.generations.iter().find(|g| g.generation == stopped.generation);
        let snapshot = snapshot.map(|g| format!(", snapshot {}", known_as(settings, &g.snapshot)));
        printer.line(format!(
            "{}  {} was stopped by {} at {}; generation {}{} served: stillframe start",
            printer.bold(host),
            service.service,
            plain(&stopped.by),
            clock::rfc3339(stopped.since / 1000),
            stopped.generation,
            snapshot.unwrap_or_default()
        ));
        return service_notes(service, settings, printer);
    }
    let address = service.address.map(|a| format!(" on {a}")).unwrap_or_default();
    let enough = if is_enough(service) { "32" } else { "31" };
    let count = printer.paint(enough, &format!("{} of {} instances", service.ready, service.wanted));
    printer.line(format!("{}  {} serves {what}{address}: {count}", printer.bold(host), service.service));
    service_notes(service, settings, printer);
}

/// What is worth knowing beside what serves.
fn service_notes(service: &ServiceView, settings: &Settings, printer: &Printer) {
    if let Some(problem) = &service.problem {
        printer.line(format!("  problem: {}", plain(problem)));
    }
    if let Some(scaling) = &service.scaling {
        printer.line(format!("  {}", scale::summary(scaling)));
        if let Some(order) = &scaling.order {
            printer.line(format!("  {}", scale::said(order)));
        }
    }
    if service.held > 0 {
        printer.line(format!("  {} requests wait for an instance", service.held));
    }
    if let Some(jobs) = service.waiting_jobs.filter(|jobs| *jobs > 0) {
        let words = counted(jobs as usize, "job waits", "jobs wait");
        printer.line(format!("  {words}: stillframe jobs"));
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
    for instance in service.instances.iter().filter(|i| i.condition == Condition::Stopped) {
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
    let current = service.serving.or(service.stopped.as_ref().map(|stopped| stopped.generation));
    let others: Vec<&GenerationView> =
        service.generations.iter().filter(|g| Some(g.generation) != current).collect();
    let (gone, kept): (Vec<&GenerationView>, Vec<&GenerationView>) = others.into_iter().partition(|g| g.gone);
    for (what, some) in [("kept for rollback", kept), ("gone from the store", gone)] {
        let names: Vec<String> =
            some.iter().map(|g| format!("{} ({})", g.generation, known_as(settings, &g.snapshot))).collect();
        if !names.is_empty() {
            printer.line(format!("  {what}: {}", names.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_in_every_document() {
        let generation =
            json!({"generation": 1, "snapshot": "s", "created": 86_400, "attempt": 1, "before": null});
        let service = json!({"service": "demo", "serving": 1, "address": null, "wanted": 1, "ready": 1, "held": 0, "gateway_error": null,
            "instances": [], "generations": [generation], "deployment": null, "activating": false});
        let view: HostView =
            serde_json::from_value(json!({"version": 1, "agent": "a", "services": [service]})).unwrap();
        assert_eq!(document(&view)["services"][0]["generations"][0]["created"], "1970-01-02T00:00:00Z");
    }
}
