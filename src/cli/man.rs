//! `stillframe man DIR`: manual pages, one a command, as packages install them.
use super::documents::Pages;
use super::printer::Printer;
use crate::sys::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the pages go: NAME.1 each.
    directory: PathBuf,
}

pub fn run(args: &Args, command: clap::Command, printer: &Printer) -> Result<ExitCode> {
    let dir = &args.directory;
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create directory", dir, e))?;
    let mut written = Vec::new();
    let name = command.get_name().to_string();
    page(&command.disable_help_subcommand(true), &name, dir, &mut written)?;
    printer.line(format!("wrote {} pages to {}", written.len(), dir.display()));
    printer.value(&Pages { written });
    Ok(ExitCode::SUCCESS)
}

fn page(command: &clap::Command, name: &str, dir: &Path, written: &mut Vec<String>) -> Result<()> {
    let file = format!("{name}.1");
    let path = dir.join(&file);
    let mut text = Vec::new();
    // clap wants owned names that live as long as the program; there are few.
    let named: &'static str = Box::leak(name.to_string().into_boxed_str());
    clap_mangen::Man::new(command.clone().name(named))
        .render(&mut text)
        .map_err(|e| Error::io("render", &path, e))?;
    std::fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
    written.push(file);
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        page(inner, &format!("{name}-{}", inner.get_name()), dir, written)?;
    }
    Ok(())
}
