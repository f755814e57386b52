//! The import check behind `snapshot --probe`: every distribution's modules are imported from the snapshot.
//! What fails there and imports in the environment is code that follows `realpath(__file__)` out of its own
//! wheel: through the links it arrives in a store path that holds that wheel alone. Its distribution is laid
//! out as real files, and looked at again.
use crate::capture::index::lookup::interrupted;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::model::used::Used;
use crate::capture::pipeline::Captured;
use crate::closure::scratch::Scratch;
use crate::snapshot::events::Observer;
use crate::snapshot::observed::{self, Known};
use crate::snapshot::places;
use crate::snapshot::probe::sealed;
use crate::snapshot::subject::Subject;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::observe::{Observed, Watch};
use crate::sys::progress::{Amount, Progress};
use crate::sys::seal::Seal;
use crate::sys::signals;
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

const SCRIPT: &str = include_str!("scripts/import_check.py");

/// Of one distribution's modules together.
const LIMIT_S: u64 = 180;

#[derive(Debug, Clone, Deserialize)]
struct Failure {
    module: String,
    error: String,
    /// Whose code the error passed through, the innermost last.
    owners: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Total { total: u64 },
    Looked { name: String, failed: Vec<Failure> },
}

/// Where the environment's interpreter has distributions from besides its own folders.
#[derive(Default)]
struct Beyond<'a> {
    user_base: Option<&'a Path>,
    path: Option<String>,
}

/// By distribution and module.
type Failures = BTreeMap<(String, String), Failure>;

fn names(failures: &Failures) -> BTreeSet<String> {
    failures.keys().map(|(name, _)| name.clone()).collect()
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
    let ask_in =
        |python: &Path, beyond: Beyond<'_>, only: Option<&BTreeSet<String>>, known: Option<&Known>| {
            ask(subject, python, beyond, only, (scratch.path(), &seal, known), progress.as_ref())
        };
    let ask = |python: &Path, only: Option<&BTreeSet<String>>| ask_in(python, Beyond::default(), only, None);
    progress.stage("importing every distribution from the snapshot", Amount::Unknown);
    // What loads from the snapshot and uses this machine may not load on a host.
    let interpreter = python(environment);
    let known = places::of_imports(subject, captured, &interpreter, scratch.path());
    let (failed, observed) = ask_in(&interpreter, Beyond::default(), None, Some(&known))?;
    let used = observed::sort(&observed, &known, &observed::look);
    if failed.is_empty() {
        return Ok(used);
    }
    progress.stage("importing in the environment what failed", Amount::Unknown);
    let beyond = Beyond {
        user_base: captured.user_base.as_deref(),
        path: captured.search_path(subject.service.environment.get("PYTHONPATH")),
    };
    let (there, _) = ask_in(&captured.python.executable, beyond, Some(&names(&failed)), None)?;
    let mut odd: Failures = failed.into_iter().filter(|(key, _)| !there.contains_key(key)).collect();
    let mut helped: BTreeSet<String> = BTreeSet::new();
    // First whose code failed; a second time whoever had a part in it.
    for all in [false, true] {
        let marked = mark(captured, &odd, all);
        if marked.is_empty() {
            continue;
        }
        let environment = rebuild(captured)?;
        progress.stage("importing again from the snapshot", Amount::Unknown);
        let (failed, _) = ask(&python(&environment), Some(&names(&odd)))?;
        let (left, mended): (Failures, Failures) =
            odd.into_iter().partition(|(key, _)| failed.contains_key(key));
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
    captured.findings.extend(helped.iter().map(|name| Finding {
        severity: Severity::Warning,
        topic: Topic::Imports,
        path: name.clone(),
        message: "laid out as real files: its code does not import through links; name it in `[python] real-files` \
                  to have it known everywhere"
            .into(),
    }));
    captured.findings.extend(odd.into_iter().map(|((name, module), failure)| Finding {
        severity: Severity::Problem,
        topic: Topic::Imports,
        path: name,
        message: format!(
            "`import {module}` works in the environment and not from the snapshot: {}",
            failure.error
        ),
    }));
    Ok(used)
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

fn ask(
    subject: &Subject,
    python: &Path,
    beyond: Beyond<'_>,
    only: Option<&BTreeSet<String>>,
    (scratch, seal, known): (&Path, &Seal, Option<&Known>),
    progress: &dyn Progress,
) -> Result<(Failures, Observed)> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
    let question = json!({"names": only, "workers": workers, "limit": LIMIT_S});
    let mut command = Command::new(python);
    if beyond.user_base.is_none() {
        command.arg("-s");
    }
    command
        .args(["-B", "-c", SCRIPT])
        .env_clear()
        .envs(beyond.user_base.map(|base| ("PYTHONUSERBASE", base)))
        .env("HOME", scratch)
        .env("TMPDIR", scratch)
        .env("LC_ALL", "C.UTF-8")
        // Where pyenv's shim looks for `.python-version`.
        .env("PYENV_DIR", &subject.environment)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(value) = std::env::var_os("LD_LIBRARY_PATH") {
        // The GPU driver's libraries are the host's.
        command.env("LD_LIBRARY_PATH", value);
    }
    command.envs(&subject.service.environment).envs(beyond.path.map(|path| ("PYTHONPATH", path)));
    seal.apply(command.as_std_mut());
    let watch = known.map(|known| Watch::over(command.as_std_mut(), known.own.clone()));
    signals::shield(command.as_std_mut());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Io, "cannot start the import check's loop").caused_by(e))?;
    let failures = runtime.block_on(async {
        tokio::select! {
            answers = converse(command, python, question.to_string(), progress) => answers,
            stop = interrupted() => Err(stop),
        }
    })?;
    Ok((failures, watch.map(Watch::end).unwrap_or_default()))
}

async fn converse(
    mut command: Command,
    python: &Path,
    question: String,
    progress: &dyn Progress,
) -> Result<Failures> {
    let failed = |e: std::io::Error| Error::io("check imports with", python, e);
    let mut child = command.spawn().map_err(failed)?;
    drop(command);
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::new(Kind::Io, format!("cannot speak with {}", python.display())));
    };
    input.write_all(format!("{question}\n").as_bytes()).await.map_err(failed)?;
    let mut lines = BufReader::new(output).lines();
    let mut failures = Failures::new();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        match serde_json::from_str(&line) {
            Ok(Line::Total { total }) => progress.stage("importing distributions", Amount::Items(total)),
            Ok(Line::Looked { name, failed }) => {
                progress.advance(1);
                failures.extend(failed.into_iter().map(|f| ((name.clone(), f.module.clone()), f)));
            }
            Err(e) => {
                return Err(Error::new(
                    Kind::Environment,
                    format!("{} answered the import check with {line:?}", python.display()),
                )
                .caused_by(e));
            }
        }
    }
    let status = child.wait().await.map_err(failed)?;
    // Until now it would have ended by itself, had we.
    drop(input);
    if !status.success() {
        return Err(Error::new(
            Kind::Environment,
            format!("the import check ended early with {}: {status}", python.display()),
        )
        .hint("take the snapshot without --probe, or look at what the interpreter loads at its start"));
    }
    Ok(failures)
}
