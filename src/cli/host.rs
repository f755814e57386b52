//! `stillframe host`: what hosts have and lack, and bringing them a snapshot ahead of its deployment.
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::build::registry::Registry;
use crate::ship::copy::{self, Load};
use crate::ship::hosts::{self, Host};
use crate::ship::preflight::{self, Facts, Needs, Problem};
use crate::ship::send::Sent;
use crate::store::StoreConfig;
use crate::sys::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// What hosts have and lack; changes nothing.
    Check {
        /// Names, globs, @tags, !exclusions (default: all).
        #[arg(value_name = "SELECTOR")]
        hosts: Vec<String>,
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
    let settings = Settings::resolve(None, config)?;
    let all = hosts::load(&settings.project.join("hosts"))?;
    if all.is_empty() {
        let folder = settings.project.join("hosts");
        return Err(Error::new(Kind::Input, format!("there is no host in {}", folder.display()))
            .hint("describe one in hosts/NAME.toml: a line `address = \"…\"` is enough"));
    }
    match command {
        Command::Check { hosts } => check(&chosen(&all, &hosts)?, printer),
        Command::Send { hosts, snapshot, dry_run } => {
            send(&settings, &chosen(&all, &hosts)?, snapshot.as_deref(), dry_run, printer)
        }
    }
}

fn chosen<'a>(all: &'a [Host], selectors: &[String]) -> Result<Vec<&'a Host>> {
    let selector = if selectors.is_empty() { "*".to_string() } else { selectors.join(",") };
    hosts::select(all, &selector)
}

/// Works on all hosts at once; each says what it has to say when it is done, whatever the others do.
fn on_each<T: Send>(hosts: &[&Host], work: impl Fn(&Host) -> Result<T> + Sync) -> Vec<Result<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = hosts.iter().map(|host| scope.spawn(move || work(host))).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(Error::new(Kind::Host, "a host's thread ended"))))
            .collect()
    })
}

fn error_value(e: &Error) -> Value {
    let causes: Vec<String> = e.source.iter().map(ToString::to_string).collect();
    json!({"kind": e.kind.name(), "message": e.message, "causes": causes, "hint": e.hint})
}

/// The outcome of several hosts: 0 only if all went well.
fn code(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(hosts: &[&Host], printer: &Printer) -> Result<ExitCode> {
    let needs = Needs::default();
    let looked = on_each(hosts, |host| {
        let facts = copy::look(&host.target, &needs)?;
        let problems = preflight::check(&facts, &needs);
        Ok((facts, problems))
    });
    let mut failed = 0;
    let mut values = Vec::new();
    for (host, looked) in hosts.iter().zip(looked) {
        match looked {
            Ok((facts, problems)) => {
                failed += usize::from(!problems.is_empty());
                show(host, &facts, &problems, printer);
                values.push(json!({"host": host.name, "address": host.target.address, "tags": host.tags, "facts": facts, "problems": problems}));
            }
            Err(e) => {
                failed += 1;
                values.push(
                    json!({"host": host.name, "address": host.target.address, "error": error_value(&e)}),
                );
                if !printer.json {
                    printer.error(&e);
                }
            }
        }
    }
    printer.value(&json!({"hosts": values, "failed": failed}));
    Ok(code(failed))
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

struct Done {
    missing: u64,
    missing_bytes: u64,
    sent: Sent,
}

fn send(
    settings: &Settings,
    hosts: &[&Host],
    snapshot: Option<&str>,
    dry_run: bool,
    printer: &Printer,
) -> Result<ExitCode> {
    let source = StoreConfig::from_environment(settings.config.store.remote.as_deref());
    let path = match snapshot.filter(|s| s.starts_with(&source.store_dir.0)) {
        Some(path) => path.to_string(),
        None => Registry::new(&settings.state).find(snapshot)?.snapshot,
    };
    let load = Load::of(&source, &path)?;
    let needs = Needs { system: format!("{}-linux", std::env::consts::ARCH), ..Needs::default() };
    let progress = printer.progress();
    if hosts.len() > 1 {
        progress.stage(&format!("copying to {} hosts", hosts.len()), None);
    }
    let results = on_each(hosts, |host| {
        let mut ready = copy::prepare(&host.target, &needs, &load)?;
        let (missing, missing_bytes) = (ready.missing.paths.len() as u64, ready.missing_bytes);
        if dry_run {
            return Ok(Done { missing, missing_bytes, sent: Sent::default() });
        }
        if hosts.len() == 1 {
            progress.stage(&format!("copying to {}", host.name), Some(missing_bytes));
        } else {
            progress.note(&format!("{}: {missing} paths, {}", host.name, bytes(missing_bytes)));
        }
        let sent = ready.send(&load, progress.as_ref())?;
        Ok(Done { missing, missing_bytes, sent })
    });
    let mut failed = 0;
    let mut values = Vec::new();
    for (host, result) in hosts.iter().zip(results) {
        match result {
            Ok(done) => {
                values.push(json!({"host": host.name, "missing_paths": done.missing, "missing_bytes": done.missing_bytes, "sent": done.sent}));
                printer.line(text(host, &done, load.closure.len(), dry_run));
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
    printer.value(&json!({"snapshot": path, "paths": load.closure.len(), "dry_run": dry_run, "hosts": values, "failed": failed}));
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
