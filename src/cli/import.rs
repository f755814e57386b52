//! `stillframe import FILE`: what another tool's file says of an environment, and, with --into, that environment.
use super::documents::Imported;
use super::printer::{Printer, plain};
use crate::formats::comfy::description::Description;
use crate::formats::credentials::redacted;
use crate::snapshot::make::{make, other_python, read};
use crate::snapshot::packages::Wish;
use crate::sys::error::Result;
use crate::sys::signals;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A ComfyUI-Manager snapshot (.json, .yaml), a .cpack.zip of comfy-pack, a comfygit pyproject.toml, or comfy-build.yaml.
    file: PathBuf,
    /// Make the environment it describes in this new folder. This clones repositories and runs pip.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The interpreter for the virtual environment (default: python3).
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: String,
    /// Run the install.py of each pack that has one, as ComfyUI-Manager does.
    #[arg(long, requires = "into")]
    install_scripts: bool,
}

pub fn run(args: &Args, printer: &Printer) -> Result<ExitCode> {
    let mut description = read(&args.file)?;
    match &args.into {
        Some(_) => {
            signals::heed()?;
            description.unresolved.extend(other_python(&description, &args.python)?);
        }
        None => description.unresolved.extend(description.files_of_others()),
    }
    show(&description, printer);
    if let Some(folder) = &args.into {
        let wish = Wish {
            description: &description,
            file: &args.file,
            folder,
            python: &args.python,
            scripts: args.install_scripts,
        };
        let lacking = make(&wish, printer.progress().as_ref())?;
        if !lacking.is_empty() {
            printer.line(printer.bold("not resolved, as making it showed"));
            lacking.iter().for_each(|item| printer.line(format!("  {}", shown(item))));
        }
        description.unresolved.extend(lacking);
    }
    let made = args.into.as_ref();
    let shown = without_credentials(json!(description));
    printer.value(&Imported { description: shown, made: made.cloned() });
    let Some(folder) = made.map(|folder| folder.display()) else { return Ok(ExitCode::SUCCESS) };
    match description.unresolved.len() {
        0 => printer.line(format!("made {folder}; next: stillframe inspect {folder}")),
        1 => printer.line(format!("made {folder} without 1 item, which is named above")),
        n => printer.line(format!("made {folder} without {n} items, which are named above")),
    }
    // Who asked for all of it has not got it.
    Ok(if description.unresolved.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of somebody else's file: what may be a credential in an address is used, and not shown.
fn shown(text: &str) -> String {
    plain(&redacted(text))
}

fn without_credentials(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(redacted(&text)),
        Value::Array(items) => items.into_iter().map(without_credentials).collect(),
        Value::Object(items) => items.into_iter().map(|(k, v)| (k, without_credentials(v))).collect(),
        other => other,
    }
}

fn show(d: &Description, printer: &Printer) {
    printer.line(printer.bold(d.format));
    if let Some(python) = &d.python {
        printer.line(format!("  Python        {}", shown(python)));
    }
    if let Some(main) = &d.comfyui {
        printer.line(format!("  ComfyUI       {} of {}", shown(&main.revision), shown(&main.repository)));
    }
    printer.line(format!("  packs         {}", d.packs.len() + d.files.len()));
    for pack in &d.packs {
        printer.line(format!("    {:32} {}", shown(&pack.name), shown(&pack.source.revision)));
    }
    d.files.iter().for_each(|file| printer.line(format!("    {}", shown(file))));
    printer.line(format!("  requirements  {}", d.requirements.len()));
    if !d.constraints.is_empty() {
        printer.line(format!("  constraints   {}", d.constraints.len()));
    }
    for index in &d.indexes {
        let packages = index.packages.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
        printer.line(format!("  index         {} has {packages}", shown(&index.url)));
    }
    for member in &d.members {
        printer.line(format!("  file          {}", shown(&member.path)));
    }
    printer.line(format!(
        "  models        {} (shared storage: bring them to the models folder)",
        d.models.len()
    ));
    for model in &d.models {
        printer.line(format!(
            "    {} {}",
            shown(&model.path),
            shown(model.url.as_deref().unwrap_or("(no source)"))
        ));
    }
    if !d.disabled.is_empty() {
        printer.line("  disabled, as the file says");
        d.disabled.iter().for_each(|item| printer.line(format!("    {}", shown(item))));
    }
    if !d.unresolved.is_empty() {
        printer.line(printer.bold("not resolved"));
        d.unresolved.iter().for_each(|item| printer.line(format!("  {}", shown(item))));
    }
}
