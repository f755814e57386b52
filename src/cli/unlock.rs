//! `stillframe unlock`: takes the lock from a deployment that hangs before its activation.
use super::documents::Unlocked;
use super::exit;
use super::fleet::{self, HostsArgs, each_says};
use super::printer::{Printer, plain};
use crate::deploy::questions;
use crate::sys::clock;
use crate::sys::error::Result;
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &HostsArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let (values, failed) = each_says(&members, printer, questions::unlock, |member, holder| {
        printer.line(match holder {
            Some(holder) => format!(
                "{}  taken from {}, who had it since {}",
                member.name(),
                plain(&holder.by),
                clock::rfc3339(holder.since / 1000)
            ),
            None => format!("{}  nobody holds it", member.name()),
        });
        Unlocked { unlocked: holder.clone() }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}
