//! What `restart`, `stop` and `start` have in common: an order for a service as a whole.
use super::events::Shown;
use super::exit;
use super::fleet::{self, Selection};
use super::printer::Printer;
use super::settings::Settings;
use crate::deploy::fleet::Member;
use crate::deploy::life::Life;
use crate::deploy::{project, records};
use crate::protocol::messages::Act;
use crate::sys::error::Result;
use crate::sys::signals;
use crate::sys::who;
use std::path::Path;
use std::process::ExitCode;

/// Where, and whose service.
#[derive(Debug, clap::Args)]
pub struct Whose {
    #[command(flatten)]
    pub hosts: Selection,
    /// Also where another project deployed the service.
    #[arg(long)]
    pub take_over: bool,
}

pub fn run(act: Act, whose: &Whose, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (settings, members) = fleet::chosen(&whose.hosts, config, printer)?;
    signals::heed()?;
    carry_out(act, whose, true, &settings, &members, printer)
}

pub fn carry_out(
    act: Act,
    whose: &Whose,
    collect: bool,
    settings: &Settings,
    members: &[Member],
    printer: &Printer,
) -> Result<ExitCode> {
    let life = Life {
        id: records::new_id(),
        by: who::me(),
        act,
        service: settings.config.service.name(),
        project: project::of(&settings.project, true)?,
        take_over: whose.take_over,
        collect,
        rollout: &settings.config.rollout,
        state: &settings.state,
    };
    let shown = Shown::new(printer, members.len());
    life.carry_out(members, &shown).map(exit::finished)
}
