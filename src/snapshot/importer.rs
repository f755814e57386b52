//! Importing distributions with an interpreter: `scripts/import_check` does it, in processes of its own, and this is the
//! conversation with it.
use crate::capture::index::lookup::interrupted;
use crate::snapshot::subject::Subject;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::observe::{Observed, Places, Watch};
use crate::sys::progress::{Amount, Progress};
use crate::sys::seal::Seal;
use crate::sys::signals;
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

pub const SCRIPT: &str = concat!(
    include_str!("scripts/import_check/asked.py"),
    include_str!("scripts/import_check/child.py"),
    include_str!("scripts/import_check/first.py")
);

/// Of one distribution's modules together.
const LIMIT_S: u64 = 180;

/// What was said is read by then, once the process has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is to be imported.
#[derive(Debug, Clone, Copy)]
pub enum Question<'a> {
    /// What every distribution brings, but for those that are known to import.
    AllBut(&'a BTreeSet<String>),
    /// These modules, each distribution in a process of its own. Which modules a distribution has, its RECORD says, and
    /// two interpreters may have two of them: only who asks both for the same can compare the answers.
    Modules(&'a Modules),
}

/// By distribution, in the order in which they are imported.
pub type Modules = BTreeMap<String, Vec<String>>;

#[derive(Debug, Clone, Deserialize)]
pub struct Failure {
    pub module: String,
    pub error: String,
    /// Whose code the error passed through, the innermost last.
    pub owners: Vec<String>,
}

/// By distribution and module.
pub type Failures = BTreeMap<(String, String), Failure>;

#[derive(Debug, Default)]
pub struct Answers {
    pub asked: Modules,
    pub failures: Failures,
    /// Of each distribution, those that were loaded when its modules had been imported.
    pub loaded: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Total { total: u64 },
    Looked { name: String, asked: Vec<String>, failed: Vec<Failure>, loaded: BTreeSet<String> },
}

/// Where the environment's interpreter has distributions from besides its own folders.
#[derive(Debug, Default)]
pub struct Beyond<'a> {
    pub user_base: Option<&'a Path>,
    pub path: Option<String>,
}

/// What an import may read besides files: the same for every question.
pub fn variables(subject: &Subject) -> Vec<(String, std::ffi::OsString)> {
    // The GPU driver's libraries are the host's.
    let own = ["PATH", "LD_LIBRARY_PATH"];
    let own = own.iter().filter_map(|name| Some((name.to_string(), std::env::var_os(name)?)));
    let given = subject.service.environment.iter().map(|(name, value)| (name.clone(), value.into()));
    own.chain(given).collect()
}

pub struct Importer<'a> {
    pub subject: &'a Subject,
    /// The only folder that what is imported can write into.
    pub scratch: &'a Path,
    pub seal: &'a Seal,
    pub progress: &'a dyn Progress,
}

impl Importer<'_> {
    pub fn ask(&self, python: &Path, beyond: Beyond<'_>, question: Question<'_>) -> Result<Answers> {
        self.run(self.command(python, beyond), python, question)
    }

    /// The same with the snapshot's own interpreter, and what that used; `places` says what of it is not worth a note.
    pub fn observed(
        &self,
        python: &Path,
        question: Question<'_>,
        places: Places,
    ) -> Result<(Answers, Observed)> {
        let mut command = self.command(python, Beyond::default());
        let watch = Watch::over(command.as_std_mut(), places);
        let answers = self.run(command, python, question);
        // However it ended, whoever is left would wait for answers to its calls.
        let observed = watch.end();
        Ok((answers?, observed))
    }

    fn run(&self, command: Command, python: &Path, question: Question<'_>) -> Result<Answers> {
        let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
        let (names, known) = match question {
            Question::AllBut(known) => (None, Some(known)),
            Question::Modules(names) => (Some(names), None),
        };
        let question = json!({"names": names, "known": known, "workers": workers, "limit": LIMIT_S});
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Io, "cannot start the import check's loop").caused_by(e))?;
        runtime.block_on(async {
            tokio::select! {
                answers = converse(command, python, question.to_string(), self.progress) => answers,
                stop = interrupted() => Err(stop),
            }
        })
    }

    fn command(&self, python: &Path, beyond: Beyond<'_>) -> Command {
        let mut command = Command::new(python);
        if beyond.user_base.is_none() {
            command.arg("-s");
        }
        command
            .args(["-B", "-c", SCRIPT])
            .env_clear()
            .envs(beyond.user_base.map(|base| ("PYTHONUSERBASE", base)))
            .env("HOME", self.scratch)
            .env("TMPDIR", self.scratch)
            .env("LC_ALL", "C.UTF-8")
            // Where pyenv's shim looks for `.python-version`.
            .env("PYENV_DIR", &self.subject.environment)
            .envs(variables(self.subject))
            .envs(beyond.path.map(|path| ("PYTHONPATH", path)))
            .current_dir(self.scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        self.seal.apply(command.as_std_mut());
        signals::shield(command.as_std_mut());
        command
    }
}

async fn converse(
    mut command: Command,
    python: &Path,
    question: String,
    progress: &dyn Progress,
) -> Result<Answers> {
    let failed = |e: std::io::Error| Error::io("check imports with", python, e);
    let mut child = command.spawn().map_err(failed)?;
    drop(command);
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::new(Kind::Io, format!("cannot speak with {}", python.display())));
    };
    input.write_all(format!("{question}\n").as_bytes()).await.map_err(failed)?;
    let mut lines = BufReader::new(output).lines();
    let mut answers = Answers::default();
    let mut ended = None;
    loop {
        let line = tokio::select! {
            biased;
            line = lines.next_line() => line.map_err(failed)?,
            status = child.wait(), if ended.is_none() => {
                ended = Some(status.map_err(failed)?);
                continue;
            }
            // Whoever still has the pipe is not the one who was asked.
            () = tokio::time::sleep(LAST_WORDS), if ended.is_some() => None,
        };
        let Some(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Line::Total { total }) => progress.stage("importing distributions", Amount::Items(total)),
            Ok(Line::Looked { name, asked, failed, loaded }) => {
                progress.advance(1);
                answers.failures.extend(failed.into_iter().map(|f| ((name.clone(), f.module.clone()), f)));
                answers.loaded.insert(name.clone(), loaded);
                answers.asked.insert(name, asked);
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
    let status = match ended {
        Some(status) => status,
        None => child.wait().await.map_err(failed)?,
    };
    // Until now it would have ended by itself, had we.
    drop(input);
    if !status.success() {
        return Err(Error::new(
            Kind::Environment,
            format!("the import check ended early with {}: {status}", python.display()),
        )
        .hint("take the snapshot without --probe, or look at what the interpreter loads at its start"));
    }
    Ok(answers)
}
