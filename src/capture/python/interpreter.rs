//! What the environment's interpreter says about itself: its build, its prefix, and the site directories in which it
//! would look. It is asked with `-I -S`: the module `site` is not run, so no `.pth` file and none of the environment's
//! code is.
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys::error::{Error, Kind, Result};
use crate::words::last_lines;

const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Facts about a CPython interpreter. A virtual environment's interpreter gives those of its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterpreterFacts {
    /// Major, minor, micro.
    pub version: (u32, u32, u32),
    /// As in the marker `python_full_version`, for example `3.13.0rc1`.
    pub full_version: String,
    pub implementation: String,
    /// For example `cpython-311`.
    pub cache_tag: String,
    pub soabi: Option<String>,
    /// Suffix of extension modules, for example `.cpython-311-x86_64-linux-gnu.so`.
    pub ext_suffix: String,
    pub platform: String,
    /// `x86_64` or `aarch64`.
    pub machine: String,
    pub multiarch: Option<String>,
    /// `lib`, or `lib64` on some distributions.
    pub platlibdir: String,
    pub base_prefix: PathBuf,
    pub stdlib: PathBuf,
    pub platstdlib: PathBuf,
    pub lib_dynload: Option<PathBuf>,
    /// The real file, never a link or a virtual environment's copy.
    pub executable: PathBuf,
    pub include: Option<PathBuf>,
    /// Where headers are looked for.
    #[serde(default)]
    pub headers: Vec<PathBuf>,
    /// A virtual environment's own, else the base's.
    pub prefix: PathBuf,
    /// Where it looks for distributions, in the order of `sys.path`, whether the folder is there or not: distributions of
    /// Linux have several, and not the same.
    pub sites: Vec<PathBuf>,
    /// The one of `sites` that `pip install --user` fills, and the prefix that belongs to it.
    pub user_site: Option<PathBuf>,
    pub user_base: Option<PathBuf>,
    pub scheme_names: Vec<String>,
    /// The marker environment of dependency specifiers.
    pub markers: BTreeMap<String, String>,
}

/// Where the build says that something is counts only if it is below the prefix of today: a copied or moved
/// interpreter still names its old place. The site directories are what the interpreter's own `site.main` would add, with a
/// note taken in place of reading the folder; distributions of Linux change these functions. Which folders are there may
/// change with every installation, so all are noted. It comes last: `site.venv` sets `sys.prefix`.
const SCRIPT: &str = r#"
import json, os, platform, site, sys, sysconfig
v = sys.version_info
var = sysconfig.get_config_var
def full(v):
    return '%d.%d.%d' % tuple(v[:3]) + ('' if v.releaselevel == 'final' else v.releaselevel[0] + str(v.serial))
full_version = full(v).replace('c', 'rc')
base = os.path.realpath(sys.base_prefix)
exe = os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable)
own = os.path.join(base, 'bin', 'python%d.%d' % tuple(v[:2]))
if not exe.startswith(base.rstrip('/') + '/') and os.path.isfile(own):
    exe = os.path.realpath(own)
paths = sysconfig.get_paths()
def own(p):
    return p if p and p.startswith(base.rstrip('/') + '/') else None
dynload = [p for p in [os.path.join(paths[k], 'lib-dynload') for k in ('platstdlib', 'stdlib')] + sys.path + [own(var('DESTSHARED'))] if p and os.path.basename(p) == 'lib-dynload' and os.path.isdir(p)]
headers = [p for p in [paths.get('include'), own(var('INCLUDEPY'))] if p]
include = [p for p in headers if os.path.isfile(os.path.join(p, 'Python.h'))]
name = sys.implementation.name
answer = dict(
    version=list(v[:3]), full_version=full_version, implementation=name,
    cache_tag=sys.implementation.cache_tag or '', soabi=var('SOABI'), ext_suffix=var('EXT_SUFFIX') or '',
    platform=sys.platform, machine=platform.machine(), multiarch=getattr(sys.implementation, '_multiarch', None),
    platlibdir=getattr(sys, 'platlibdir', 'lib'), base_prefix=sys.base_prefix,
    stdlib=paths['stdlib'], platstdlib=paths['platstdlib'], lib_dynload=(dynload + [None])[0],
    executable=exe, include=(include + [None])[0], headers=headers, scheme_names=sorted(sysconfig.get_scheme_names()),
    markers=dict(
        implementation_name=name, implementation_version=full(sys.implementation.version).replace('c', 'rc'),
        os_name=os.name, platform_machine=platform.machine(), platform_release=platform.release(),
        platform_system=platform.system(), platform_version=platform.version(),
        python_full_version=full_version, platform_python_implementation=platform.python_implementation(),
        python_version='%d.%d' % tuple(v[:2]), sys_platform=sys.platform))
sites = []
def add(folder, known=None):
    if folder not in sites:
        sites.append(folder)
    return known
isdir, os.path.isdir = os.path.isdir, lambda path: True
site.addsitedir, site.ENABLE_USER_SITE = add, not os.environ.get('PYTHONNOUSERSITE')
try:
    known = site.venv(set())
    if site.ENABLE_USER_SITE:
        known = site.addusersitepackages(known)
    site.addsitepackages(known)
finally:
    os.path.isdir = isdir
user = site.ENABLE_USER_SITE and (site.getusersitepackages(), site.getuserbase()) or (None, None)
print(json.dumps(dict(answer, prefix=sys.prefix, sites=sites, user_site=user[0], user_base=user[1])))
"#;

impl InterpreterFacts {
    /// Asks `python`, which may be a link, a wrapper or a virtual environment's interpreter.
    pub fn of(python: &Path) -> Result<InterpreterFacts> {
        Self::of_in(python, Path::new("/"))
    }

    /// The same where pyenv's shim looks for `.python-version`. (`-I`: nothing there is imported.)
    pub fn of_in(python: &Path, folder: &Path) -> Result<InterpreterFacts> {
        Self::parse(&ask(python, folder, TIME_LIMIT)?, python)
    }

    /// Whether what was answered is still so, as far as it depends on more than the interpreter's own file: headers
    /// and extension modules come and go with packages of their own.
    pub fn still_holds(&self) -> bool {
        let headers = self.headers.iter().find(|folder| folder.join("Python.h").is_file());
        let there = |folder: &Option<PathBuf>| folder.as_ref().is_none_or(|folder| folder.is_dir());
        headers == self.include.as_ref() && there(&self.lib_dynload) && self.stdlib.is_dir()
    }

    /// What the answer depends on besides the interpreter and its pyvenv.cfg.
    pub const VARIABLES: [&str; 3] = ["HOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE"];

    /// The virtual environment, if it is one.
    pub fn venv(&self) -> Option<&Path> {
        (self.prefix != self.base_prefix).then_some(self.prefix.as_path())
    }

    /// The program that prints the answer.
    pub const QUESTION: &str = SCRIPT;

    /// Reads the answer of `python`.
    pub fn parse(output: &str, python: &Path) -> Result<InterpreterFacts> {
        // A wrapper may print something of its own before.
        let line = output.lines().rev().find(|l| l.starts_with('{')).unwrap_or_default();
        let facts: InterpreterFacts = serde_json::from_str(line)
            .map_err(|e| broken(python, "it did not answer as a Python interpreter does").caused_by(e))?;
        facts.check(python)?;
        Ok(facts)
    }

    /// `3.11`
    pub fn short_version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    fn check(&self, python: &Path) -> Result<()> {
        let shown = python.display();
        if self.implementation != "cpython" {
            return Err(Error::new(
                Kind::Environment,
                format!("{shown} is {}, not CPython", self.implementation),
            )
            .hint("ComfyUI environments are captured with CPython only"));
        }
        if self.platform != "linux" || !matches!(self.machine.as_str(), "x86_64" | "aarch64") {
            return Err(Error::new(
                Kind::Environment,
                format!("{shown} runs on {} {}", self.platform, self.machine),
            )
            .hint("only Linux on x86_64 or aarch64 can be captured"));
        }
        if self.version < (3, 9, 0) {
            return Err(Error::new(
                Kind::Environment,
                format!("{shown} is Python {}, older than 3.9", self.full_version),
            )
            .hint("ComfyUI needs Python 3.9 or newer"));
        }
        Ok(())
    }
}

fn broken(python: &Path, what: &str) -> Error {
    Error::new(Kind::Environment, format!("the interpreter {} is broken: {what}", python.display()))
        .hint("check that it starts: run it with `-I -S -c 'print(1)'`")
}

fn ask(python: &Path, folder: &Path, limit: Duration) -> Result<String> {
    match std::fs::metadata(python) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let dangling = std::fs::symlink_metadata(python).is_ok();
            let what = if dangling { "a link to nothing" } else { "not there" };
            return Err(Error::new(
                Kind::Environment,
                format!("the interpreter {} is {what}", python.display()),
            )
            .hint("the Python it was made from may have been removed; make the environment anew"));
        }
        Err(e) => return Err(Error::io("look at", python, e)),
        Ok(found) if !found.is_file() => {
            return Err(Error::new(Kind::Environment, format!("{} is not an interpreter", python.display()))
                .hint("name the environment's bin/python"));
        }
        Ok(_) => {}
    }
    let mut child = Command::new(python)
        .args(["-I", "-S", "-B", "-c", SCRIPT])
        .env("LC_ALL", "C.UTF-8")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A wrapper's children go down with it.
        .process_group(0)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::PermissionDenied => Error::new(
                Kind::Environment,
                format!("the interpreter {} is not executable", python.display()),
            )
            .hint("check its permissions and the mount options of its file system")
            .caused_by(e),
            _ => broken(python, "it cannot be started").caused_by(e),
        })?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, limit).map_err(|e| Error::io("wait for", python, e))?;
    let stderr = stderr.join().unwrap_or_default();
    let stdout = stdout.join().unwrap_or_default();
    match status {
        None => Err(broken(python, &format!("no answer within {} s", limit.as_secs()))),
        Some(status) if !status.success() => Err(broken(python, &format!("{status}{}", tail(&stderr)))),
        Some(_) => Ok(stdout),
    }
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(group) = group {
                let kill = rustix::process::Signal::KILL;
                // It may have ended meanwhile; then there is nothing to kill.
                let _ = rustix::process::kill_process_group(group, kill);
            }
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Reads a pipe to its end, so that the writer never blocks; keeps the first megabyte.
fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.by_ref().take(1 << 20).read_to_end(&mut kept);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

fn tail(stderr: &str) -> String {
    let lines = last_lines(stderr.trim(), 8);
    if lines.is_empty() { String::new() } else { format!("; it said:\n{}", lines.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("python");
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
        path
    }

    #[test]
    fn each_way_to_fail_says_which() {
        let dir = tempfile::tempdir().expect("temp dir");
        let gone = InterpreterFacts::of(&dir.path().join("no")).expect_err("nothing there");
        assert!(gone.message.contains("not there"), "{gone}");
        let path = script(dir.path(), "#!/bin/sh\necho one >&2; echo two >&2; exit 3\n");
        let failed = InterpreterFacts::of(&path).expect_err("exit status");
        assert!(failed.message.contains("two") && failed.message.contains('3'), "{failed}");
        let path = script(dir.path(), "#!/bin/sh\necho hello\n");
        let other = InterpreterFacts::of(&path).expect_err("no facts");
        assert!(other.message.contains("did not answer"), "{other}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("chmod");
        let mode = InterpreterFacts::of(&path).expect_err("mode");
        assert!(mode.message.contains("not executable"), "{mode}");
    }

    #[test]
    fn a_hanging_interpreter_is_ended() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = script(dir.path(), "#!/bin/sh\nsleep 60\necho never\n");
        let start = Instant::now();
        let error = ask(&path, Path::new("/"), Duration::from_millis(300)).expect_err("no answer");
        assert!(error.message.contains("no answer"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
