//! Reading an environment, for `inspect`, `lock` and `snapshot`: the memo, the capture, files of intent.
use crate::capture::files::paths::read_foreign_text;
use crate::capture::intent;
use crate::capture::model::lock::Lock;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::pipeline::{self, Captured, Options};
use crate::capture::runtime::given;
use crate::capture::trees::Trees;
use crate::capture::trees::memo::Memo;
use crate::capture::trees::nar::path_of;
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::formats::python::name;
use crate::snapshot::events::{Event, Observer};
use crate::snapshot::subject::Subject;
use crate::store::Store;
use crate::sys::error::Result;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

/// How a capture is to go about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// No index is asked.
    pub offline: bool,
    /// An import check follows: it finds anew which distributions must be real files.
    pub checked: bool,
}

/// Captures, with or without a store to send to.
pub fn capture(
    subject: &Subject,
    manner: Manner,
    store: Option<&mut Store>,
    observer: &dyn Observer,
) -> Result<(Captured, Trees)> {
    let memo = Memo::open(&subject.cache, &subject.environment);
    let store_dir = match &store {
        Some(store) => store.store_dir.clone(),
        None => subject.store.store_dir.clone(),
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
    let options = options(subject, &memo, &store_dir, manner)?;
    let mut captured =
        pipeline::capture(&subject.environment, &options, &memo, &trees, observer.progress().as_ref())?;
    let paths: Vec<String> = captured
        .lock
        .trees()
        .into_iter()
        .map(|t| path_of(t, &store_dir).map(|p| p.to_string()))
        .collect::<Result<_>>()?;
    memo.put("trees", Some(&store_dir.0), &paths);
    if let Err(e) = memo.save() {
        // A cache: the capture stands without it.
        observer.event(&Event::NotRemembered(e));
    }
    intents(subject, &mut captured)?;
    Ok((captured, trees))
}

/// Reads an environment once more for its trees alone: nothing is asked, sent or remembered.
pub fn trees_of(subject: &Subject, store_dir: &StoreDir, observer: &dyn Observer) -> Result<Trees> {
    let memo = Memo::open(&subject.cache, &subject.environment);
    let trees = Trees::kept();
    let options = options(subject, &memo, store_dir, Manner { offline: true, checked: false })?;
    pipeline::capture(&subject.environment, &options, &memo, &trees, observer.progress().as_ref())?;
    Ok(trees)
}

fn options(subject: &Subject, memo: &Memo, store_dir: &StoreDir, manner: Manner) -> Result<Options> {
    let python = &subject.python;
    let connect = || Store::connect(&subject.store);
    let given =
        python.runtime.as_ref().map(|path| given::look(path, store_dir, memo, connect)).transpose()?;
    Ok(Options {
        store_dir: store_dir.clone(),
        interpreter: python.interpreter.as_ref().map(|p| subject.project.join(p)),
        given,
        libraries: python.libraries.iter().map(|p| p.display().to_string()).collect(),
        programs: subject.service.programs.clone(),
        system_files: subject.service.system_files.clone(),
        real_files: real_files(subject, !manner.checked),
        exclude: subject.exclude.iter().cloned().chain(private_inside(subject)).collect(),
        private: subject.private.clone(),
        allow_secrets: subject.allow_secrets.clone(),
        redact: subject.redact.clone(),
        own_paths: subject.own_paths.clone(),
        named: subject.named.clone(),
        environment_cache: subject.environment_cache.clone(),
        cache: subject.cache.clone(),
        offline: manner.offline,
    })
}

/// Secret files that lie in the environment, by their place there.
fn private_inside(subject: &Subject) -> Vec<String> {
    let place = |file: &PathBuf| {
        let file = file.canonicalize().ok()?;
        Some(file.strip_prefix(&subject.environment).ok()?.to_str()?.to_string())
    };
    subject.private.iter().filter_map(place).collect()
}

/// What the configuration names, and what an import check found: as the committed lock and the newest snapshot
/// of this environment remember it, so that a capture without the check gives the same.
fn real_files(subject: &Subject, remembered: bool) -> Vec<String> {
    let mut names: BTreeSet<String> = subject.python.real_files.iter().map(|n| name::normalize(n)).collect();
    if !remembered {
        return names.into_iter().collect();
    }
    let registry = subject.registry();
    let records = registry.list().unwrap_or_default();
    let newest = records.iter().rev().find(|record| record.environment == subject.environment);
    let newest = newest.map(|record| registry.folder(&record.id).join("stillframe.lock"));
    for path in newest.into_iter().chain([subject.project.join("stillframe.lock")]) {
        // One that cannot be read is told of by the commands that are about it; one without the word is not parsed.
        let text = read_foreign_text(&path).ok().filter(|text| text.contains("real-files"));
        let lock = text.and_then(|text| Lock::from_toml(&text, &path.display().to_string()).ok());
        names.extend(lock.into_iter().flat_map(|l| l.distributions).filter(|d| d.real_files).map(|d| d.name));
    }
    names.into_iter().collect()
}

/// Files beside the environment are a courtesy: one that cannot be read is an item of the report. A file
/// that the configuration names was asked for.
fn intents(subject: &Subject, captured: &mut Captured) -> Result<()> {
    let named: BTreeSet<PathBuf> = subject.intent.iter().map(|p| subject.project.join(p)).collect();
    let installed = intent::Installed {
        environment: &subject.environment,
        distributions: &captured.lock.distributions,
        packs: &captured.lock.packs,
        disabled_packs: &captured.disabled,
        main: &captured.lock.main,
    };
    let mut found: Vec<Finding> = Vec::new();
    for file in &named {
        found.extend(intent::check(file, &installed)?);
    }
    for file in intent::discover(&subject.environment, &subject.project) {
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
