//! `stillframe doctor`: is this workstation able to take snapshots and deploy them? Looks, and changes nothing.
use super::exit;
use super::fleet;
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::capture::python::find;
use crate::capture::python::interpreter::InterpreterFacts;
use crate::deploy::fleet::Checked;
use crate::ship::agent;
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// A store with less room than this takes no snapshot with a CUDA torch in it.
const ROOM: u64 = 10 << 30;
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ComfyUI directory (default: the one in stillframe.toml, else the current one).
    env: Option<std::path::PathBuf>,
}

type Look = (&'static str, Result<String>);

fn first_line(words: &[&str]) -> Result<String> {
    let output = process::must(words, LIMIT)?;
    Ok(String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_string())
}

fn store(settings: Option<&Settings>) -> Result<String> {
    let remote = settings.and_then(|s| s.config.store.remote.as_deref());
    let store = Store::connect(&StoreConfig::from_environment(remote))?;
    Ok(format!("Nix {} answers; the store is {}", store.version, store.store_dir.0))
}

/// Where the store's files lie.
fn store_folder(settings: Option<&Settings>) -> std::path::PathBuf {
    let remote = settings.and_then(|s| s.config.store.remote.as_deref());
    StoreConfig::from_environment(remote).folder()
}

fn room(place: &Path) -> Result<String> {
    let there = place.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).map_err(|e| Error::io("look at", there, e.into()))?;
    let free = stat.f_bavail * stat.f_frsize;
    if free < ROOM {
        return Err(Error::new(Kind::Io, format!("{} has {} free", there.display(), bytes(free)))
            .hint("free space, or collect what Nix no longer needs: nix-collect-garbage"));
    }
    Ok(format!("{} free at {}", bytes(free), there.display()))
}

fn python(settings: &Settings) -> Result<String> {
    let root = find::check(&settings.environment)?;
    let given = settings.config.python.interpreter.as_ref().map(|p| settings.project.join(p));
    let (found, _) = find::find_python(&root, given.as_deref(), &|name| std::env::var_os(name))?;
    let facts = InterpreterFacts::of(&found.executable)?;
    Ok(format!("Python {} at {} ({})", facts.full_version, found.executable.display(), found.how))
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
    let known = settings.as_ref().ok();
    let mut looks: Vec<Look> = vec![
        ("store", store(known)),
        ("room", room(&store_folder(known))),
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
            Ok(text) => json!({"what": what, "ok": true, "text": text}),
            Err(e) => json!({"what": what, "ok": false, "error": e.report()}),
        })
        .collect();
    printer.value(&json!({"version": 1, "looks": values, "failed": failed}));
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
