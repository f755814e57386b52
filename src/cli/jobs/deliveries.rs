//! `stillframe jobs deliveries`: what gateways send to others, and a second life for what was given up.
use super::Hosts;
use super::acts::{Told, act};
use crate::cli::documents::{DeliveriesRetried, JobDeliveries};
use crate::cli::exit;
use crate::cli::fleet::{self, each_says};
use crate::cli::printer::{Printer, age, plain};
use crate::deploy::fleet::Member;
use crate::deploy::jobs;
use crate::protocol::deliveries::{DeliveryRow, DeliveryState};
use crate::protocol::jobs::{JobsAnswer, JobsAsk};
use crate::sys::clock;
use crate::sys::error::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Try at once what waits, and what was given up as if it were new.
    Retry(RetryArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    hosts: Hosts,
    /// Only those in one of these states, separated by commas (default: waiting and failed).
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    state: Vec<DeliveryState>,
    /// Only those of this job, in any state.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// How many of each host.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    limit: u64,
}

#[derive(Debug, clap::Args)]
struct RetryArgs {
    /// Ids of deliveries.
    #[arg(required_unless_present = "failed")]
    ids: Vec<String>,
    /// All that were given up.
    #[arg(long, conflicts_with = "ids")]
    failed: bool,
    #[command(flatten)]
    hosts: Hosts,
}

fn states() -> impl TypedValueParser<Value = DeliveryState> {
    PossibleValuesParser::new(DeliveryState::ALL.map(DeliveryState::name))
        .try_map(|name| DeliveryState::of_name(&name).ok_or("there is no such state"))
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    match &args.command {
        Some(Command::Retry(args)) => retry(args, config, printer),
        None => list(&args.list, config, printer),
    }
}

fn list(args: &ListArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let states = match (args.state.is_empty(), &args.job) {
        (true, None) => vec![DeliveryState::Waiting, DeliveryState::Failed],
        _ => args.state.clone(),
    };
    let ask = JobsAsk::Deliveries { states, job: args.job.clone(), limit: args.limit };
    let asked = |member: &Member| match jobs::ask(member, &ask)? {
        JobsAnswer::Deliveries { deliveries, total, waiting, failed } => {
            Ok(JobDeliveries { deliveries, total, waiting, failed })
        }
        _ => Err(jobs::other(member)),
    };
    let (values, failed) = each_says(&members, printer, asked, |member, found| {
        let shown = found.deliveries.len() as u64;
        let more = if shown < found.total {
            format!("; the newest {shown} of {}", found.total)
        } else {
            String::new()
        };
        let (waiting, failed) = (found.waiting, found.failed);
        printer
            .line(format!("{}  {waiting} wait, {failed} were given up{more}", printer.bold(member.name())));
        let now = clock::now_ms();
        for row in &found.deliveries {
            printer.line(line(row, now));
            let more = format!("  {} of job {} to {}", plain(&row.what), plain(&row.job), plain(&row.to));
            printer.line(more);
            if let Some(why) = &row.why {
                printer.line(format!("  {}", plain(why)));
            }
        }
        JobDeliveries { deliveries: found.deliveries.clone(), ..*found }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}

fn line(row: &DeliveryRow, now: u64) -> String {
    let since = age(now.saturating_sub(row.made) / 1000);
    let next = match row.due.map(|due| due.saturating_sub(now) / 1000) {
        Some(0) => ", due".into(),
        Some(seconds) => format!(", next in {}", age(seconds)),
        None => String::new(),
    };
    let tries = if row.tries == 1 { "1 try".into() } else { format!("{} tries", row.tries) };
    format!("{}  {} {}, {since} old, {tries}{next}", plain(&row.id), row.kind.name(), row.state.name())
}

fn retry(args: &RetryArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let ask = JobsAsk::Redeliver { ids: args.ids.clone(), failed: args.failed };
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let mut told = Told::new("is tried again", printer);
    let (values, failed) = each_says(
        &members,
        printer,
        |member| act(member, &ask),
        |member, acted| {
            told.hear(member.name(), acted);
            if args.failed && acted.is_empty() {
                printer.line(format!("{}  nothing was given up", member.name()));
            }
            DeliveriesRetried { retried: acted.clone() }
        },
    );
    let undone = told.rest();
    fleet::document(values, failed, printer);
    Ok(exit::code(failed + undone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deliveries::DeliveryKind;

    #[test]
    fn a_delivery_in_words() {
        let row = DeliveryRow {
            id: "msg_1".into(),
            job: "j".into(),
            kind: DeliveryKind::Webhook,
            what: "job.failed".into(),
            to: "https://h/x".into(),
            state: DeliveryState::Waiting,
            made: 1_000,
            due: Some(131_000),
            ended: None,
            tries: 1,
            why: None,
        };
        assert_eq!(line(&row, 61_000), "msg_1  webhook waiting, 1min old, 1 try, next in 1min");
        let failed = DeliveryRow { state: DeliveryState::Failed, due: None, tries: 20, ..row };
        assert_eq!(line(&failed, 61_000), "msg_1  webhook failed, 1min old, 20 tries");
    }
}
