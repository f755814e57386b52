//! `stillframe jobs`: the jobs that gateways own, over all hosts of a service.
mod acts;
mod deliveries;
mod list;
mod show;
mod take;

use super::fleet::Selection;
use super::printer::Printer;
use crate::sys::error::{Error, Kind, Result};
use std::path::Path;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  stillframe jobs                                  the newest, of every host
  stillframe jobs --state queued,running --limit 100
  stillframe jobs --watch                          each as it changes
  stillframe jobs show 7f3a62c4-5b1e-4b6e-9d0a-2f1c8e6b7a90
  stillframe jobs cancel --waiting --hosts gpu-1   all that wait there
  stillframe jobs requeue 7f3a62c4-5b1e-4b6e-9d0a-2f1c8e6b7a90
  stillframe jobs deliveries                       what waits to be sent to others
  stillframe jobs deliveries retry --failed
  stillframe jobs export --since 7d > jobs.jsonl
  stillframe jobs backup --hosts gpu-1 --to jobs.sqlite

A gateway owns the jobs with `queue = \"gateway\"` under [service.jobs].";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: list::ListArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One job: where it is or was, its tries, what it made.
    Show(show::Args),
    /// End jobs that wait or run.
    Cancel(acts::CancelArgs),
    /// Have jobs that have ended wait again, as if they were new.
    Requeue(acts::RequeueArgs),
    /// Every kept job with its prompt and its history, as JSON lines.
    Export(take::ExportArgs),
    /// What is sent to others: webhooks and uploads that wait, and why they failed last.
    Deliveries(deliveries::Args),
    /// A consistent copy of a host's database of jobs, while it is in use.
    Backup(take::BackupArgs),
}

impl Args {
    /// What stands before a command is for the list, and would go unheard.
    pub fn check(&self) -> Result<()> {
        if self.command.is_none() || self.list.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Input, "options of the list of jobs stand before another command of `jobs`")
            .hint("write --hosts behind that command; the others are for the list alone"))
    }

    pub fn prints_stream(&self) -> bool {
        match &self.command {
            None => self.list.watch,
            Some(command) => matches!(command, Command::Export(_)),
        }
    }
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    args.check()?;
    match &args.command {
        None if args.list.watch => list::watch(&args.list, config, printer),
        None => list::run(&args.list, config, printer),
        Some(Command::Show(args)) => show::run(args, config, printer),
        Some(Command::Cancel(args)) => acts::cancel(args, config, printer),
        Some(Command::Requeue(args)) => acts::requeue(args, config, printer),
        Some(Command::Deliveries(args)) => deliveries::run(args, config, printer),
        Some(Command::Export(args)) => take::export(args, config, printer),
        Some(Command::Backup(args)) => take::backup(args, config, printer),
    }
}

/// Which hosts, of every subcommand.
type Hosts = Selection;
