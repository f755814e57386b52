//! `stillframe restart`: instances anew, one after the other, without a request lost.
use super::act::{self, Whose};
use super::printer::Printer;
use crate::protocol::messages::Act;
use crate::sys::error::Result;
use std::path::Path;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  stillframe restart --all                          every instance of every host
  stillframe restart --all --hosts gpu-1            those of one host, for instance after an upgrade of its GPU driver
  stillframe restart s1-g7 --hosts gpu-1            one instance, as `stillframe instances` shows it

One instance at a time: it has no new requests and jobs, finishes what it has up to the drain limit, starts anew, and has
traffic again once it is healthy. Requests wait while no instance is there. Where one does not get healthy the others are
left as they are.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["instances", "all"])))]
pub struct Args {
    /// Those to restart; with several hosts, name the one with --hosts.
    #[arg(value_name = "INSTANCE")]
    instances: Vec<String>,
    /// All that serve.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    whose: Whose,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    act::run(Act::Restart { instances: args.instances.clone() }, &args.whose, config, printer)
}
