//! `stillframe doctor`: is this workstation able to take snapshots and deploy them? Looks, and changes nothing.
use super::documents;
use super::exit;
use super::fleet;
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::capture::python::find;
use crate::deploy::fleet::Checked;
use crate::ship::agent;
use crate::snapshot::doctor::{self, first_line};
use crate::store::StoreConfig;
use crate::sys::error::{Error, Kind, Result};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ComfyUI directory (default: the one in stillframe.toml, else the current one).
    env: Option<std::path::PathBuf>,
}

type Look = (&'static str, Result<String>);

fn store(config: &StoreConfig) -> Result<String> {
    let (version, folder) = doctor::store(config)?;
    Ok(format!("Nix {version} answers; the store is {folder}"))
}

fn room(place: &Path) -> Result<String> {
    let room = doctor::room(place)?;
    let (free, place) = (bytes(room.free), room.place.display());
    if room.is_enough() {
        return Ok(format!("{free} free at {place}"));
    }
    Err(Error::new(Kind::Io, format!("{place} has {free} free"))
        .hint("free space, or collect what Nix no longer needs: nix-collect-garbage"))
}

fn python(settings: &Settings) -> Result<String> {
    let given = settings.config.python.interpreter.as_ref().map(|p| settings.project.join(p));
    doctor::python(&settings.environment, given.as_deref())
}

fn hosts(settings: &Settings, printer: &Printer) -> Result<String> {
    let members = fleet::members(settings, None, printer)?;
    let names: Vec<String> = members.iter().map(|m| m.name().to_string()).collect();
    for member in members {
        Checked::of(member)?;
    }
    Ok(format!("{} described: {}", names.len(), names.join(", ")))
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::resolve(args.env.as_deref(), config);
    let config = match &settings {
        Ok(settings) => settings.store(),
        Err(_) => StoreConfig::from_environment(None),
    };
    let mut looks: Vec<Look> = vec![
        ("store", store(&config)),
        ("room", room(&config.folder())),
        ("nix-instantiate", first_line(&["nix-instantiate", "--version"])),
        ("ssh", first_line(&["ssh", "-G", "localhost"]).map(|_| "OpenSSH's client is there".into())),
        ("git", first_line(&["git", "--version"])),
        ("agent", agent::find().map(|path| path.display().to_string())),
    ];
    match &settings {
        Ok(settings) => {
            let file = settings
                .source
                .as_ref()
                .map_or("none: defaults hold".into(), |(path, _)| path.display().to_string());
            looks.push(("configuration", Ok(file)));
            looks.push((
                "environment",
                find::check(&settings.environment).map(|root| root.display().to_string()),
            ));
            looks.push(("interpreter", python(settings)));
            looks.push(("cache", room(&settings.cache)));
            looks.push(("hosts", hosts(settings, printer)));
        }
        Err(e) => {
            looks.push(("configuration", Err(e.clone())));
        }
    }
    let failed = looks.iter().filter(|(_, look)| look.is_err()).count();
    let values: Vec<_> = looks
        .iter()
        .map(|(what, look)| match look {
            Ok(text) => documents::Look { what, ok: true, text: Some(text.clone()), error: None },
            Err(e) => documents::Look { what, ok: false, text: None, error: Some(e.report()) },
        })
        .collect();
    printer.value(&documents::Doctor { looks: values, failed });
    for (what, look) in &looks {
        match look {
            Ok(text) => printer.line(format!("{} {what:16} {}", printer.paint("32", "ok     "), plain(text))),
            Err(e) => {
                let text = plain(&e.full());
                printer.line(format!("{} {what:16} {text}", printer.paint("31", "problem")));
                if let Some(hint) = &e.hint {
                    printer.line(format!("        {:16} hint: {}", "", plain(hint)));
                }
            }
        }
    }
    printer.line(match failed {
        0 => "nothing stands in the way of a deployment".to_string(),
        1 => "1 problem".into(),
        n => format!("{n} problems"),
    });
    Ok(exit::code(failed))
}
