//! `stillframe snapshots`: list, show, diff, verify, remove.
use super::capture::{self, findings_text};
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::capture::model::lock::{Lock, TreeRef};
use crate::capture::trees::nar::path_of;
use crate::closure::compare;
use crate::closure::diff::{self, Change};
use crate::closure::recipe;
use crate::closure::registry::{Record, Registry};
use crate::closure::scratch::Scratch;
use crate::closure::verify::{self, Mismatch};
use crate::protocol::launch::Launch;
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Kind, Result};
use crate::sys::progress::check_interrupt;
use crate::sys::signals;
use serde_json::json;
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
        Command::Verify { id } => verify(&settings, &registry, id.as_deref(), config, printer),
        Command::Remove { id, force } => {
            let _lock = capture::exclusive(&settings, printer, "snapshots remove")?;
            let record = registry.find(Some(&id))?;
            registry.remove(&record, force)?;
            printer.value(&json!({"version": 1, "removed": record.id, "snapshot": record.snapshot}));
            printer.line(format!("removed {}; `nix-store --gc` frees what nothing else needs", record.id));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(registry: &Registry, printer: &Printer) -> Result<ExitCode> {
    let records = registry.list()?;
    printer.value(&json!({"version": 1, "snapshots": records}));
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
    printer.value(&json!({"version": 1, "record": record, "lock": lock}));
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

fn store_config(settings: &Settings) -> StoreConfig {
    StoreConfig::from_environment(settings.config.store.remote.as_deref())
}

fn diff(settings: &Settings, registry: &Registry, a: &str, b: &str, printer: &Printer) -> Result<ExitCode> {
    let (old, new) = (registry.find(Some(a))?, registry.find(Some(b))?);
    let (old_lock, new_lock) = (registry.lock(&old)?, registry.lock(&new)?);
    let mut store = Store::connect(&store_config(settings))?;
    let starts = (launch_of(&old, &mut store)?, launch_of(&new, &mut store)?);
    let probes = (old.probe.as_ref(), new.probe.as_ref());
    let mut diff = diff::diff(&old_lock, &new_lock, Some((&starts.0, &starts.1)), probes);
    add_files(&mut diff, &old_lock, &new_lock, &mut store)?;
    let before = store.closure(&[old.store_path(&old.snapshot, &store.store_dir)?])?;
    let after = store.closure(&[new.store_path(&new.snapshot, &store.store_dir)?])?;
    let fresh: Vec<_> = after.iter().filter(|(p, _)| !before.contains_key(*p)).collect();
    diff.new_paths = fresh.len() as u64;
    diff.new_bytes = fresh.iter().map(|(_, i)| i.nar_size).sum();
    let mut document = json!(diff);
    document["version"] = json!(1);
    printer.value(&document);
    if old.snapshot == new.snapshot {
        printer.line(format!("{} and {} are the same", old.id, new.id));
    } else if diff.is_empty() {
        printer.line(format!(
            "{} and {} have the same content; what makes a snapshot of it differs (stillframe {} and {})",
            old.id, new.id, old.stillframe, new.stillframe
        ));
    }
    let groups: [(&str, Vec<Change>); 8] = [
        ("main program", diff.main.iter().cloned().collect()),
        ("Python runtime", diff.runtime.iter().cloned().collect()),
        ("packs", diff.packs.clone()),
        ("distributions", diff.distributions.clone()),
        ("cache", diff.cache.clone()),
        ("folders outside", diff.sources.clone()),
        ("files no distribution owns", diff.unowned.iter().cloned().collect()),
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

/// Names the files that differ in each changed tree, from the store.
fn add_files(diff: &mut diff::Diff, old: &Lock, new: &Lock, store: &mut Store) -> Result<()> {
    let dir = store.store_dir.clone();
    let mut fill = |change: &mut Change, trees: (Option<&TreeRef>, Option<&TreeRef>)| -> Result<()> {
        if let (Some(a), Some(b)) = trees
            && a != b
        {
            change.files.extend(compare::changed_files(store, &path_of(a, &dir)?, &path_of(b, &dir)?)?);
            change.files.sort();
        }
        Ok(())
    };
    if let Some(change) = &mut diff.main {
        fill(change, (Some(&old.main.tree), Some(&new.main.tree)))?;
    }
    for change in &mut diff.packs {
        let tree = |l: &'_ Lock| l.packs.iter().find(|p| p.name == change.name).map(|p| p.tree.clone());
        let (a, b) = (tree(old), tree(new));
        fill(change, (a.as_ref(), b.as_ref()))?;
    }
    for change in &mut diff.distributions {
        let tree =
            |l: &'_ Lock| l.distributions.iter().find(|d| d.name == change.name).map(|d| d.tree.clone());
        let (a, b) = (tree(old), tree(new));
        fill(change, (a.as_ref(), b.as_ref()))?;
    }
    for change in &mut diff.sources {
        let tree = |l: &'_ Lock| l.sources.iter().find(|s| s.path == change.name).map(|s| s.tree.clone());
        let (a, b) = (tree(old), tree(new));
        fill(change, (a.as_ref(), b.as_ref()))?;
    }
    if let Some(change) = &mut diff.unowned {
        fill(change, (old.unowned.as_ref(), new.unowned.as_ref()))?;
    }
    Ok(())
}

fn verify(
    settings: &Settings,
    registry: &Registry,
    id: Option<&str>,
    config_file: Option<&Path>,
    printer: &Printer,
) -> Result<ExitCode> {
    signals::heed()?;
    let record = registry.find(id)?;
    let lock = registry.lock(&record)?;
    let config = store_config(settings);
    let mut store = Store::connect(&config)?;
    let recipe = recipe::read(&record, &lock, &mut store)?;
    let scratch = Scratch::new(&settings.cache, "verify")?;
    let mut report = verify::verify(&recipe, &mut store, scratch.path(), printer.progress().as_ref())?;
    drop(scratch);
    explain(&mut report.mismatches, &record, config_file, &config, printer)?;
    printer.value(
        &json!({"version": 1, "id": record.id, "verified": report.mismatches.is_empty(), "report": report}),
    );
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

/// The launch file, through the store: a scratch store's paths are not where their names say.
fn launch_of(record: &Record, store: &mut Store) -> Result<Launch> {
    let path = record.store_path(&record.snapshot, &store.store_dir)?;
    let name = crate::protocol::launch::file_of(&record.service);
    let bytes = compare::file(store, &path, &name)?;
    Launch::parse(&bytes, &format!("{}/{name}", record.snapshot))
}

/// Names the first differing file of what was copied from the environment, if that still has it.
fn explain(
    mismatches: &mut [Mismatch],
    record: &Record,
    config_file: Option<&Path>,
    config: &StoreConfig,
    printer: &Printer,
) -> Result<()> {
    if mismatches.iter().all(|m| m.copied.is_none()) {
        return Ok(());
    }
    let environment = record.environment.display();
    let trees = Settings::resolve(Some(&record.environment), config_file)
        .and_then(|settings| capture::trees_of(&settings, printer, &config.store_dir));
    let mut store = Store::connect(config)?;
    for mismatch in mismatches {
        let Some(path) = &mismatch.copied else { continue };
        match &trees {
            Err(e) if e.kind == Kind::Interrupted => return check_interrupt(),
            Err(e) => {
                mismatch.unexplained = Some(format!("{environment} cannot be read again: {}", e.full()))
            }
            Ok(trees) => match trees.take(path) {
                Some(tree) => mismatch.first_difference = compare::difference_from(&mut store, path, &tree)?,
                None => {
                    let why = format!("{environment} no longer has it as it was recorded");
                    mismatch.unexplained = Some(why);
                }
            },
        }
    }
    Ok(())
}
