//! What `inspect`, `lock` and `snapshot` share: the lock against a second run, the memo, the
//! capture itself, and its report.
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::capture::intent;
use crate::capture::model::inventory::{ModelFolder, PackKind};
use crate::capture::model::lock::{Lock, Provenance};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::pipeline::{self, Captured, Options};
use crate::capture::runtime::given;
use crate::capture::trees::Trees;
use crate::capture::trees::memo::Memo;
use crate::capture::trees::nar::path_of;
use crate::closure::registry::Registry;
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::ship::config::ServiceConfig;
use crate::store::{Store, StoreConfig};
use crate::sys::clock;
use crate::sys::error::Result;
use crate::sys::files::{self, FileLock};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// One run at a time on this state; another waits and says for whom.
pub fn exclusive(settings: &Settings, printer: &Printer, what: &str) -> Result<FileLock> {
    let holder = format!(
        "stillframe {what} of {} (pid {}, since {})",
        settings.environment.display(),
        std::process::id(),
        clock::rfc3339(clock::now())
    );
    FileLock::acquire(&settings.state.join("lock"), &holder, |who| {
        let who = if who.is_empty() { "another stillframe" } else { who };
        printer.note(&format!("waiting for {who}"));
    })
}

/// How a capture is to go about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// No index is asked.
    pub offline: bool,
    /// An import check follows: it finds anew which distributions must be real files.
    pub checked: bool,
}

fn options(settings: &Settings, memo: &Memo, store_dir: &StoreDir, manner: Manner) -> Result<Options> {
    let config = &settings.config.python;
    let connect = || Store::connect(&StoreConfig::from_environment(settings.config.store.remote.as_deref()));
    let private = private_files(settings)?;
    let given =
        config.runtime.as_ref().map(|path| given::look(path, store_dir, memo, connect)).transpose()?;
    Ok(Options {
        store_dir: store_dir.clone(),
        interpreter: config.interpreter.as_ref().map(|p| settings.project.join(p)),
        given,
        libraries: config.libraries.iter().map(|p| p.display().to_string()).collect(),
        real_files: real_files(settings, !manner.checked),
        exclude: settings.config.exclude.iter().cloned().chain(inside(settings, &private)).collect(),
        private,
        environment_cache: settings.config.cache.as_ref().map(|p| settings.project.join(p)),
        cache: settings.cache.clone(),
        offline: manner.offline,
    })
}

/// Files that the configuration names as secret: they are given to instances, and lie in no store.
fn private_files(settings: &Settings) -> Result<Vec<PathBuf>> {
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    let mut put = |base: &Path, service: &ServiceConfig| {
        let secrets = service.secrets.values().filter_map(|s| s.file.clone());
        let keys = service.gateway.api_keys.iter().flatten().filter_map(|k| k.file.clone());
        files.extend(secrets.chain(keys).map(|file| base.join(file)));
    };
    put(&settings.project, &settings.config.service);
    // Hosts are asked for only where their files could lie in the environment.
    if settings.project.starts_with(&settings.environment)
        || settings.environment.starts_with(&settings.project)
    {
        for host in settings.fleet().described()? {
            put(host.file.parent().unwrap_or(&settings.project), &host.service);
        }
    }
    Ok(files.into_iter().collect())
}

/// Those that lie in the environment, by their place there.
fn inside(settings: &Settings, files: &[PathBuf]) -> Vec<String> {
    let place = |file: &PathBuf| {
        let file = file.canonicalize().ok()?;
        Some(file.strip_prefix(&settings.environment).ok()?.to_str()?.to_string())
    };
    files.iter().filter_map(place).collect()
}

/// What the configuration names, and what an import check found: as the committed lock and the newest snapshot
/// of this environment remember it, so that a capture without the check gives the same.
fn real_files(settings: &Settings, remembered: bool) -> Vec<String> {
    let config = &settings.config.python.real_files;
    let mut names: BTreeSet<String> =
        config.iter().map(|n| crate::formats::python::name::normalize(n)).collect();
    if !remembered {
        return names.into_iter().collect();
    }
    let registry = Registry::new(&settings.state);
    let records = registry.list().unwrap_or_default();
    let newest = records.iter().rev().find(|record| record.environment == settings.environment);
    let newest = newest.map(|record| registry.folder(&record.id).join("stillframe.lock"));
    for path in newest.into_iter().chain([settings.project.join("stillframe.lock")]) {
        // One that cannot be read is told of by the commands that are about it; one without the word is not parsed.
        let text = files::read_text(&path).ok().filter(|text| text.contains("real-files"));
        let lock = text.and_then(|text| Lock::from_toml(&text, &path.display().to_string()).ok());
        names.extend(lock.into_iter().flat_map(|l| l.distributions).filter(|d| d.real_files).map(|d| d.name));
    }
    names.into_iter().collect()
}

/// Reads an environment once more for its trees alone: nothing is asked, sent or remembered.
pub fn trees_of(settings: &Settings, printer: &Printer, store_dir: &StoreDir) -> Result<Trees> {
    let memo = Memo::open(&settings.cache, &settings.environment);
    let trees = Trees::kept();
    let options = options(settings, &memo, store_dir, Manner { offline: true, checked: false })?;
    pipeline::capture(&settings.environment, &options, &memo, &trees, printer.progress().as_ref())?;
    Ok(trees)
}

/// Captures, with or without a store to send to.
pub fn capture(
    settings: &Settings,
    printer: &Printer,
    manner: Manner,
    store: Option<&mut Store>,
) -> Result<(Captured, Trees)> {
    let memo = Memo::open(&settings.cache, &settings.environment);
    let store_dir = match &store {
        Some(store) => store.store_dir.clone(),
        None => StoreConfig::from_environment(None).store_dir,
    };
    let trees = match store {
        Some(store) => {
            let paths: BTreeSet<StorePath> = memo
                .get::<Vec<String>>("trees", Some(&store_dir.0))
                .unwrap_or_default()
                .iter()
                .filter_map(|p| StorePath::from_base_name(p).ok())
                .collect();
            // Before the question: until this connection ends, nothing that is found is collected.
            store.add_temp_roots(&paths)?;
            let valid: HashSet<StorePath> = store.valid(&paths)?.into_iter().collect();
            Trees::new(valid, store)?
        }
        None => Trees::without_store(),
    };
    let options = options(settings, &memo, &store_dir, manner)?;
    let mut captured =
        pipeline::capture(&settings.environment, &options, &memo, &trees, printer.progress().as_ref())?;
    let paths: Vec<String> = captured
        .lock
        .trees()
        .into_iter()
        .map(|t| path_of(t, &store_dir).map(|p| p.to_string()))
        .collect::<Result<_>>()?;
    memo.put("trees", Some(&store_dir.0), &paths);
    if let Err(e) = memo.save() {
        // A cache: the capture stands without it.
        printer.note(&format!("the next run will read everything again: {}", e.full()));
    }
    intents(settings, &mut captured)?;
    Ok((captured, trees))
}

/// Files beside the environment are a courtesy: one that cannot be read is an item of the report. A file
/// that the configuration names was asked for.
fn intents(settings: &Settings, captured: &mut Captured) -> Result<()> {
    let named: BTreeSet<PathBuf> = settings.config.intent.iter().map(|p| settings.project.join(p)).collect();
    let installed = intent::Installed {
        environment: &settings.environment,
        distributions: &captured.lock.distributions,
        packs: &captured.lock.packs,
        disabled_packs: &captured.disabled,
        main: &captured.lock.main,
    };
    let mut found: Vec<Finding> = Vec::new();
    for file in &named {
        found.extend(intent::check(file, &installed)?);
    }
    for file in intent::discover(&settings.environment, &settings.project) {
        if named.contains(&file) {
            continue;
        }
        match intent::check(&file, &installed) {
            Ok(more) => found.extend(more),
            Err(error) => found.push(Finding {
                severity: Severity::Warning,
                topic: Topic::Intent,
                path: file.display().to_string(),
                message: format!("not checked: {}", error.full()),
            }),
        }
    }
    captured.findings.extend(found);
    Ok(())
}

/// The report as JSON.
pub fn report_json(captured: &Captured) -> Value {
    let lock = &captured.lock;
    json!({
        "version": 1,
        "environment": captured.scan.root,
        "main": {"version": lock.main.version, "git": captured.scan.main.git, "bytes": captured.scan.main.size},
        "python": {"executable": captured.python.executable, "venv": captured.python.venv,
            "found": captured.python.how.to_string(), "version": lock.runtime.version},
        "packs": captured.scan.packs.iter().map(|p| json!({
            "name": p.name, "kind": p.kind, "enabled": p.enabled, "git": p.git, "nested": p.nested,
            "bytes": p.size, "weights": p.weights.iter().map(|w| json!({"path": w.path, "bytes": w.size})).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "distributions": lock.distributions.iter().map(|d| json!({
            "name": d.name, "version": d.version, "provenance": d.provenance, "reason": d.reason,
            "changed": d.changed, "bytes": d.tree.nar_size,
        })).collect::<Vec<_>>(),
        "cache": captured.scan.cache.iter().map(|c| json!({"path": c.path, "bytes": c.size})).collect::<Vec<_>>(),
        "models": captured.scan.models,
        "user": captured.scan.user,
        "outside": captured.scan.outside,
        "audit": {
            "objects": captured.audit.objects,
            "glibc_floor": captured.audit.glibc_floor,
            "cuda_majors": captured.audit.cuda_majors,
            "unmet": captured.audit.unmet,
        },
        "index": captured.index,
        "findings": captured.findings,
    })
}

/// The report for a person.
pub fn report_text(captured: &Captured, printer: &Printer) {
    let lock = &captured.lock;
    let git = |state: Option<&crate::capture::model::inventory::GitState>| match state {
        Some(s) => format!(
            "commit {}{}",
            s.commit.as_deref().map_or("none", |c| c.get(..10).unwrap_or(c)),
            match s.dirty {
                Some(true) => ", dirty",
                Some(false) => "",
                None => ", dirty or not: unknown",
            }
        ),
        None => "not in git".into(),
    };
    let environment = plain(&captured.scan.root.display().to_string());
    printer.line(printer.bold(&format!("ComfyUI environment {environment}")));
    printer.line(format!(
        "  main program  {} ({}, {})",
        plain(lock.main.version.as_deref().unwrap_or("version unknown")),
        git(captured.scan.main.git.as_ref()),
        bytes(captured.scan.main.size)
    ));
    printer.line(format!(
        "  Python        {} ({}, {})",
        lock.runtime.version,
        plain(&captured.python.executable.display().to_string()),
        captured.python.how
    ));
    let counts = lock.provenance_counts();
    let count = |p: Provenance| counts.get(p.name()).copied().unwrap_or(0);
    printer.line(format!(
        "  distributions {}: {} pinned, {} patched, {} captured",
        lock.distributions.len(),
        count(Provenance::Pinned),
        count(Provenance::Patched),
        count(Provenance::Captured)
    ));
    printer.line(format!("  packs         {}", captured.scan.packs.len()));
    for pack in &captured.scan.packs {
        let kind = match pack.kind {
            PackKind::Git => "",
            PackKind::Folder => "folder, ",
            PackKind::File => "file, ",
            PackKind::Link => "behind a link, ",
        };
        let state = if pack.enabled { git(pack.git.as_ref()) } else { "disabled, not captured".into() };
        let weights: u64 = pack.weights.iter().map(|w| w.size).sum();
        let weights = if weights > 0 { format!(", weights {}", bytes(weights)) } else { String::new() };
        printer.line(format!("    {:32} {kind}{state}, {}{weights}", plain(&pack.name), bytes(pack.size)));
        for nested in &pack.nested {
            let kind = if nested.submodule { "submodule" } else { "repository of its own" };
            let state = git(Some(&nested.git));
            printer.line(format!("      {:30} {kind}, {state}", plain(&nested.path)));
        }
    }
    let cache: u64 = captured.scan.cache.iter().map(|c| c.size).sum();
    printer.line(format!("  cache         {} entries, {}", captured.scan.cache.len(), bytes(cache)));
    folders("models", "shared storage, not captured", &captured.scan.models, printer);
    folders("user data", "stays with the service, not captured", &captured.scan.user, printer);
    if !captured.scan.outside.is_empty() {
        printer.line("  outside       paths out of the environment that it points at");
        for path in &captured.scan.outside {
            let what = if path.captured { "captured" } else { "NOT captured" };
            printer.line(format!("    {} -> {} ({what})", plain(&path.from), plain(&path.to)));
        }
    }
    if let Some((floor, file)) = &captured.audit.glibc_floor {
        printer.line(format!("  GLIBC floor   {}.{} ({})", floor.0, floor.1, plain(file)));
    }
    if let Some(index) = &captured.index {
        printer.line(format!(
            "  index         {} requests, {} of answers, {} of ranges ({})",
            index.requests,
            bytes(index.index_bytes),
            bytes(index.range_bytes),
            index.source
        ));
    }
    findings_text(&captured.findings, printer);
}

/// Folders that are listed by size and never captured; empty ones would only be noise.
fn folders(title: &str, why: &str, folders: &[ModelFolder], printer: &Printer) {
    let (files, size) = pipeline::total(folders);
    printer.line(format!("  {title:13} {files} files, {} ({why})", bytes(size)));
    for folder in folders.iter().filter(|f| f.bytes > 0) {
        printer.line(format!(
            "    {:32} {} files, {}",
            plain(&folder.path),
            folder.files,
            bytes(folder.bytes)
        ));
    }
}

/// Findings by topic, gravest first.
pub fn findings_text(findings: &[Finding], printer: &Printer) {
    let mut topics: BTreeMap<(std::cmp::Reverse<Severity>, Topic), Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        topics.entry((std::cmp::Reverse(finding.severity), finding.topic)).or_default().push(finding);
    }
    for ((_, topic), all) in topics {
        printer.line(printer.bold(topic.name()));
        for finding in all {
            printer.line(printer.finding(finding));
        }
    }
}

/// Puts both locks where the project keeps them.
pub fn lock_texts(captured: &Captured) -> Result<(String, String)> {
    Ok((captured.lock.to_toml()?, crate::capture::model::pylock::print(&captured.lock)))
}

pub fn project_file(settings: &Settings, name: &str) -> PathBuf {
    settings.project.join(name)
}
