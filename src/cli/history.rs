//! `stillframe history`: every deployment with what came of it on each host. The hosts have the records; of
//! hosts that were never reached, this workstation alone knows.
use super::deployments::{self, Deployment, HostResult};
use super::fleet::{self, Member, Selection, on_each};
use super::printer::{Printer, plain};
use super::settings::Settings;
use super::watching::{LIMIT, exit, known_as};
use crate::protocol::messages::{AttemptKind, Record, Status};
use crate::ship::ask;
use crate::sys::clock;
use crate::sys::error::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    hosts: Selection,
    /// How many deployments.
    #[arg(short = 'n', long, default_value_t = 10)]
    count: usize,
    /// Every step of each.
    #[arg(long)]
    events: bool,
}

/// One host's part of a deployment.
enum Part {
    Recorded(Box<Record>),
    Unrecorded(HostResult),
}

/// A deployment, put together from what its hosts and this workstation know of it.
struct Merged {
    began: u64,
    kind: AttemptKind,
    by: String,
    snapshot: Option<String>,
    parts: Vec<(String, Part)>,
}

/// By deployment id; `recorded`: what hosts told.
fn merge(local: &[Deployment], recorded: Vec<(String, Record)>, hosts: &[&str]) -> BTreeMap<String, Merged> {
    let mut all: BTreeMap<String, Merged> = BTreeMap::new();
    for (host, record) in recorded {
        let a = &record.attempt;
        let merged = all.entry(a.deployment.clone()).or_insert_with(|| Merged {
            began: a.began,
            kind: a.kind,
            by: a.by.clone(),
            snapshot: a.snapshot.clone(),
            parts: Vec::new(),
        });
        // A rollback's is known only when it has been found.
        merged.snapshot = merged.snapshot.take().or_else(|| record.outcome()?.snapshot.clone());
        if a.began < merged.began {
            (merged.began, merged.kind) = (a.began, a.kind);
        }
        merged.parts.push((host, Part::Recorded(Box::new(record))));
    }
    for d in local {
        let unrecorded: Vec<&HostResult> =
            d.hosts.iter().filter(|h| !h.on_host && hosts.contains(&h.host.as_str())).collect();
        if unrecorded.is_empty() {
            continue;
        }
        let merged = all.entry(d.deployment.clone()).or_insert_with(|| Merged {
            began: d.began,
            kind: d.kind,
            by: d.by.clone(),
            snapshot: d.snapshot.clone(),
            parts: Vec::new(),
        });
        merged.parts.extend(unrecorded.into_iter().map(|h| (h.host.clone(), Part::Unrecorded(h.clone()))));
    }
    for merged in all.values_mut() {
        merged.parts.sort_by(|a, b| a.0.cmp(&b.0));
    }
    all
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let count = args.count.to_string();
    let answers = on_each(members.iter().collect(), |member: &Member| -> Result<Vec<Record>> {
        ask::ask(&member.remote()?, &["history", member.service.name(), "--count", &count], LIMIT)
    });
    let (mut records, mut failed) = (Vec::new(), Vec::new());
    for (member, answer) in members.iter().zip(answers) {
        match answer {
            Ok(found) => records.extend(found.into_iter().map(|r| (member.name().to_string(), r))),
            Err(e) => {
                if !printer.json {
                    printer.error(&e);
                }
                failed.push(json!({"host": member.name(), "error": fleet::error_value(&e)}));
            }
        }
    }
    let hosts: Vec<&str> = members.iter().map(Member::name).collect();
    let merged = merge(&deployments::newest(&settings.state, args.count), records, &hosts);
    let mut newest: Vec<(String, Merged)> = merged.into_iter().collect();
    newest.sort_by_key(|(_, m)| std::cmp::Reverse(m.began));
    newest.truncate(args.count);
    let mut values = Vec::new();
    for (id, merged) in newest {
        let shown =
            merged.snapshot.as_ref().map(|s| format!(" of {}", known_as(&settings, s))).unwrap_or_default();
        printer.line(format!(
            "{}  {}{shown} by {}  {id}",
            printer.bold(&clock::rfc3339(merged.began / 1000)),
            merged.kind.name(),
            plain(&merged.by)
        ));
        let parts: Vec<Value> =
            merged.parts.iter().map(|(host, part)| show(host, part, args.events, printer)).collect();
        values.push(json!({"deployment": id, "kind": merged.kind, "by": merged.by, "began": merged.began,
            "snapshot": merged.snapshot, "hosts": parts}));
    }
    printer.value(&json!({"version": 1, "deployments": values, "failed": failed}));
    Ok(exit(failed.len()))
}

fn show(host: &str, part: &Part, events: bool, printer: &Printer) -> Value {
    match part {
        Part::Recorded(record) => {
            record_text(host, record, events, printer);
            json!({"host": host, "record": record})
        }
        Part::Unrecorded(result) => {
            let why = result.error.as_deref().unwrap_or_default();
            printer.line(format!(
                "  {host:14} {} {why}",
                printer.paint("31", &format!("{:11}", result.status.name()))
            ));
            json!({"host": host, "unrecorded": result})
        }
    }
}

fn record_text(host: &str, record: &Record, events: bool, printer: &Printer) {
    let took = record.events.last().map_or(0, |e| e.at.saturating_sub(record.attempt.began));
    let outcome = record.outcome();
    let serves = match outcome.and_then(|o| o.generation) {
        Some(n) => format!("generation {n} serves"),
        None => "nothing serves".into(),
    };
    let why = outcome
        .and_then(|o| o.error.as_deref())
        .map(|e| format!(": {}", plain(e.lines().next().unwrap_or(""))));
    let status = record.status();
    let code = match status {
        Status::Succeeded => "32",
        s if s.is_final() => "31",
        _ => "33",
    };
    let kind = if record.attempt.kind == AttemptKind::TakeBack { " (taken back)" } else { "" };
    printer.line(format!(
        "  {host:14} {} {:>7.1} s  {serves}{kind}{}",
        printer.paint(code, &format!("{:11}", status.name())),
        took as f64 / 1000.0,
        why.unwrap_or_default()
    ));
    if events {
        for event in &record.events {
            let after = event.at.saturating_sub(record.attempt.began) as f64 / 1000.0;
            printer.line(format!(
                "    {after:>8.2} s  {:11} {}",
                event.status.name(),
                super::printer::lines(&event.text)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::Attempt;

    #[test]
    fn what_hosts_and_workstation_know_is_one_deployment() {
        let record = |began, kind| Record {
            attempt: Attempt {
                version: 1,
                attempt: 1,
                service: "demo".into(),
                deployment: "d1".into(),
                kind,
                by: "a@b".into(),
                snapshot: None,
                label: None,
                hosts: vec![],
                began,
            },
            events: vec![],
        };
        let result = |host: &str, on_host| HostResult {
            host: host.into(),
            status: Status::Failed,
            generation: None,
            error: None,
            hint: None,
            on_host,
        };
        let mut local = Deployment::new("d1", AttemptKind::Deploy, "demo", "a@b");
        local.hosts = vec![result("alpha", true), result("gamma", false), result("other", false)];
        let mut down = Deployment::new("d2", AttemptKind::Deploy, "demo", "a@b");
        down.hosts = vec![result("gamma", false)];
        let records = vec![
            ("beta".to_string(), record(9, AttemptKind::TakeBack)),
            ("alpha".to_string(), record(5, AttemptKind::Deploy)),
        ];
        let all = merge(&[local, down], records, &["alpha", "beta", "gamma"]);
        assert_eq!((all["d1"].began, all["d1"].kind), (5, AttemptKind::Deploy));
        let names = |id: &str| all[id].parts.iter().map(|(h, _)| h.as_str()).collect::<Vec<_>>();
        assert_eq!((names("d1"), names("d2")), (vec!["alpha", "beta", "gamma"], vec!["gamma"]));
    }
}
