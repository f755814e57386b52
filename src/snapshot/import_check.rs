//! The import check behind `snapshot --probe`: every distribution's modules are imported from the snapshot.
//! What fails there and imports in the environment is code that follows `realpath(__file__)` out of its own
//! wheel: through the links it arrives in a store path that holds that wheel alone. Its distribution is laid
//! out as real files, and looked at again.
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::model::used::Used;
use crate::capture::pipeline::Captured;
use crate::closure::scratch::Scratch;
use crate::snapshot::events::{Event, Observer};
use crate::snapshot::importer::{Beyond, Failure, Failures, Importer, Modules, Question};
use crate::snapshot::known_good::KnownGood;
use crate::snapshot::observed;
use crate::snapshot::places;
use crate::snapshot::probe::sealed;
use crate::snapshot::subject::Subject;
use crate::sys::error::Result;
use crate::sys::progress::Amount;
use std::collections::BTreeSet;
use std::path::Path;

/// The distributions of these failures, each with all its modules: to be asked as they were.
fn again(failures: &Failures, asked: &Modules) -> Modules {
    let names: BTreeSet<&String> = failures.keys().map(|(name, _)| name).collect();
    asked.iter().filter(|(name, _)| names.contains(name)).map(|(n, all)| (n.clone(), all.clone())).collect()
}

/// `environment` is the store path of the snapshot's Python environment; `rebuild` realises what the lock has become and
/// returns the new one's.
pub fn check(
    subject: &Subject,
    captured: &mut Captured,
    environment: &str,
    observer: &dyn Observer,
    mut rebuild: impl FnMut(&Captured) -> Result<String>,
) -> Result<Used> {
    let python = |environment: &str| Path::new(environment).join("bin/python");
    if !python(environment).exists() {
        captured.findings.push(Finding {
            severity: Severity::Info,
            topic: Topic::Imports,
            path: environment.into(),
            message: "not checked: the store's files do not lie where their names say".into(),
        });
        return Ok(Used::default());
    }
    let progress = observer.progress();
    let scratch = Scratch::new(&subject.cache, "imports")?;
    let seal = sealed(subject, captured, scratch.path());
    let importer = Importer { subject, scratch: scratch.path(), seal: &seal, progress: progress.as_ref() };
    let (asked, mut odd, used) = differences(&importer, captured, &python(environment), observer)?;
    let mut helped: BTreeSet<String> = BTreeSet::new();
    // First whose code failed; a second time whoever had a part in it.
    for all in [false, true] {
        let marked = mark(captured, &odd, all);
        if marked.is_empty() {
            continue;
        }
        let environment = rebuild(captured)?;
        progress.stage("importing again from the snapshot", Amount::Unknown);
        let question = again(&odd, &asked);
        let now =
            importer.ask(&python(&environment), Beyond::default(), Question::Modules(&question))?.failures;
        let (left, mended): (Failures, Failures) =
            odd.into_iter().partition(|(key, _)| now.contains_key(key));
        odd = left;
        let useful: BTreeSet<String> =
            mended.iter().flat_map(|((name, _), failure)| blamed(name, failure, all)).collect();
        let useless: BTreeSet<String> = marked.difference(&useful).cloned().collect();
        helped.extend(marked.intersection(&useful).cloned());
        if !useless.is_empty() {
            // Copies of what links serve as well would only be bytes.
            set(captured, &useless, false);
            rebuild(captured)?;
        }
    }
    captured.findings.extend(in_words(helped, odd));
    Ok(used)
}

/// Which modules were asked for, what of them imports in the environment and not from the snapshot, and what the imports used
/// of this machine.
fn differences(
    importer: &Importer<'_>,
    captured: &Captured,
    python: &Path,
    observer: &dyn Observer,
) -> Result<(Modules, Failures, Used)> {
    let subject = importer.subject;
    importer.progress.stage("importing every distribution from the snapshot", Amount::Unknown);
    let mut known = KnownGood::open(subject, &captured.lock);
    // What loads from the snapshot and uses this machine may not load on a host.
    let around = places::of_imports(subject, captured, python, importer.scratch);
    let (first, observed) =
        importer.observed(python, Question::AllBut(&known.names()), around.own.clone())?;
    let used = known.add(&first, observed::sort(&observed, &around, &observed::look));
    if let Err(e) = known.save() {
        // A cache: the answer stands without it.
        observer.event(&Event::NotRemembered(e));
    }
    if first.failures.is_empty() {
        return Ok((first.asked, first.failures, used));
    }
    importer.progress.stage("importing in the environment what failed", Amount::Unknown);
    let beyond = Beyond {
        user_base: captured.user_base.as_deref(),
        path: captured.search_path(subject.service.environment.get("PYTHONPATH")),
    };
    let question = again(&first.failures, &first.asked);
    let there = importer.ask(&captured.python.executable, beyond, Question::Modules(&question))?.failures;
    let odd = first.failures.into_iter().filter(|(key, _)| !there.contains_key(key)).collect();
    Ok((first.asked, odd, used))
}

fn in_words(helped: BTreeSet<String>, odd: Failures) -> impl Iterator<Item = Finding> {
    let finding = |severity, path, message| Finding { severity, topic: Topic::Imports, path, message };
    let helped = helped.into_iter().map(move |name| {
        let message = "laid out as real files: its code does not import through links; name it in `[python] real-files` \
                       to have it known everywhere";
        finding(Severity::Warning, name, message.into())
    });
    helped.chain(odd.into_iter().map(move |((name, module), failure)| {
        let message = format!(
            "`import {module}` works in the environment and not from the snapshot: {}",
            failure.error
        );
        finding(Severity::Problem, name, message)
    }))
}

/// Whose layout a failure may be about.
fn blamed(name: &str, failure: &Failure, all: bool) -> Vec<String> {
    let own = name.to_string();
    match all {
        true => failure.owners.iter().cloned().chain([own]).collect(),
        false => vec![failure.owners.last().cloned().unwrap_or(own)],
    }
}

/// Marks the distributions of the failed code, and tells which were not marked before.
fn mark(captured: &mut Captured, odd: &Failures, all: bool) -> BTreeSet<String> {
    let wanted: BTreeSet<String> =
        odd.iter().flat_map(|((name, _), failure)| blamed(name, failure, all)).collect();
    let distributions = captured.lock.distributions.iter().filter(|d| !d.real_files);
    let marked: BTreeSet<String> =
        distributions.map(|d| d.name.clone()).filter(|name| wanted.contains(name)).collect();
    set(captured, &marked, true);
    marked
}

fn set(captured: &mut Captured, names: &BTreeSet<String>, real: bool) {
    for d in captured.lock.distributions.iter_mut().filter(|d| names.contains(&d.name)) {
        d.real_files = real;
    }
}
