//! `stillframe host add` and `host remove`: the files that describe hosts. Each host has a file of its own, so nobody's
//! comments are touched.
use super::documents::{HostAdded, HostForgotten};
use super::new_host::NewHost;
use super::printer::Printer;
use super::settings::Settings;
use crate::deploy::fleet::Member;
use crate::deploy::questions;
use crate::ship::hosts;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const ADD_EXAMPLES: &str = "\
Examples:
  stillframe host add gpu-1                         a name that your ssh knows
  stillframe host add gpu-2=deploy@10.0.0.7:2222 --tag eu
  stillframe host add gpu-3=gpu-3.example --ssh-config ssh_config";

#[derive(Debug, clap::Args)]
#[command(after_help = ADD_EXAMPLES)]
pub struct Add {
    /// NAME, or NAME=USER@ADDRESS:PORT (user and port may be left out).
    #[arg(value_name = "HOST", value_parser = NewHost::parse)]
    host: NewHost,
    /// In place of ~/.ssh/config, relative to the host's file.
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// What it is chosen by: --hosts @TAG.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The host's name.
    #[arg(value_name = "NAME")]
    name: String,
    /// Do not ask the host whether the service is still there.
    #[arg(long)]
    forget: bool,
}

pub fn add(args: &Add, settings: &Settings, printer: &Printer) -> Result<ExitCode> {
    let folder = folder(settings)?;
    let host = NewHost { ssh_config: args.ssh_config.clone(), ..args.host.clone() };
    let file = folder.join(format!("{}.toml", host.name));
    let twins = ["toml", "nix"].map(|kind| folder.join(format!("{}.{kind}", host.name)));
    if let Some(there) = twins.iter().find(|file| file.exists()) {
        return Err(Error::new(Kind::Input, format!("{} is there already", there.display()))
            .hint("edit it, or choose another name: NAME=ADDRESS"));
    }
    let mut text = host.text();
    if !args.tags.is_empty() {
        let tags: Vec<String> = args.tags.iter().map(|tag| format!("{tag:?}")).collect();
        text.push_str(&format!("tags = [{}]\n", tags.join(", ")));
    }
    hosts::check(&file, &text)?;
    if !files::create_atomic(&file, text.as_bytes())? {
        return Err(Error::new(Kind::Input, format!("{} is there already", file.display())));
    }
    printer.line(format!("wrote {}", file.display()));
    printer.line(format!("next: stillframe host prepare {} && stillframe deploy", host.name));
    printer.value(&HostAdded { name: host.name, file });
    Ok(ExitCode::SUCCESS)
}

pub fn remove(args: &Remove, settings: &Settings, printer: &Printer) -> Result<ExitCode> {
    folder(settings)?;
    let chosen = settings.fleet().choose(Some(&args.name))?;
    let [member] = chosen.members.as_slice() else {
        return Err(Error::new(Kind::Input, format!("{:?} is no one host", args.name)).hint("give one name"));
    };
    if !args.forget {
        is_gone(member)?;
    }
    let file = &member.host.file;
    // Also the one of Nix, where that is what describes it.
    let aside =
        file.with_file_name(format!("{}.removed", file.file_name().unwrap_or_default().to_string_lossy()));
    std::fs::rename(file, &aside).map_err(|e| Error::io("rename", file, e))?;
    files::sync_dir(file.parent().unwrap_or(Path::new(".")))?;
    printer.line(format!(
        "{} is no host of this project any more; its file is {}",
        member.name(),
        aside.display()
    ));
    printer.value(&HostForgotten { name: member.name().into(), file: file.clone(), put_aside: aside });
    Ok(ExitCode::SUCCESS)
}

/// A host whose file is gone is one that nobody looks after.
fn is_gone(member: &Member) -> Result<()> {
    let name = member.name();
    let service = member.service.name();
    let forget = "or leave it as it is: --forget";
    let view = member.remote().and_then(|remote| questions::status(&remote, service));
    let view = match view {
        Ok(view) => view,
        Err(e) => return Err(e.hint(format!("make it answer, {forget}"))),
    };
    if view.services.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Input, format!("{service} is still there: nobody would look after it"))
        .within(name)
        .hint(format!("stillframe remove --hosts {name}, {forget}")))
}

/// The folder of the hosts' files.
fn folder(settings: &Settings) -> Result<PathBuf> {
    settings.fleet().files().ok_or_else(|| {
        Error::new(Kind::Input, "the hosts of this project are values of its flake, not files")
            .hint("edit the flake")
    })
}
