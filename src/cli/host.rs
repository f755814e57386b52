//! `stillframe host`: what hosts have and lack, and bringing them a snapshot ahead of its deployment.
use super::fleet::{self, Member, error_value, on_each};
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::closure::registry::Registry;
use crate::ship::copy::{self, Load};
use crate::ship::hosts::Host;
use crate::ship::preflight::{self, Facts, Needs, Problem};
use crate::ship::send::Sent;
use crate::ship::ssh::Remote;
use crate::store::StoreConfig;
use crate::sys::error::Result;
use crate::sys::progress::{Amount, check_interrupt};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

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
    },
    /// Set hosts up, once: shows what is to be done, and does it when you agree.
    Prepare {
        #[arg(value_name = "SELECTOR")]
        hosts: Vec<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
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
        fleet::members(&settings, Some(selector.as_str()).filter(|s| !s.is_empty()))
    };
    match command {
        Command::List { hosts } => {
            list(&members(&hosts)?, printer);
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { hosts } => check(&members(&hosts)?, printer),
        Command::Prepare { hosts, yes } => super::prepare::run(&settings, &members(&hosts)?, yes, printer),
        Command::Send { hosts, snapshot, dry_run } => {
            send(&settings, &members(&hosts)?, snapshot.as_deref(), dry_run, printer)
        }
    }
}

fn list(members: &[Member], printer: &Printer) {
    let hosts: Vec<Value> = members
        .iter()
        .map(|m| json!({"name": m.name(), "file": m.host.file, "config": said(json!(m.host.config))}))
        .collect();
    printer.value(&json!({"version": 1, "hosts": hosts}));
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

/// The outcome of several hosts: 0 only if all went well.
fn code(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a host must have for its service, as far as that is described yet.
fn problems(member: &Member, facts: &Facts, needs: &Needs) -> Vec<Problem> {
    let needs = match member.service.spec(&facts.gpus, Vec::new(), None) {
        Ok(spec) => Needs {
            gpus: spec.slots.iter().flatten().cloned().collect(),
            memory_bytes: spec.memory_bytes.unwrap_or(0) * u64::from(spec.instances),
            ..needs.clone()
        },
        Err(_) => Needs { prepared: true, ..Needs::default() },
    };
    preflight::check(facts, &needs)
}

fn check(members: &[Member], printer: &Printer) -> Result<ExitCode> {
    let (values, unwell) = look(members, true, printer);
    printer.value(&json!({"version": 1, "hosts": values, "failed": unwell}));
    Ok(code(unwell))
}

/// Whether hosts are ready for all that `prepare` does not do.
pub fn can_be_prepared(members: &[Member], printer: &Printer) -> bool {
    look(members, false, printer).1 == 0
}

/// Shows each, and counts those with a problem.
fn look(members: &[Member], prepared: bool, printer: &Printer) -> (Vec<Value>, usize) {
    let mut unwell = 0;
    let (values, failed) = fleet::each_says(
        members,
        printer,
        |member| {
            let needs = member.needs(member.smoke()?.as_ref());
            let facts = copy::look(&member.host.target, &needs)?;
            let mut problems = problems(member, &facts, &needs);
            problems.retain(|problem| prepared || !problem.mended_by_prepare);
            Ok((facts, problems))
        },
        |member, (facts, problems)| {
            let host = &member.host;
            unwell += usize::from(!problems.is_empty());
            show(host, facts, problems, printer);
            json!({"host": host.name, "address": host.target.address, "tags": host.tags, "facts": facts, "problems": problems})
        },
    );
    (values, failed + unwell)
}

fn show(host: &Host, facts: &Facts, problems: &[Problem], printer: &Printer) {
    let name = printer.bold(&host.name);
    let gpus = match (facts.gpus.len(), facts.cuda_driver.as_deref()) {
        (0, _) => "no NVIDIA GPU".to_string(),
        (n, driver) => {
            format!("{n} NVIDIA GPU{}, driver {}", if n == 1 { "" } else { "s" }, driver.unwrap_or("none"))
        }
    };
    printer.line(format!("{name}  {}  {}", plain(&facts.os), host.target.address));
    printer.line(format!(
        "  {} cores, {} memory, {gpus}; systemd {}, Nix {}; {} free for the store",
        facts.cpus,
        bytes(facts.memory_bytes),
        facts.systemd.map_or("-".into(), |v| v.to_string()),
        plain(facts.nix.as_deref().unwrap_or("-")),
        bytes(facts.store_free_bytes),
    ));
    for problem in problems {
        printer.line(format!("  problem: {}\n    hint: {}", plain(&problem.what), problem.hint));
    }
    if problems.is_empty() {
        printer.line("  ready for a deployment");
    }
}

#[derive(Default)]
struct Done {
    missing: u64,
    missing_bytes: u64,
    sent: Sent,
}

fn send(
    settings: &Settings,
    members: &[Member],
    snapshot: Option<&str>,
    dry_run: bool,
    printer: &Printer,
) -> Result<ExitCode> {
    let source = StoreConfig::from_environment(settings.config.store.remote.as_deref());
    let path = match snapshot.filter(|s| s.starts_with(&source.store_dir.0)) {
        Some(path) => path.to_string(),
        None => Registry::new(&settings.state).find(snapshot)?.snapshot,
    };
    // What goes is looked up while hosts are called: both take their time.
    let load = OnceLock::new();
    let loaded = || load.get_or_init(|| Load::of(&source, &path));
    let needs = Needs { system: format!("{}-linux", std::env::consts::ARCH), ..Needs::default() };
    let progress = printer.progress();
    if members.len() > 1 {
        progress.stage(&format!("copying to {} hosts", members.len()), Amount::Unknown);
    }
    let one = |member: &Member| {
        let host = &member.host;
        let remote = Remote::connect(&host.target)?;
        // Said once, below.
        let Ok(load) = loaded() else { return Ok(Done::default()) };
        let arrived = copy::greet(remote, &needs, load)?;
        arrived.can_have_agent(&needs.system)?;
        let mut ready = arrived.plan(load)?;
        ready.has_room()?;
        let (missing, missing_bytes) = (ready.missing.paths.len() as u64, ready.missing_bytes);
        if dry_run {
            return Ok(Done { missing, missing_bytes, sent: Sent::default() });
        }
        if members.len() > 1 {
            progress.note(&format!("{}: {missing} paths, {}", host.name, bytes(missing_bytes)));
        }
        let progress = progress.beside(&format!("copying to {}", host.name), missing_bytes);
        let sent = ready.send(load, progress.as_ref(), &check_interrupt)?;
        Ok(Done { missing, missing_bytes, sent })
    };
    let results: Vec<Result<Done>> = std::thread::scope(|scope| {
        scope.spawn(|| loaded().is_ok());
        on_each(members.iter().collect(), one)
    });
    let Load { closure, .. } = load.into_inner().unwrap_or_else(|| Load::of(&source, &path))?;
    let mut failed = 0;
    let mut values = Vec::new();
    for (host, result) in members.iter().map(|m| &m.host).zip(results) {
        match result {
            Ok(done) => {
                values.push(json!({"host": host.name, "missing_paths": done.missing, "missing_bytes": done.missing_bytes, "sent": done.sent}));
                printer.line(text(host, &done, closure.len(), dry_run));
            }
            Err(e) => {
                failed += 1;
                values.push(json!({"host": host.name, "error": error_value(&e)}));
                if !printer.json {
                    printer.error(&e);
                }
            }
        }
    }
    printer.value(&json!({"version": 1, "snapshot": path, "paths": closure.len(), "dry_run": dry_run, "hosts": values, "failed": failed}));
    Ok(code(failed))
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
