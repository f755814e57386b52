//! `stillframe snapshot`: lock, derivations, realise, register.

use super::capture::findings_text;
use super::printer::{Printer, bytes, lines};
use super::settings::Settings;
use crate::snapshot::report::Report;
use crate::snapshot::take::{Request, take};
use crate::sys::error::Result;
use crate::sys::signals;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ComfyUI directory (default: the one in stillframe.toml, else the current one).
    env: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct How {
    /// A name for this snapshot, to find it again.
    #[arg(long)]
    pub label: Option<String>,
    /// Start the environment's own server once, on a loopback port with a scratch base directory, and
    /// record its node classes, import failures and import times; then import every distribution from the
    /// snapshot, and lay out as real files those that do not import through links. This runs the
    /// environment's code.
    #[arg(long)]
    pub probe: bool,
    /// Ask no package index; every distribution counts as captured.
    #[arg(long)]
    pub offline: bool,
}

impl How {
    pub fn request(&self) -> Request {
        Request { label: self.label.clone(), probe: self.probe, offline: self.offline }
    }
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::resolve(args.env.as_deref(), config)?;
    signals::heed()?;
    let (_, report) = take(&settings.subject()?, &args.how.request(), printer)?;
    printer.whole(&report);
    report_text(&report, printer);
    Ok(ExitCode::SUCCESS)
}

/// What the user must know, and a line of what was taken.
pub fn report_text(report: &Report, printer: &Printer) {
    let (told, failed) = (report.told(), report.failed_probe());
    let more = report.findings.len() - told.len() - usize::from(failed.is_some());
    findings_text(told, printer);
    if more > 0 {
        printer.line(format!("more in the report ({more}): stillframe snapshots show {}", report.id));
    }
    if let Some(failed) = failed {
        printer.warning(&format!("warning: {}", lines(&failed.message)));
    }
    let Report { snapshot, id, realise, .. } = report;
    if report.unchanged {
        return printer.line(format!("unchanged: {snapshot} ({id})"));
    }
    printer.line(format!(
        "snapshot {id}: {snapshot} ({} paths, {}; {} paths and {} were new; {} built) in {:.1} s",
        report.closure_paths,
        bytes(report.closure_bytes),
        realise.sent_paths,
        bytes(realise.sent_bytes),
        realise.built,
        report.seconds
    ));
}
