//! `stillframe snapshots`: list, show, diff, verify, remove.
use super::capture::findings_text;
use super::documents::{Removed, Shown, Snapshots, Verified};
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::closure::between::between;
use crate::closure::diff::{Change, Diff};
use crate::closure::registry::Registry;
use crate::snapshot::subject::exclusive;
use crate::snapshot::verify::verify;
use crate::store::Store;
use crate::sys::error::Result;
use crate::sys::signals;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// All snapshots of this workstation, the latest at the end.
    List,
    /// One snapshot: what is in it and how it came about.
    Show { id: Option<String> },
    /// What changed from A to B.
    Diff { a: String, b: String },
    /// Rebuild a snapshot from its derivations in a scratch store, wheels fetched from the index, and
    /// compare every NAR hash.
    Verify { id: Option<String> },
    /// Forget a snapshot and drop its GC roots; Nix's garbage collector frees the space.
    Remove {
        id: String,
        /// Even if a host serves it.
        #[arg(long)]
        force: bool,
    },
}

pub fn run(command: Command, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let registry = Registry::new(&settings.state);
    match command {
        Command::List => list(&registry, printer),
        Command::Show { id } => show(&registry, id.as_deref(), printer),
        Command::Diff { a, b } => diff(&settings, &registry, &a, &b, printer),
        Command::Verify { id } => verified(&settings, &registry, id.as_deref(), config, printer),
        Command::Remove { id, force } => {
            let _lock = exclusive(&settings.state, &settings.environment, "snapshots remove", printer)?;
            let record = registry.find(Some(&id))?;
            registry.remove(&record, force)?;
            printer.line(format!("removed {}; `nix-store --gc` frees what nothing else needs", record.id));
            printer.value(&Removed { removed: record.id, snapshot: record.snapshot });
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(registry: &Registry, printer: &Printer) -> Result<ExitCode> {
    let records = registry.list()?;
    printer.value(&Snapshots { snapshots: records.clone() });
    if records.is_empty() {
        printer.line("there is no snapshot yet: take one with `stillframe snapshot`");
    }
    for r in &records {
        printer.line(format!(
            "{}  {}  {:>10}  {:16}  {}",
            r.id,
            r.taken(),
            bytes(r.closure_bytes),
            r.label.as_deref().unwrap_or("-"),
            r.environment.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(registry: &Registry, id: Option<&str>, printer: &Printer) -> Result<ExitCode> {
    let record = registry.find(id)?;
    let lock = registry.lock(&record)?;
    printer.value(&Shown { record: record.clone(), lock: lock.clone() });
    printer.line(printer.bold(&format!("snapshot {}", record.id)));
    let last = record.taken();
    let again = if last == record.created { String::new() } else { format!("; last {last}") };
    for (name, value) in [
        ("label", record.label.clone().unwrap_or_else(|| "-".into())),
        ("store path", record.snapshot.clone()),
        ("derivation", record.derivation.clone()),
        ("taken", format!("{} by {} on {}{again}", record.created, record.user, record.host)),
        ("environment", record.environment.display().to_string()),
        ("closure", format!("{} paths, {}", record.closure_paths, bytes(record.closure_bytes))),
        ("ComfyUI", lock.main.version.clone().unwrap_or_else(|| "unknown".into())),
        ("Python", lock.runtime.version.clone()),
    ] {
        printer.line(format!("  {name:12} {}", plain(&value)));
    }
    for d in &lock.distributions {
        printer.line(format!("  {:32} {:16} {}", plain(&d.name), plain(&d.version), d.provenance.name()));
    }
    for pack in &lock.packs {
        let commit = pack.git.as_ref().and_then(|g| g.commit.clone()).unwrap_or_else(|| "no commit".into());
        printer.line(format!("  pack {:27} {commit}", plain(&pack.name)));
    }
    for program in &lock.programs {
        printer.line(format!("  program {:24} {}", plain(&program.name), bytes(program.tree.nar_size)));
    }
    for file in &lock.system_files {
        printer.line(format!("  system {:25} {}", plain(&file.at), bytes(file.tree.nar_size)));
    }
    if let Some(probe) = &record.probe {
        let that = |failed: Option<bool>| -> Vec<&str> {
            probe.packs.iter().filter(|p| p.failed == failed).map(|p| p.name.as_str()).collect()
        };
        let (failed, unknown) = (that(Some(true)), that(None));
        printer.line(format!(
            "  probe        {} node classes, ready in {} ms, failed packs: {}{}",
            probe.classes.len(),
            probe.ready_ms,
            if failed.is_empty() { "none".into() } else { plain(&failed.join(", ")) },
            if unknown.is_empty() {
                String::new()
            } else {
                plain(&format!("; not known: {}", unknown.join(", ")))
            }
        ));
    }
    findings_text(&record.findings, printer);
    Ok(ExitCode::SUCCESS)
}

fn diff(settings: &Settings, registry: &Registry, a: &str, b: &str, printer: &Printer) -> Result<ExitCode> {
    let (old, new) = (registry.find(Some(a))?, registry.find(Some(b))?);
    let diff = between(registry, &old, &new, &mut Store::connect(&settings.store())?)?;
    printer.value(&diff);
    if old.snapshot == new.snapshot {
        printer.line(format!("{} and {} are the same", old.id, new.id));
    } else if diff.is_empty() {
        printer.line(format!(
            "{} and {} have the same content; what makes a snapshot of it differs (stillframe {} and {})",
            old.id, new.id, old.stillframe, new.stillframe
        ));
    }
    changes_text(&diff, printer);
    if !diff.classes_known {
        let unknown: Vec<&str> =
            [&old, &new].iter().filter(|r| r.probe.is_none()).map(|r| r.id.as_str()).collect();
        printer
            .line(format!("node classes: not known of {} (`snapshot --probe` asks)", unknown.join(" and ")));
    }
    for (title, classes) in
        [("node classes added", &diff.classes_added), ("node classes removed", &diff.classes_removed)]
    {
        if !classes.is_empty() {
            printer.line(format!("{}: {}", printer.bold(title), classes.join(", ")));
        }
    }
    printer.line(format!(
        "to ship to a host that has {}: {} paths, {}",
        old.id,
        diff.new_paths,
        bytes(diff.new_bytes)
    ));
    Ok(ExitCode::SUCCESS)
}

fn changes_text(diff: &Diff, printer: &Printer) {
    let groups: [(&str, Vec<Change>); 9] = [
        ("main program", diff.main.iter().cloned().collect()),
        ("Python runtime", diff.runtime.iter().cloned().collect()),
        ("packs", diff.packs.clone()),
        ("distributions", diff.distributions.clone()),
        ("cache", diff.cache.clone()),
        ("folders outside", diff.sources.clone()),
        ("files no distribution owns", diff.unowned.iter().cloned().collect()),
        ("system", diff.system.clone()),
        ("service", diff.service.clone()),
    ];
    for (title, changes) in groups {
        if changes.is_empty() {
            continue;
        }
        printer.line(printer.bold(title));
        for change in changes {
            let from = change.old.as_deref().unwrap_or("-");
            let to = change.new.as_deref().unwrap_or("-");
            let sides = if from == to { to.to_string() } else { format!("{from} -> {to}") };
            printer.line(format!("  {:8} {}: {}", change.what, plain(&change.name), plain(&sides)));
            for file in change.files.iter().take(20) {
                printer.line(format!("           {}", plain(file)));
            }
            if change.files.len() > 20 {
                printer.line(format!("           and {} more", change.files.len() - 20));
            }
        }
    }
}

fn verified(
    settings: &Settings,
    registry: &Registry,
    id: Option<&str>,
    config_file: Option<&Path>,
    printer: &Printer,
) -> Result<ExitCode> {
    signals::heed()?;
    let record = registry.find(id)?;
    let subject = || Settings::resolve(Some(&record.environment), config_file)?.subject();
    let report = verify(registry, &record, &settings.store(), &settings.cache, subject, printer)?;
    printer.value(&Verified {
        id: record.id.clone(),
        verified: report.mismatches.is_empty(),
        report: report.clone(),
    });
    for m in &report.mismatches {
        printer.line(format!("{} differs: {}", m.label, m.path));
        printer.line(format!("  recorded {}, found {}", m.expected, m.found));
        if let Some(first) = &m.first_difference {
            printer.line(format!("  first differing file: {}", plain(first)));
        }
        if let Some(why) = &m.unexplained {
            printer.line(format!("  the first differing file cannot be named: {}", plain(why)));
        }
    }
    if report.mismatches.is_empty() {
        let collected = match report.collected {
            0 => String::new(),
            n => format!(" ({n} of them collected since, nothing needs them)"),
        };
        printer.line(format!(
            "{} verified: {} rebuilt{collected}, {} wheels fetched, {} sources hashed; every NAR hash is equal",
            record.id, report.rebuilt, report.wheels, report.sources
        ));
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
