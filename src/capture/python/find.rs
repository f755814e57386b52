//! Is a directory a ComfyUI environment, and which Python does it use?
use crate::capture::files::paths::{finding, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::interpreter::InterpreterFacts;
use crate::formats::python::pyvenv::Pyvenv;
use crate::sys::error::{Error, Kind, Result};
use crate::words::show;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The Python that runs the environment. Whether it is a virtual environment's, and where its distributions are, is its own
/// to say (`interpreter`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonLocation {
    pub executable: PathBuf,
    pub how: FoundBy,
}

/// How the Python was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// The user named it.
    Given,
    /// A virtual environment beside the program.
    Beside,
    /// This variable names the active environment.
    Variable(&'static str),
    /// No environment: the `python3` of PATH.
    Path,
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FoundBy::Given => f.write_str("given"),
            FoundBy::Beside => f.write_str("beside the program"),
            FoundBy::Variable(name) => write!(f, "from ${name}"),
            FoundBy::Path => f.write_str("python3 on PATH"),
        }
    }
}

/// Environment variables, as a function so that tests need not change the process.
pub type Variables<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// How a user names an interpreter; the end of a hint.
const NAME_ONE: &str = "set `interpreter` under [python] in stillframe.toml";

/// The canonical path of the environment, or why it is none.
pub fn check(dir: &Path) -> Result<PathBuf> {
    let root = std::fs::canonicalize(dir).map_err(|e| {
        Error::new(Kind::Environment, format!("{} cannot be opened", dir.display()))
            .hint("give the directory that holds ComfyUI's main.py")
            .caused_by(e)
    })?;
    let no = |why: &str| {
        let message = format!("{} is not a ComfyUI directory: {why}", dir.display());
        let error = Error::new(Kind::Environment, message);
        let inner = ["ComfyUI", "comfyui"].iter().map(|n| root.join(n));
        match inner.into_iter().find(|path| path.join("main.py").is_file()) {
            Some(path) => error.hint(format!("did you mean {}?", path.display())),
            None => error.hint("give the directory that holds ComfyUI's main.py"),
        }
    };
    if !root.is_dir() {
        return Err(no("it is a file"));
    }
    utf8(&root)?;
    if !root.join("main.py").is_file() {
        return Err(no("it has no main.py"));
    }
    let program = root.join("nodes.py").is_file() && root.join("comfy").is_dir();
    if !root.join("custom_nodes").is_dir() && !program {
        return Err(no("it has neither custom_nodes/ nor nodes.py and comfy/"));
    }
    Ok(root)
}

/// Reports and records are texts.
fn utf8(path: &Path) -> Result<()> {
    if path.to_str().is_some() {
        return Ok(());
    }
    let shown = show(path.as_os_str().as_bytes());
    Err(Error::new(Kind::Environment, format!("the path {shown} is not UTF-8"))
        .hint("rename the folder, or reach it by a bind mount of another name"))
}

/// Finds the environment's Python: the given one (an executable or an environment's directory),
/// else the active environment, else a venv beside the program, else `python3`. Where another could be meant, both are named.
pub fn find_python(
    root: &Path,
    given: Option<&Path>,
    variables: &Variables<'_>,
) -> Result<(PythonLocation, Vec<Finding>)> {
    if let Some(given) = given {
        let found = if given.is_dir() {
            in_directory(given, FoundBy::Given)?
        } else {
            Some(from_executable(given, FoundBy::Given)?)
        };
        return found.map(|found| (found, Vec::new())).ok_or_else(|| {
            let message = format!("{} holds no Python environment", given.display());
            Error::new(Kind::Environment, message)
                .hint("give a Python executable or the directory of a virtual environment")
        });
    }
    let places = [root.join(".venv"), root.join("venv"), root.join("../.venv"), root.join("../venv")];
    let mut beside = None;
    for place in places {
        let place = tidy(&place);
        if let Some(found) = in_directory(&place, FoundBy::Beside)? {
            beside = Some((place, found));
            break;
        }
    }
    let active = active(variables)?;
    if let Some((place, beside)) = beside {
        return Ok(match active {
            Some((other, active)) if !same(&place, &other) => {
                choose((place, beside), (other, active), variables)
            }
            _ => (beside, Vec::new()),
        });
    }
    for embedded in [root.join("../python_embeded"), root.join("python_embeded")] {
        if embedded.is_dir() {
            let message = format!(
                "{} is the Windows portable build's Python, which is not supported",
                tidy(&embedded).display()
            );
            return Err(Error::new(Kind::Environment, message)
                .hint(format!("create a virtual environment on Linux and {NAME_ONE}")));
        }
    }
    if let Some((_, found)) = active {
        return Ok((found, Vec::new()));
    }
    let path = variables("PATH").unwrap_or_default();
    let python = std::env::split_paths(&path)
        .map(|dir| dir.join("python3"))
        .find(|python| executable(python))
        .ok_or_else(|| {
            let message = format!("no Python found for {}", root.display());
            Error::new(Kind::Environment, message).hint(NAME_ONE)
        })?;
    let found = from_executable(&python, FoundBy::Path)?;
    let message = format!("no virtual environment found: assuming python3 of PATH; for another, {NAME_ONE}");
    let note = finding(Severity::Warning, Topic::Runtime, python.display().to_string(), message);
    Ok((found, vec![note]))
}

/// The environment that the user's shell has activated, and its folder.
fn active(variables: &Variables<'_>) -> Result<Option<(PathBuf, PythonLocation)>> {
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(place) = variables(name).filter(|value| !value.is_empty()).map(PathBuf::from) else {
            continue;
        };
        if let Some(found) = in_directory(&place, FoundBy::Variable(name))? {
            return Ok(Some((place, found)));
        }
    }
    Ok(None)
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Of two environments the active one, but for conda's `base`: that is active in every shell, whoever works in it.
fn choose(
    (place, beside): (PathBuf, PythonLocation),
    (other, active): (PathBuf, PythonLocation),
    variables: &Variables<'_>,
) -> (PythonLocation, Vec<Finding>) {
    let base = active.how == FoundBy::Variable("CONDA_PREFIX")
        && variables("CONDA_DEFAULT_ENV").is_some_and(|name| name == "base");
    let (taken, path, left, why) = match base {
        true => (beside, place, other, format!("{}, and is conda's `base`", active.how)),
        false => (active, other, place, beside.how.to_string()),
    };
    let message = format!(
        "captured ({}); another environment, {}, is not ({why}); to be certain, {NAME_ONE}",
        taken.how,
        show(left.as_os_str().as_bytes())
    );
    let path = show(path.as_os_str().as_bytes());
    (taken, vec![finding(Severity::Warning, Topic::Runtime, path, message)])
}

/// `None`: no Python environment. An error: one that is broken, which must not be passed over.
fn in_directory(place: &Path, how: FoundBy) -> Result<Option<PythonLocation>> {
    let venv = place.join("pyvenv.cfg").is_file();
    let candidates = ["bin/python", "bin/python3"].map(|name| place.join(name));
    let there = candidates.iter().find(|path| path.symlink_metadata().is_ok());
    match there {
        Some(python) => from_executable(python, how).map(Some),
        None if venv => Err(broken(place, "it has no bin/python")),
        None => Ok(None),
    }
}

pub fn broken(place: &Path, why: &str) -> Error {
    let message = format!("the virtual environment {} is broken: {why}", place.display());
    Error::new(Kind::Environment, message)
        .hint(format!("recreate it with `uv venv` or `python3 -m venv`; for another Python, {NAME_ONE}"))
}

/// The path is kept as given: a venv's `bin/python` is a link, and means the venv only by its place.
fn from_executable(python: &Path, how: FoundBy) -> Result<PythonLocation> {
    let python =
        std::path::absolute(python).map(|path| tidy(&path)).map_err(|e| Error::io("find", python, e))?;
    let prefix = python.parent().and_then(Path::parent);
    let venv = prefix.filter(|place| place.join("pyvenv.cfg").is_file());
    if !executable(&python) {
        let why = match std::fs::read_link(&python) {
            Ok(to) if !python.exists() => {
                format!("{} links to {}, which is gone", python.display(), to.display())
            }
            _ if python.symlink_metadata().is_err() => {
                format!("{} does not exist", python.display())
            }
            _ => format!("{} is not an executable file", python.display()),
        };
        return Err(match venv {
            Some(place) => broken(place, &why),
            None => Error::new(Kind::Environment, format!("the Python cannot be used: {why}"))
                .hint(format!("for another Python, {NAME_ONE}")),
        });
    }
    utf8(&python)?;
    Ok(PythonLocation { executable: python, how })
}

/// What the interpreter's answer and the environment's own files say differently; or why nothing can be captured with it.
/// `sites` are the site directories that are there.
pub fn compare(facts: &InterpreterFacts, sites: &[PathBuf]) -> Result<Vec<Finding>> {
    let Some(venv) = facts.venv() else { return Ok(Vec::new()) };
    let path = venv.join("pyvenv.cfg");
    let text = read_small(&path, 1 << 20).unwrap_or_default();
    let config = Pyvenv::parse(&String::from_utf8_lossy(&text)).ok();
    let (own, made) = (facts.short_version(), config.and_then(|config| config.version));
    let made = made.filter(|made| *made != own && !made.starts_with(&format!("{own}.")));
    let shown = made.as_ref().map_or_else(String::new, |made| format!(", and it was made for Python {made}"));
    if !sites.iter().any(|site| site.starts_with(venv)) {
        let why = format!(
            "its interpreter is Python {}, which finds no site-packages in it{shown}",
            facts.full_version
        );
        return Err(broken(venv, &why));
    }
    let about = made.map(|made| {
        let message = format!(
            "says Python {made}, but the interpreter is Python {}: it does not see what was installed for the other, which is not captured",
            facts.full_version
        );
        finding(Severity::Warning, Topic::Runtime, show(path.as_os_str().as_bytes()), message)
    });
    Ok(about.into_iter().collect())
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Without `.` and with `..` resolved by name: the places here are beside the root, which is
/// canonical.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
