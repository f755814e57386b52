//! `stillframe history`: every deployment with what came of it on each host, newest first.
use super::documents::{self, Deployment, History, Lost};
use super::events::event_text;
use super::exit;
use super::fleet::{self, Selection, known_as};
use super::printer::{Printer, plain};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::history::{Merged, Part, merge};
use crate::deploy::{questions, records};
use crate::protocol::messages::{AttemptKind, Record, Status};
use crate::sys::clock;
use crate::sys::error::Result;
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

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (settings, members) = fleet::chosen(&args.hosts, config, printer)?;
    let answers = on_each(members.iter().collect(), |member: &Member| questions::history(member, args.count));
    let (mut recorded, mut failed) = (Vec::new(), Vec::new());
    for (member, answer) in members.iter().zip(answers) {
        match answer {
            Ok(found) => recorded.extend(found.into_iter().map(|r| (member.name().to_string(), r))),
            Err(e) => {
                printer.error_text(&e);
                failed.push(Lost { host: member.name().into(), error: e.report() });
            }
        }
    }
    let hosts: Vec<&str> = members.iter().map(Member::name).collect();
    let merged = merge(
        &records::newest(&settings.state, settings.config.service.name(), args.count),
        recorded,
        &hosts,
    );
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
        values.push(Deployment {
            deployment: id,
            kind: merged.kind,
            by: merged.by,
            began: merged.began,
            snapshot: merged.snapshot,
            hosts: merged
                .parts
                .into_iter()
                .map(|(host, part)| show(host, part, args.events, printer))
                .collect(),
        });
    }
    let lost = failed.len();
    printer.value(&History { deployments: values, failed });
    Ok(exit::code(lost))
}

fn show(host: String, part: Part, events: bool, printer: &Printer) -> documents::Part {
    match part {
        Part::Recorded(record) => {
            record_text(&host, &record, events, printer);
            documents::Part::Recorded { host, record }
        }
        Part::Unrecorded(result) => {
            let why = result.error.as_deref().map(plain).unwrap_or_default();
            printer.line(format!(
                "  {host:14} {} {why}",
                printer.paint("31", &format!("{:11}", result.status.name()))
            ));
            documents::Part::Unrecorded { host, unrecorded: result }
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
    let kind = match record.attempt.kind {
        AttemptKind::TakeBack => " (taken back)".to_string(),
        // What is of interest is not what serves, which did before.
        AttemptKind::Scale => {
            record.events.first().map(|e| format!(" (scale: {})", plain(&e.text))).unwrap_or_default()
        }
        _ => String::new(),
    };
    printer.line(format!(
        "  {host:14} {} {:>7.1} s  {serves}{kind}{}",
        printer.paint(code, &format!("{:11}", status.name())),
        took as f64 / 1000.0,
        why.unwrap_or_default()
    ));
    if events {
        for (at, event) in record.events.iter().enumerate() {
            // Of a copy's progress, the last word alone.
            if event.bytes.is_some() && record.events.get(at + 1).is_some_and(|next| next.bytes.is_some()) {
                continue;
            }
            let after = event.at.saturating_sub(record.attempt.began) as f64 / 1000.0;
            printer.line(format!("    {after:>8.2} s  {:11} {}", event.status.name(), event_text(event)));
        }
    }
}
