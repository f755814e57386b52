//! `stillframe jobs export` and `backup`: the jobs of hosts as JSON lines, and the database of one host as a file.
use super::Hosts;
use crate::cli::documents::{BackedUp, JobLine};
use crate::cli::exit;
use crate::cli::fleet;
use crate::cli::printer::{Printer, bytes};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::jobs;
use crate::ship::quantity::Span;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    hosts: Hosts,
    /// Only those that were accepted within this time, as in 7d or 12h (default: all that are kept).
    #[arg(long, value_name = "TIME", value_parser = Span::parse)]
    since: Option<Span>,
}

#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    #[command(flatten)]
    hosts: Hosts,
    /// Where the copy goes on this machine: a file that is not there yet.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub fn export(args: &ExportArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let since = args.since.map(|since| clock::now_ms().saturating_sub(since.0));
    let results = on_each(members.iter().collect(), |member: &Member| {
        jobs::export(member, since, |job| {
            printer.data(&JobLine { host: member.name().into(), job });
            if printer.output().is_gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    let lost: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    lost.iter().for_each(|e| printer.error(e));
    Ok(exit::code(lost.len()))
}

pub fn backup(args: &BackupArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let [member] = members.as_slice() else {
        let names: Vec<&str> = members.iter().map(Member::name).collect();
        let text = format!("{} hosts have a database each, and one file is named", members.len());
        return Err(Error::new(Kind::Input, text)
            .hint(format!("say which: --hosts {}", names.first().copied().unwrap_or("NAME"))));
    };
    let size = jobs::backup(member, &args.to)?;
    printer.line(format!("{}  {} in {}", member.name(), bytes(size), args.to.display()));
    printer.value(&BackedUp { host: member.name().into(), file: args.to.clone(), bytes: size });
    Ok(ExitCode::SUCCESS)
}
