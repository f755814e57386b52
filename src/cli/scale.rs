//! `stillframe scale`: how many instances run and why; and, until it is taken back, other bounds than the configuration's.
use super::documents::Scaled;
use super::exit;
use super::fleet::{self, each_says};
use super::printer::{Printer, plain};
use crate::deploy::fleet::Member;
use crate::deploy::questions;
use crate::deploy::records;
use crate::protocol::scaling::{Change, Order, ScalingView};
use crate::sys::clock;
use crate::sys::error::Result;
use crate::sys::say::counted;
use crate::sys::who;
use std::path::Path;
use std::process::ExitCode;

/// How many decisions are shown.
const SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stillframe scale                            how many run, why, and what was decided last
  stillframe scale --minimum 2                two always, from now on
  stillframe scale --maximum 1 --hosts gpu-2  one at most, on one host
  stillframe scale --pause                    nothing changes until --resume
  stillframe scale --reset                    back to [service.scaling]

It takes effect without a deployment, is in the history, and holds over deployments and restarts of the host.")]
pub struct Args {
    /// So many instances run always; 0: none while nobody asks.
    #[arg(long, value_name = "NUMBER")]
    minimum: Option<u32>,
    /// So many instances at most.
    #[arg(long, value_name = "NUMBER")]
    maximum: Option<u32>,
    /// Leave the number of instances as it is.
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// Let it follow the queue again.
    #[arg(long)]
    resume: bool,
    /// Forget what was said before: back to the configuration.
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    hosts: fleet::Selection,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let paused = (args.pause || args.resume).then_some(args.pause);
    let change = Change { minimum: args.minimum, maximum: args.maximum, paused, reset: args.reset };
    if !change.is_none() {
        let names: Vec<&str> = members.iter().map(Member::name).collect();
        printer.line(format!("{}: {}, without a deployment", names.join(", "), change.told()));
    }
    let (by, id) = (who::me(), records::new_id());
    let ask = |member: &Member| questions::scale(member, &change, &by, &id);
    let (values, failed) = each_says(&members, printer, ask, |member, view| {
        text(member.name(), view, printer);
        Scaled { scaling: view.clone() }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}

fn text(host: &str, view: &ScalingView, printer: &Printer) {
    printer.line(format!("{}  {}", printer.bold(host), summary(view)));
    if let Some(order) = &view.order {
        printer.line(format!("  {}", said(order)));
    }
    if let (Some(p50), Some(p95)) = (view.wait_p50_ms, view.wait_p95_ms) {
        printer.line(format!("  jobs waited {}, and {} at most in 95 of 100", seconds(p50), seconds(p95)));
    }
    for decision in view.decisions.iter().take(SHOWN) {
        let failed = decision.failed.as_deref().map(|why| format!("; not done: {}", plain(why)));
        printer.line(format!(
            "  {}  {} -> {}: {}{}",
            clock::rfc3339(decision.at / 1_000),
            decision.from,
            decision.to,
            plain(&decision.why),
            failed.unwrap_or_default()
        ));
    }
}

/// In a line: wanted, actual, why.
pub fn summary(view: &ScalingView) -> String {
    format!(
        "{} wanted ({} to {}), {} there, {} ready: {}",
        counted(view.wanted as usize, "instance", "instances"),
        view.minimum,
        view.maximum,
        view.actual,
        view.ready,
        plain(&view.why)
    )
}

/// What an operator has said.
pub fn said(order: &Order) -> String {
    let mut parts = Vec::new();
    parts.extend(order.minimum.map(|n| format!("minimum {n}")));
    parts.extend(order.maximum.map(|n| format!("maximum {n}")));
    parts.extend(order.paused.then(|| "paused".to_string()));
    let (by, at) = (plain(&order.by), clock::rfc3339(order.at / 1_000));
    format!("{} by {by} since {at}; back: stillframe scale --reset", parts.join(", "))
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_in_a_line() {
        let view = ScalingView {
            minimum: 0,
            maximum: 3,
            wanted: 2,
            actual: 1,
            ready: 1,
            why: "5 jobs wait and 2 are at instances: 2 needed".into(),
            order: None,
            wait_p50_ms: None,
            wait_p95_ms: None,
            decisions: vec![],
        };
        assert_eq!(
            summary(&view),
            "2 instances wanted (0 to 3), 1 there, 1 ready: 5 jobs wait and 2 are at instances: 2 needed"
        );
        let order = Order { maximum: Some(1), paused: true, by: "a@b".into(), at: 0, ..Order::default() };
        assert_eq!(
            said(&order),
            "maximum 1, paused by a@b since 1970-01-01T00:00:00Z; back: stillframe scale --reset"
        );
    }
}
