//! `stillframe retention`: what hosts keep and why; frees the rest.
use super::documents::{Retained, with_dates};
use super::exit;
use super::fleet::{self, Selection, each_says};
use super::printer::{Printer, bytes, plain};
use crate::deploy::questions;
use crate::protocol::retention::RetentionReport;
use crate::sys::clock;
use crate::sys::error::Result;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    hosts: Selection,
    /// Only show what is kept and what would go.
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let ask = |member: &_| questions::retention(member, !args.dry_run);
    let (values, failed) = each_says(&members, printer, ask, |member, report| {
        printer.line(printer.bold(member.name()));
        show(report, printer);
        Retained { report: with_dates(json!(report), "generations") }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}

fn show(report: &RetentionReport, printer: &Printer) {
    for g in &report.generations {
        let why = g.why.as_deref().unwrap_or("goes");
        let gone = if g.gone { "gone from the store, nothing can go back to it; " } else { "" };
        printer.line(format!(
            "  {} generation {:3}  {}  {:>10} ({} its own)  {gone}{why}",
            g.service,
            g.generation,
            clock::rfc3339(g.created),
            bytes(g.bytes),
            bytes(g.own_bytes)
        ));
    }
    for line in report.tidied.iter().chain(&report.problems) {
        printer.line(format!("  {}", plain(line)));
    }
    if report.incoming_bytes > 0 {
        printer.line(format!("  {} of unfinished transfers (kept for a week)", bytes(report.incoming_bytes)));
    }
    match report.freed_bytes {
        Some(freed) => printer.line(format!("  freed {}", bytes(freed))),
        None => printer.line("  nothing was freed: this was only a look"),
    }
}
