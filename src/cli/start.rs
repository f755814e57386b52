//! `stillframe start`: a stopped service serves again, with exactly the generation that served.
use super::act::{self, Whose};
use super::printer::Printer;
use crate::protocol::messages::Act;
use crate::sys::error::Result;
use std::path::Path;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  stillframe start                                  on all hosts
  stillframe start --hosts gpu-1

Nothing is copied. The instances must get healthy as after a deployment; where they do not, the service stays stopped.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    whose: Whose,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    act::run(Act::Start, &args.whose, config, printer)
}
