//! `stillframe cancel`: stops the deployment under way; what served before it serves on.
use super::documents::Cancelled;
use super::exit;
use super::fleet::{self, HostsArgs, each_says};
use super::printer::{Printer, plain};
use crate::deploy::questions;
use crate::sys::error::Result;
use crate::sys::who;
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &HostsArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let by = who::me();
    let ask = |member: &_| questions::cancel(member, &by);
    let (values, failed) = each_says(&members, printer, ask, |member, holder| {
        printer.line(format!(
            "{}  the {} begun by {} is told to stop; the generation before it serves on",
            member.name(),
            holder.kind.name(),
            plain(&holder.by)
        ));
        Cancelled { cancelled: holder.clone() }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}
