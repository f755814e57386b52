//! Is a directory a ComfyUI environment, and which Python does it use?
use crate::capture::files::paths::{finding, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::sys::error::{Error, Kind, Result};
use crate::words::show;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The Python that runs the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonLocation {
    pub executable: PathBuf,
    pub venv: Option<PathBuf>,
    /// A venv's own, first; then the base interpreter's where the venv includes them. Empty for an
    /// interpreter that is no venv: only it knows.
    pub site_packages: Vec<PathBuf>,
    /// A venv that includes the base interpreter's site-packages.
    pub system: bool,
    pub how: FoundBy,
}

/// How the Python was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// The user named it.
    Given,
    /// A virtual environment beside the program: whoever looks again finds it by itself.
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
/// else a venv beside the program, else the active one, else `python3`.
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
    let beside = [root.join(".venv"), root.join("venv"), root.join("../.venv"), root.join("../venv")];
    for place in beside {
        if let Some(found) = in_directory(&tidy(&place), FoundBy::Beside)? {
            return Ok((found, Vec::new()));
        }
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
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(place) = variables(name).filter(|value| !value.is_empty()) else {
            continue;
        };
        if let Some(found) = in_directory(Path::new(&place), FoundBy::Variable(name))? {
            return Ok((found, Vec::new()));
        }
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

fn broken(place: &Path, why: &str) -> Error {
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
    let (site_packages, system) = match venv {
        Some(place) => site_packages(place)?,
        None => (Vec::new(), false),
    };
    let venv = venv.map(Path::to_path_buf);
    utf8(&python)?;
    Ok(PythonLocation { executable: python, venv, site_packages, system, how })
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// And whether the base interpreter's are among them.
fn site_packages(venv: &Path) -> Result<(Vec<PathBuf>, bool)> {
    let config = read_small(&venv.join("pyvenv.cfg"), 1 << 20)
        .ok_or_else(|| broken(venv, "its pyvenv.cfg cannot be read"))?;
    let config = String::from_utf8_lossy(&config).into_owned();
    let value = |key: &str| {
        config.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case(key).then(|| value.trim().to_string())
        })
    };
    let version = value("version_info").or_else(|| value("version"));
    let minor = version.and_then(|version| {
        let mut parts = version.split('.').map(str::to_string);
        Some(format!("python{}.{}", parts.next()?, parts.next()?))
    });
    let mut found = Vec::new();
    for lib in ["lib", "lib64"] {
        // lib64 is mostly a link to lib; where it is a folder, it is the platform's own.
        if venv.join(lib).is_symlink() {
            continue;
        }
        let mut pythons: Vec<PathBuf> = std::fs::read_dir(venv.join(lib))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("python"))
            .map(|e| e.path().join("site-packages"))
            .filter(|path| path.is_dir())
            .collect();
        pythons.sort();
        let named = minor.as_ref().map(|m| venv.join(lib).join(m).join("site-packages"));
        match named.filter(|path| pythons.contains(path)) {
            Some(path) => found.push(path),
            None if pythons.len() == 1 => found.append(&mut pythons),
            None => {}
        }
    }
    if found.is_empty() {
        return Err(broken(venv, "it has no lib/python*/site-packages of its own version"));
    }
    let base = value("include-system-site-packages").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    if base && let (Some(home), Some(minor)) = (value("home"), minor) {
        let prefix = Path::new(&home).parent().unwrap_or(Path::new("/")).to_path_buf();
        let candidates = [
            prefix.join("local/lib").join(&minor).join("dist-packages"),
            prefix.join("lib").join(&minor).join("site-packages"),
            prefix.join("lib64").join(&minor).join("site-packages"),
            prefix.join("lib/python3/dist-packages"),
        ];
        found.extend(candidates.into_iter().filter(|path| path.is_dir()));
    }
    Ok((found, base))
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
