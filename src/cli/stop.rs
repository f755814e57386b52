//! `stillframe stop`: nothing of the service is served until it is started.
use super::act::{self, Whose};
use super::printer::Printer;
use crate::protocol::messages::Act;
use crate::sys::error::Result;
use std::path::Path;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  stillframe stop                                   on all hosts
  stillframe stop --hosts gpu-1

Instances finish what they have, up to the drain limit; then the public port is closed. Jobs that wait in the gateway wait
on, on disk. A stopped service stays stopped through a start of the host. Its generations, pictures and jobs stay.
  stillframe start                                  brings back exactly the generation that served
  stillframe deploy                                 starts it with a new one";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    whose: Whose,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    act::run(Act::Stop, &args.whose, config, printer)
}
