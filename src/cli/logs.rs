//! `stillframe logs`: the log of a service or of one of its instances.
use super::documents::LogLine;
use super::exit;
use super::fleet::{self, Selection};
use super::printer::{Printer, plain};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::questions::{self, LogOf};
use crate::sys::error::Result;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// An instance as `stillframe instances` shows it (s0-g7), or gateway, or activation. Default: all.
    instance: Option<String>,
    #[command(flatten)]
    hosts: Selection,
    /// Go on with what comes.
    #[arg(short, long)]
    follow: bool,
    /// How many lines to begin with.
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: u32,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let of =
        LogOf { part: args.instance.as_deref(), lines: args.lines, follow: args.follow, json: printer.json };
    let several = members.len() > 1;
    let results = on_each(members.iter().collect(), |member: &Member| {
        questions::log(member, of, |line| {
            if printer.json {
                // The journal's own document; what is none has no fields.
                let entry: Value = serde_json::from_str(line).unwrap_or_default();
                printer.event(&LogLine { host: member.name().into(), entry });
            } else if several {
                printer.line(format!("{}  {}", member.name(), plain(line)));
            } else {
                printer.line(plain(line));
            }
            if printer.output().is_gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    let lost: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    lost.iter().for_each(|e| printer.error(e));
    Ok(exit::code(lost.len()))
}
