//! `stillframe remove`: takes a service from its hosts, and leaves nothing of it there.
use super::act::{self, Whose};
use super::agree;
use super::events::Shown;
use super::exit;
use super::fleet;
use super::printer::Printer;
use crate::deploy::events::{Ended, Event, Observer};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::questions;
use crate::protocol::messages::Act;
use crate::sys::error::Result;
use crate::sys::signals;
use std::path::Path;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  stillframe remove --dry-run                       what would go, and what would stay
  stillframe remove --hosts gpu-1                   from one host; pictures, uploads, user data and jobs stay there
  stillframe remove --data                          from all hosts, with all of that

Instances finish what they have first, up to the drain limit. Then units, profile, roots, state, history, secrets, slots and
runtime files of the service go, and the store lets go of what was for it alone. Models and folders of the host stay. What
`stillframe host prepare` put there stays, too: `stillframe host retire` takes that away.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Also pictures, uploads, user data, and the jobs of the gateway.
    #[arg(long)]
    data: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only show what would go, and what would stay.
    #[arg(long)]
    dry_run: bool,
    /// Do not run Nix's garbage collector afterwards.
    #[arg(long)]
    keep_store: bool,
    #[command(flatten)]
    whose: Whose,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (settings, members) = fleet::chosen(&args.whose.hosts, config, printer)?;
    signals::heed()?;
    let shown = Shown::new(printer, members.len());
    let mut failed = 0;
    for (host, look) in
        on_each(members.iter().collect(), |m: &Member| (m.name(), questions::removal(m, args.data)))
    {
        let host = host.to_string();
        match look {
            Ok(removal) => shown.event(&Event::Removal { host, removal: Box::new(removal) }),
            Err(e) => {
                failed += 1;
                shown.event(&Event::Unavailable { host, error: e.report() });
            }
        }
    }
    if failed > 0 || args.dry_run {
        shown.event(&Event::Result(Ended::DryRun { dry_run: true, failed }));
        if failed > 0 {
            printer.line("nothing was done: name the hosts that are there with --hosts");
        }
        return Ok(exit::code(failed));
    }
    if !args.yes {
        agree::ask("stillframe remove --yes", printer)?;
    }
    let act = Act::Remove { data: args.data };
    act::carry_out(act, &args.whose, !args.keep_store, &settings, &members, printer)
}
