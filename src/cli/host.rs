//! `stillframe host`: what hosts have and lack, and bringing them a snapshot ahead of its deployment.
use super::documents::{Answer, Described, DescribedHost, Hosts, RepairedHost, SentHost, SentTo};
use super::exit;
use super::fleet;
use super::host_files;
use super::host_look;
use super::maintenance;
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::closure::registry::Registry;
use crate::deploy::fleet::Member;
use crate::deploy::questions;
use crate::deploy::send::{self, Done};
use crate::ship::hosts::Host;
use crate::sys::error::{Error, Result};
use crate::sys::progress::Amount;
use crate::sys::who;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Every host as it is described, in TOML or in Nix; asks none.
    List {
        /// Names, globs, @tags, !exclusions (default: all).
        #[arg(value_name = "SELECTOR")]
        hosts: Vec<String>,
    },
    /// What hosts have and lack for this service; changes nothing.
    Check {
        /// Names, globs, @tags, !exclusions (default: all).
        #[arg(value_name = "SELECTOR")]
        hosts: Vec<String>,
        /// Also read every file of what serves, and compare it with its hash.
        #[arg(long)]
        deep: bool,
    },
    /// Set hosts up, once: shows what is to be done, and does it when you agree.
    Prepare {
        #[arg(value_name = "SELECTOR")]
        hosts: Vec<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Describe a host: writes hosts/NAME.toml.
    Add(host_files::Add),
    /// Describe a host no more: its file is put aside, once the service is not there any more.
    Remove(host_files::Remove),
    /// Put hosts under maintenance: all their services finish what they have and stop, and nothing is deployed there.
    Drain(maintenance::Args),
    /// End hosts' maintenance: what was stopped for it starts again as it was.
    Return(maintenance::Args),
    /// Take away what `host prepare` put there, once no service is left.
    Retire {
        #[arg(value_name = "SELECTOR", required = true)]
        hosts: Vec<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Make what hosts know of their services readable again, and each service what that says.
    Repair {
        /// Names, globs, @tags, !exclusions (default: all).
        #[arg(value_name = "SELECTOR")]
        hosts: Vec<String>,
        /// Every service of the hosts, not only this project's.
        #[arg(long)]
        all: bool,
    },
    /// Bring hosts what they lack of a snapshot, ahead of its deployment.
    Send {
        #[arg(value_name = "SELECTOR")]
        hosts: Vec<String>,
        /// The snapshot: id, label or any store path (default: the latest).
        #[arg(long)]
        snapshot: Option<String>,
        /// Only say what would be sent.
        #[arg(long)]
        dry_run: bool,
    },
}

pub fn run(command: Command, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let members = |selectors: &[String]| {
        let selector = selectors.join(",");
        fleet::members(&settings, Some(selector.as_str()).filter(|s| !s.is_empty()), printer)
    };
    match command {
        Command::List { hosts } => {
            list(&members(&hosts)?, printer);
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { hosts, deep } => check(&members(&hosts)?, deep, printer),
        Command::Prepare { hosts, yes } => super::prepare::run(&settings, &members(&hosts)?, yes, printer),
        Command::Add(args) => host_files::add(&args, &settings, printer),
        Command::Remove(args) => host_files::remove(&args, &settings, printer),
        Command::Drain(args) => maintenance::drain(&members(&args.hosts)?, args.yes, printer),
        Command::Return(args) => maintenance::bring_back(&members(&args.hosts)?, printer),
        Command::Retire { hosts, yes } => maintenance::retire(&members(&hosts)?, yes, printer),
        Command::Repair { hosts, all } => repair(&members(&hosts)?, all, printer),
        Command::Send { hosts, snapshot, dry_run } => {
            send(&settings, &members(&hosts)?, snapshot.as_deref(), dry_run, printer)
        }
    }
}

fn list(members: &[Member], printer: &Printer) {
    let described = |m: &Member| DescribedHost {
        name: m.name().into(),
        file: m.host.file.clone(),
        config: said(json!(m.host.config)),
    };
    printer.value(&Described { hosts: members.iter().map(described).collect() });
    let width = members.iter().map(|m| m.name().len()).max().unwrap_or(0);
    for member in members {
        let target = &member.host.target;
        let user = target.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
        let port = target.port.map_or(String::new(), |port| format!(":{port}"));
        let tags: String = member.host.tags.iter().map(|tag| format!(" @{tag}")).collect();
        printer.line(format!("{:width$}  {user}{}{port}{tags}", member.name(), target.address));
    }
}

/// Without what nobody said.
fn said(value: Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, said(value)))
            .filter(|(_, value)| !empty(value))
            .collect(),
        Value::Array(list) => list.into_iter().map(said).collect(),
        other => other,
    }
}

fn check(members: &[Member], deep: bool, printer: &Printer) -> Result<ExitCode> {
    let (values, unwell) = host_look::look(members, true, deep, printer);
    fleet::document(values, unwell, printer);
    Ok(exit::code(unwell))
}

fn repair(members: &[Member], all: bool, printer: &Printer) -> Result<ExitCode> {
    let by = who::me();
    let mut unwell = 0;
    let ask = |member: &Member| questions::repair(member, all, &by);
    let (values, failed) = fleet::each_says(members, printer, ask, |member, services| {
        for service in services {
            let name = format!("{}  {}", printer.bold(member.name()), service.service);
            for line in &service.done {
                printer.line(format!("{name}: {}", plain(line)));
            }
            if let Some(error) = &service.error {
                unwell += 1;
                printer.error_text(&Error::from(error.clone()).within(&name));
            } else if service.done.is_empty() {
                printer.line(format!("{name}: all is as it should be"));
            }
        }
        RepairedHost { services: services.clone() }
    });
    fleet::document(values, failed + unwell, printer);
    Ok(exit::code(failed + unwell))
}

fn send(
    settings: &Settings,
    members: &[Member],
    snapshot: Option<&str>,
    dry_run: bool,
    printer: &Printer,
) -> Result<ExitCode> {
    let source = settings.store();
    let path = match snapshot.filter(|s| s.starts_with(&source.store_dir.0)) {
        Some(path) => path.to_string(),
        None => Registry::new(&settings.state).find(snapshot)?.snapshot,
    };
    let progress = printer.progress();
    let several = members.len() > 1;
    if several {
        progress.stage(&format!("copying to {} hosts", members.len()), Amount::Unknown);
    }
    let on_copy = |host: &str, paths: u64, amount: u64| {
        if several {
            progress.note(&format!("{host}: {paths} paths, {}", bytes(amount)));
        }
        progress.beside(&format!("copying to {host}"), amount)
    };
    let (closure, results) = send::send(members, &source, &path, dry_run, &on_copy)?;
    let (mut values, mut failed) = (Vec::new(), 0);
    for (host, result) in members.iter().map(|m| &m.host).zip(results) {
        match result {
            Ok(done) => {
                printer.line(text(host, &done, closure.len(), dry_run));
                let Done { missing: missing_paths, missing_bytes, sent } = done;
                values.push(Answer::said(&host.name, SentHost { missing_paths, missing_bytes, sent }));
            }
            Err(e) => {
                failed += 1;
                values.push(Answer::lost(&host.name, &e));
                printer.error_text(&e);
            }
        }
    }
    printer.value(&SentTo {
        snapshot: path,
        paths: closure.len(),
        dry_run,
        hosts: Hosts { hosts: values, failed },
    });
    Ok(exit::code(failed))
}

fn text(host: &Host, done: &Done, all: usize, dry_run: bool) -> String {
    let name = &host.name;
    if done.missing == 0 {
        return format!("{name} has all {all} paths");
    }
    let what = format!("{} of {all} paths, {}", done.missing, bytes(done.missing_bytes));
    if dry_run {
        return format!("{name} would get {what}");
    }
    let resumed = match done.sent.resumed_bytes {
        0 => String::new(),
        n => format!(", {} were there from an earlier attempt", bytes(n)),
    };
    format!(
        "{name} got {what} ({} over the network) in {:.1} s{resumed}",
        bytes(done.sent.wire_bytes),
        done.sent.seconds
    )
}
