//! `stillframe cancel`, `unlock` and `retention`.
use super::fleet::{self, Selection, each_says};
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::protocol::messages::Holder;
use crate::protocol::retention::RetentionReport;
use crate::ship::ask;
use crate::sys::clock;
use crate::sys::error::Result;
use crate::sys::who;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// A garbage collector reads all of a store.
const COLLECT_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    hosts: Selection,
}

#[derive(Debug, clap::Args)]
pub struct RetentionArgs {
    #[command(flatten)]
    hosts: Selection,
    /// Only show what is kept and what would go.
    #[arg(long)]
    dry_run: bool,
}

fn exit(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub fn cancel(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let by = who::me();
    let (values, failed) = each_says(
        &members,
        printer,
        |member| {
            ask::ask::<Holder>(&member.remote()?, &["cancel", member.service.name(), "--by", &by], LIMIT)
        },
        |member, holder| {
            printer.line(format!(
                "{}  the {} begun by {} is told to stop; the generation before it serves on",
                member.name(),
                holder.kind.name(),
                plain(&holder.by)
            ));
            json!({"host": member.name(), "cancelled": holder})
        },
    );
    printer.value(&json!({"version": 1, "hosts": values, "failed": failed}));
    Ok(exit(failed))
}

pub fn unlock(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let (values, failed) = each_says(
        &members,
        printer,
        |member| ask::ask::<Option<Holder>>(&member.remote()?, &["unlock", member.service.name()], LIMIT),
        |member, holder| {
            printer.line(match holder {
                Some(holder) => format!(
                    "{}  taken from {}, who had it since {}",
                    member.name(),
                    plain(&holder.by),
                    clock::rfc3339(holder.since / 1000)
                ),
                None => format!("{}  nobody holds it", member.name()),
            });
            json!({"host": member.name(), "unlocked": holder})
        },
    );
    printer.value(&json!({"version": 1, "hosts": values, "failed": failed}));
    Ok(exit(failed))
}

pub fn retention(args: &RetentionArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let (values, failed) = each_says(
        &members,
        printer,
        |member| {
            let mut words = vec!["retention", member.service.name()];
            if !args.dry_run {
                words.push("--free");
            }
            ask::ask::<RetentionReport>(&member.remote()?, &words, COLLECT_LIMIT)
        },
        |member, report| {
            printer.line(printer.bold(member.name()));
            for g in &report.generations {
                let why = g.why.as_deref().unwrap_or("goes");
                printer.line(format!(
                    "  {} generation {:3}  {}  {:>10} ({} its own)  {why}",
                    g.service,
                    g.generation,
                    clock::rfc3339(g.created),
                    bytes(g.bytes),
                    bytes(g.own_bytes)
                ));
            }
            if report.incoming_bytes > 0 {
                printer.line(format!(
                    "  {} of unfinished transfers (kept for a week)",
                    bytes(report.incoming_bytes)
                ));
            }
            match report.freed_bytes {
                Some(freed) => printer.line(format!("  freed {}", bytes(freed))),
                None => printer.line("  nothing was freed: this was only a look"),
            }
            json!({"host": member.name(), "report": report})
        },
    );
    printer.value(&json!({"version": 1, "hosts": values, "failed": failed}));
    Ok(exit(failed))
}
