//! `stillframe lock`: writes pylock.toml and stillframe.lock.
use super::capture::{inspected, report_text};
use super::documents::Locked;
use super::printer::Printer;
use super::settings::Settings;
use crate::capture::model::lock::Lock;
use crate::capture::model::pylock::{self, is_ours};
use crate::formats::python::pylock::Pylock;
use crate::snapshot::reading::{Manner, capture};
use crate::sys::error::Result;
use crate::sys::files;
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

/// The name for our own: a pylock.toml of another tool is somebody's word of what should be installed, and stays. (PEP 751
/// has `pylock.NAME.toml` for several.)
fn pylock_name(settings: &Settings) -> &'static str {
    let (usual, own) = ("pylock.toml", "pylock.stillframe.toml");
    let Ok(text) = std::fs::read_to_string(settings.project.join(usual)) else { return usual };
    match Pylock::parse(&text) {
        Ok(lock) if is_ours(&lock) => usual,
        _ => own,
    }
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::resolve(args.env.as_deref(), config)?;
    signals::heed()?;
    let subject = settings.subject()?;
    let _lock = subject.exclusive("lock", printer)?;
    // Before any work, like everything that makes a run futile.
    let own = settings.project.join("stillframe.lock");
    if let Ok(text) = std::fs::read_to_string(&own) {
        Lock::may_replace(&text, &own.display().to_string())?;
    }
    let manner = Manner { offline: args.offline, ..Manner::default() };
    let (captured, _) = capture(&subject, manner, None, printer)?;
    let (lock, pylock) = (captured.lock.to_toml()?, pylock::print(&captured.lock));
    let mut written = Vec::new();
    for (name, text) in [("stillframe.lock", &lock), (pylock_name(&settings), &pylock)] {
        let path = settings.project.join(name);
        // An unchanged lock keeps its time: build tools look at it.
        if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        files::write_atomic(&path, text.as_bytes())?;
        written.push(path);
    }
    printer.value(&Locked { inspected: inspected(&captured), written: written.clone() });
    report_text(&captured, printer);
    for path in &written {
        printer.line(format!("wrote {}", path.display()));
    }
    if written.is_empty() {
        printer.line("both locks are unchanged");
    }
    Ok(ExitCode::SUCCESS)
}
