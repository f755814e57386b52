//! The virtual environment of an imported environment: packages from the indexes that they belong to, by pip, and the packs'
//! own install scripts.
use crate::formats::comfy::description::{Dependencies, Description, local_version, name_of};
use crate::formats::credentials::redacted;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process;
use crate::sys::progress::{Amount, Progress, check_interrupt};
use crate::words;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A repository or a wheel may be large and the line slow; a stop is heard all the time.
const LIMIT: Duration = Duration::from_secs(3600);

/// What is made of a description, and how.
pub struct Wish<'a> {
    pub description: &'a Description,
    /// The description itself, which may be an archive.
    pub file: &'a Path,
    pub folder: &'a Path,
    /// The interpreter for the virtual environment.
    pub python: &'a str,
    /// Whether the packs' own `install.py` run.
    pub scripts: bool,
}

/// One step of the work, by another program.
pub fn step(command: Command, what: &str) -> Result<()> {
    let done = process::run_until_interrupt(command, what, LIMIT)?;
    if done.code == Some(0) {
        return Ok(());
    }
    let said = redacted(&words::last_lines(&done.stderr, 3).join("; "));
    Err(Error::new(Kind::Environment, format!("{what} failed: {said}"))
        .hint("nothing was left behind; mend what it says and run the command again"))
}

/// pip of the virtual environment, and where its lists lie: an address may have a password, so nobody else reads them.
struct Pip {
    python: String,
    lists: tempfile::TempDir,
}

impl Pip {
    fn list(&self, name: &str, lines: &[String]) -> Result<PathBuf> {
        let path = self.lists.path().join(name);
        std::fs::write(&path, lines.join("\n") + "\n").map_err(|e| Error::io("write", &path, e))?;
        Ok(path)
    }

    fn install(&self, lists: &[PathBuf], constraints: &[String], alone: bool) -> Result<()> {
        let constraints = self.list("constraints.txt", constraints)?.display().to_string();
        let lists: Vec<String> = lists.iter().map(|list| list.display().to_string()).collect();
        let mut words = vec![&*self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        words.extend(["--constraint", &constraints]);
        if alone {
            words.push("--no-deps");
        }
        lists.iter().for_each(|list| words.extend(["--requirement", list]));
        step(process::command(&words), "pip")
    }

    /// `NAME==VERSION` of what is installed by now.
    fn installed(&self, names: &[&String]) -> Result<Vec<String>> {
        let code =
            "import importlib.metadata as m, sys\nfor n in sys.argv[1:]: print(n + '==' + m.version(n))";
        let mut words = vec![&*self.python, "-I", "-c", code];
        words.extend(names.iter().map(|name| name.as_str()));
        let said = process::must(&words, Duration::from_secs(60))?;
        Ok(String::from_utf8_lossy(&said).lines().map(String::from).collect())
    }
}

pub fn packages(wish: &Wish, progress: &dyn Progress) -> Result<Vec<String>> {
    // Absolute: scripts run in the folders of their packs.
    let folder = &std::path::absolute(wish.folder).map_err(|e| Error::io("find", wish.folder, e))?;
    let d = wish.description;
    let venv = folder.join(".venv").display().to_string();
    progress.stage("making the virtual environment", Amount::Unknown);
    step(process::command(&[wish.python, "-m", "venv", &venv]), "making the virtual environment")?;
    let lists = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
    let pip = Pip { python: format!("{venv}/bin/python"), lists };
    progress.stage("installing packages", Amount::Unknown);
    let mut lacking = match d.dependencies {
        Dependencies::Frozen => frozen(d, &pip)?,
        Dependencies::Wanted | Dependencies::Besides => wanted(d, folder, &pip)?,
    };
    progress.stage("packs' install scripts", Amount::Unknown);
    let mut ran = false;
    for pack in &d.packs {
        let at = folder.join("custom_nodes").join(&pack.name);
        if !at.join("install.py").is_file() {
            continue;
        }
        if !wish.scripts {
            lacking.push(format!(
                "pack {}: its install.py was not run; read it, then run it in {} with {}, or import with --install-scripts",
                pack.name,
                at.display(),
                pip.python
            ));
            continue;
        }
        let mut command = process::command(&[&pip.python, "install.py"]);
        command.current_dir(&at);
        step(command, &format!("install.py of the pack {}", pack.name))?;
        ran = true;
    }
    // A script may have installed other versions than the file names.
    if ran && d.dependencies == Dependencies::Frozen {
        frozen(d, &pip)?;
    }
    Ok(lacking)
}

/// What was installed, and nothing else. A build with a local version (`2.4.1+cu121`) is on an index of its own, which the
/// file may not name: such a one is tried for itself, and another of its name never takes its place.
fn frozen(d: &Description, pip: &Pip) -> Result<Vec<String>> {
    let (local, plain): (Vec<_>, Vec<_>) =
        d.requirements.iter().cloned().partition(|line| local_version(line).is_some());
    let mut lacking = Vec::new();
    for line in local {
        let list = pip.list("local.txt", std::slice::from_ref(&line))?;
        if let Err(e) = pip.install(&[list], &[], true) {
            check_interrupt()?;
            lacking.push(format!(
                "requirement {line}: it is a build of an index that the file does not name ({}); name that index to pip \
                 (PIP_EXTRA_INDEX_URL) and import again",
                e.message
            ));
        }
    }
    pip.install(&[pip.list("requirements.txt", &plain)?], &[], true)?;
    Ok(lacking)
}

/// What is wanted, with what that requires.
fn wanted(d: &Description, folder: &Path, pip: &Pip) -> Result<Vec<String>> {
    let mut constraints = d.constraints.clone();
    // First, and for themselves: for pip all indexes are one, and what is there already it does not look for.
    for index in &d.indexes {
        let of = |line: &&String| name_of(line).is_some_and(|name| index.packages.contains(&name));
        let mut lines = vec![format!("--index-url {}", index.url)];
        lines.extend(d.requirements.iter().filter(of).cloned());
        let names: Vec<&String> = index.packages.iter().collect();
        pip.install(&[pip.list("index.txt", &lines)?], &d.constraints, true)?;
        constraints.extend(pip.installed(&names)?);
    }
    // No version has this number: what requires such a package fails, and gets no other of its name.
    let not_had = d.lacking.iter().filter(|name| !d.names(name));
    constraints.extend(not_had.map(|name| format!("{name}==0+not.in.the.import")));
    let mut lists = vec![pip.list("requirements.txt", &d.requirements)?];
    if d.dependencies == Dependencies::Besides {
        let packs = d.packs.iter().map(|p| folder.join("custom_nodes").join(&p.name));
        lists.extend([folder.to_path_buf()].into_iter().chain(packs).map(|at| at.join("requirements.txt")));
    }
    lists.retain(|list| list.is_file());
    pip.install(&lists, &constraints, false)?;
    Ok(Vec::new())
}
