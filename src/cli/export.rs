//! `stillframe export`: a snapshot as others' files: what is installed (pylock.toml, PEP 751), what ComfyUI-Manager can restore, and
//! what it is made of with licences (CycloneDX).
use super::printer::Printer;
use super::settings::Settings;
use crate::closure::licences::licences;
use crate::closure::manager_snapshot::manager_snapshot;
use crate::closure::registry::Registry;
use crate::closure::sbom;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::signals;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    format: Format,
    /// The snapshot: id, its beginning, or a label (default: the latest).
    snapshot: Option<String>,
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// pylock.toml (PEP 751), for other installers.
    Pylock,
    /// ComfyUI-Manager's snapshot JSON.
    ManagerSnapshot,
    /// A software bill of materials: CycloneDX 1.6 JSON, with licences.
    Cyclonedx,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    signals::heed()?;
    let registry = Registry::new(&settings.state);
    let record = registry.find(args.snapshot.as_deref())?;
    let text = match args.format {
        Format::Pylock => files::read_text(&registry.folder(&record.id).join("pylock.toml"))?,
        Format::ManagerSnapshot => {
            let (snapshot, unable) = manager_snapshot(&registry.lock(&record)?);
            unable.iter().for_each(|item| printer.note(&format!("not in a Manager snapshot: {item}")));
            pretty(&serde_json::to_value(snapshot).map_err(unwritable)?)
        }
        Format::Cyclonedx => {
            let lock = registry.lock(&record)?;
            let licences = licences(&settings.store(), &record, &lock, printer.progress().as_ref())?;
            pretty(&sbom::cyclonedx(&record, &lock, &licences))
        }
    };
    match &args.output {
        Some(file) => {
            // A device, a pipe or a link is written to, never replaced.
            if std::fs::symlink_metadata(file).is_ok_and(|m| !m.is_file()) {
                std::fs::write(file, text.as_bytes()).map_err(|e| Error::io("write", file, e))?;
            } else {
                files::write_if_changed(file, text.as_bytes())?;
            }
            printer.line(format!("wrote {}", file.display()));
        }
        None => printer.raw(&text),
    }
    Ok(ExitCode::SUCCESS)
}

fn unwritable(e: serde_json::Error) -> Error {
    Error::new(Kind::Io, "cannot write JSON").caused_by(e)
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
