//! `stillframe inspect`: the report, and nothing else.
use super::capture::{inspected, report_text};
use super::printer::Printer;
use super::settings::Settings;
use crate::snapshot::reading::{Manner, capture};
use crate::snapshot::remembered;
use crate::sys::error::Result;
use crate::sys::signals;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ComfyUI directory (default: the one in stillframe.toml, else the current one).
    env: Option<PathBuf>,
    /// Ask no package index; every distribution counts as captured.
    #[arg(long)]
    offline: bool,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::resolve(args.env.as_deref(), config)?;
    signals::heed()?;
    let subject = settings.subject()?;
    let _lock = subject.exclusive("inspect", printer)?;
    let manner = Manner { offline: args.offline, ..Manner::default() };
    let (mut captured, _) = capture(&subject, manner, None, printer)?;
    let used = remembered::used(&subject.registry(), &subject.environment);
    captured.findings.extend(used.iter().flat_map(|used| used.findings(&subject.configured)));
    printer.value(&inspected(&captured));
    report_text(&captured, printer);
    Ok(ExitCode::SUCCESS)
}
