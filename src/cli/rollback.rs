//! `stillframe rollback`: to a generation that the hosts still have.
use super::events::Shown;
use super::exit;
use super::fleet::{self, Selection};
use super::printer::Printer;
use crate::deploy::records;
use crate::deploy::rollback::{Rollback, back};
use crate::sys::error::Result;
use crate::sys::signals;
use crate::sys::who;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A generation's number (of one host), or a snapshot: id, label or store path. Default: the exact
    /// generation that served before.
    #[arg(value_name = "GENERATION|SNAPSHOT")]
    to: Option<String>,
    #[command(flatten)]
    hosts: Selection,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (settings, members) = fleet::chosen(&args.hosts, config, printer)?;
    signals::heed()?;
    let rollback = Rollback {
        id: records::new_id(),
        by: who::me(),
        to: back(&settings.state, args.to.as_deref(), members.len())?,
        service: settings.config.service.name(),
        state: &settings.state,
    };
    let shown = Shown::new(printer, members.len());
    rollback.carry_out(&members, &shown).map(exit::finished)
}
