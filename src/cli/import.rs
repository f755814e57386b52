//! `stillframe import FILE`: what another tool's file says of an environment, and, with --into, that environment.
use super::printer::{Printer, plain};
use crate::formats::comfy::description::Description;
use crate::snapshot::make::{make, other_python, read};
use crate::sys::error::Result;
use crate::sys::signals;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A ComfyUI-Manager snapshot, a .cpack.zip of comfy-pack, a comfygit pyproject.toml, or comfy-build.yaml.
    file: PathBuf,
    /// Make the environment it describes in this new folder. This clones repositories and runs pip.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The interpreter for the virtual environment (default: python3).
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: String,
}

pub fn run(args: &Args, printer: &Printer) -> Result<ExitCode> {
    let mut description = read(&args.file)?;
    if args.into.is_some() {
        signals::heed()?;
        description.unresolved.extend(other_python(&description, &args.python)?);
    }
    show(&description, printer);
    if let Some(folder) = &args.into {
        make(&description, folder, &args.python, printer.progress().as_ref())?;
    }
    let made = args.into.as_ref();
    printer.value(&json!({"version": 1, "description": description, "made": made}));
    let Some(folder) = made.map(|folder| folder.display()) else { return Ok(ExitCode::SUCCESS) };
    match description.unresolved.len() {
        0 => printer.line(format!("made {folder}; next: stillframe inspect {folder}")),
        1 => printer.line(format!("made {folder} without 1 item, which is named above")),
        n => printer.line(format!("made {folder} without {n} items, which are named above")),
    }
    // Who asked for all of it has not got it.
    Ok(if description.unresolved.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(d: &Description, printer: &Printer) {
    printer.line(printer.bold(d.format));
    if let Some(python) = &d.python {
        printer.line(format!("  Python        {}", plain(python)));
    }
    if let Some(main) = &d.comfyui {
        printer.line(format!("  ComfyUI       {} of {}", plain(&main.revision), plain(&main.repository)));
    }
    printer.line(format!("  packs         {}", d.packs.len()));
    for pack in &d.packs {
        printer.line(format!("    {:32} {}", plain(&pack.name), plain(&pack.source.revision)));
    }
    printer.line(format!("  requirements  {}", d.requirements.len()));
    printer.line(format!(
        "  models        {} (shared storage: bring them to the models folder)",
        d.models.len()
    ));
    for model in &d.models {
        printer.line(format!(
            "    {} {}",
            plain(&model.path),
            plain(model.url.as_deref().unwrap_or("(no source)"))
        ));
    }
    if !d.unresolved.is_empty() {
        printer.line(printer.bold("not resolved"));
        d.unresolved.iter().for_each(|item| printer.line(format!("  {}", plain(item))));
    }
}
