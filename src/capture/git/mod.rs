//! What git knows of a directory, without running anything the repository configures: refs and
//! configuration are read as text; objects are read by `git` plumbing that runs no filter, hook or
//! pager, in an environment with nothing of the user's. Comparing is in `git_compare`.
pub mod compare;

use crate::capture::files::paths::{finding, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::formats::credentials::without_credentials;
use crate::sys::programs;
use crate::sys::signals;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Refs and configuration files are small; a larger one is not read.
const TEXT_LIMIT: u64 = 8 * 1024 * 1024;

/// Plumbing on a local repository takes milliseconds; a hostile one may try to wait for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// A repository as its text files tell it.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub git_dir: PathBuf,
    /// Where refs and configuration of a linked worktree are; else `git_dir`.
    pub common_dir: PathBuf,
    pub commit: Option<String>,
    pub branch: Option<String>,
    /// The remote's URL, credentials removed.
    pub remote: Option<String>,
    /// The URL held credentials.
    pub leaked: bool,
    /// `core.fileMode`, `core.symlinks`: when off, what the work tree says of them means nothing.
    pub file_mode: bool,
    pub symlinks: bool,
    /// Object ids are SHA-256.
    pub sha256: bool,
    /// `info/exclude`, which a comparison depends on besides the work tree.
    pub exclude: Vec<u8>,
}

impl Head {
    /// The report line for a credential in the remote's URL.
    pub fn finding(&self, label: &str) -> Option<Finding> {
        self.leaked.then(|| {
            let message = "the git remote's URL holds a credential: it is removed wherever the \
                           URL is recorded; better remove it from .git/config";
            finding(Severity::Warning, Topic::Secret, format!("{label}/.git/config"), message)
        })
    }
}

/// Reads the repository whose work tree is `dir`; `None` when `dir` has no `.git` that is one.
pub fn read_head(dir: &Path) -> Option<Head> {
    let git_dir = git_dir(&dir.join(".git"))?;
    let common_dir = match text(&git_dir.join("commondir")) {
        Some(path) => git_dir.join(path.trim_end()),
        None => git_dir.clone(),
    };
    let head = text(&git_dir.join("HEAD"))?;
    let head = head.trim_end();
    let config = Config::parse(&text(&common_dir.join("config")).unwrap_or_default());
    let (branch, commit) = match head.strip_prefix("ref: ") {
        Some(name) => {
            let commit = resolve(&git_dir, &common_dir, name)
                .or_else(|| config.reftable().then(|| rev_parse(&git_dir)).flatten());
            let branch = name.strip_prefix("refs/heads/").filter(|b| *b != ".invalid");
            (branch.map(str::to_string), commit)
        }
        None => (None, object_id(head)),
    };
    let (remote, leaked) = match config.remote(branch.as_deref()) {
        Some(url) => {
            let clean = without_credentials(&url);
            let leaked = clean != url;
            (Some(clean), leaked)
        }
        None => (None, false),
    };
    let on = |key| config.get("core", key).is_none_or(|v| !v.eq_ignore_ascii_case("false"));
    Some(Head {
        file_mode: on("filemode"),
        symlinks: on("symlinks"),
        sha256: config
            .get("extensions", "objectformat")
            .is_some_and(|format| format.eq_ignore_ascii_case("sha256")),
        exclude: read_small(&common_dir.join("info/exclude"), TEXT_LIMIT).unwrap_or_default(),
        git_dir,
        common_dir,
        commit,
        branch,
        remote,
        leaked,
    })
}

/// `.git` is a directory, or a file that names one (submodules, linked worktrees).
fn git_dir(dot_git: &Path) -> Option<PathBuf> {
    let meta = std::fs::symlink_metadata(dot_git).ok()?;
    if meta.is_dir() {
        return Some(dot_git.to_path_buf());
    }
    let content = text(dot_git)?;
    let target = content.strip_prefix("gitdir:")?.trim();
    Some(dot_git.parent()?.join(target))
}

fn text(path: &Path) -> Option<String> {
    String::from_utf8(read_small(path, TEXT_LIMIT)?).ok()
}

fn object_id(text: &str) -> Option<String> {
    let text = text.trim();
    (matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_string())
}

fn resolve(git_dir: &Path, common_dir: &Path, name: &str) -> Option<String> {
    let mut name = name.trim().to_string();
    // A ref may name another; git itself stops at five.
    for _ in 0..5 {
        if !name.starts_with("refs/") || name.split('/').any(|part| part == "..") {
            return None;
        }
        let loose = [git_dir, common_dir].iter().find_map(|dir| text(&dir.join(&name)));
        match loose {
            Some(content) => match content.trim().strip_prefix("ref: ") {
                Some(next) => name = next.to_string(),
                None => return object_id(&content),
            },
            None => break,
        }
    }
    let packed = text(&common_dir.join("packed-refs"))?;
    packed.lines().find_map(|line| {
        let (id, packed_name) = line.split_once(' ')?;
        (packed_name.trim_end() == name).then(|| object_id(id)).flatten()
    })
}

/// Refs in a reftable are not text.
fn rev_parse(git_dir: &Path) -> Option<String> {
    let out = run(git_dir, None, &["rev-parse", "--verify", "HEAD"], None)?;
    object_id(std::str::from_utf8(&out).ok()?)
}

/// git's configuration, as far as a reader needs it: section, subsection, key, value.
struct Config(Vec<(String, String, String, String)>);

impl Config {
    fn parse(text: &str) -> Self {
        let mut values = Vec::new();
        let mut section = (String::new(), String::new());
        for line in text.lines().map(str::trim) {
            if let Some(header) = line.strip_prefix('[').and_then(|l| l.split_once(']')) {
                let (name, sub) = header.0.split_once(' ').unwrap_or((header.0, ""));
                section = (name.trim().to_ascii_lowercase(), sub.trim().trim_matches('"').into());
            } else if let Some((key, value)) = line.split_once('=')
                && !line.starts_with(['#', ';'])
            {
                let (section, sub) = section.clone();
                let value = value.trim().trim_matches('"').to_string();
                values.push((section, sub, key.trim().to_ascii_lowercase(), value));
            }
        }
        Config(values)
    }

    fn get(&self, section: &str, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|v| v.0 == section && v.2 == key).map(|v| v.3.as_str())
    }

    fn reftable(&self) -> bool {
        self.get("extensions", "refstorage").is_some_and(|v| v.eq_ignore_ascii_case("reftable"))
    }

    /// The branch's remote, else `origin`, else the first.
    fn remote(&self, branch: Option<&str>) -> Option<String> {
        let named = |name: &str| {
            let found = self.0.iter().find(|v| v.0 == "remote" && v.1 == name && v.2 == "url");
            found.map(|v| v.3.clone())
        };
        let tracked = branch.and_then(|branch| {
            let found = self.0.iter().find(|v| v.0 == "branch" && v.1 == branch && v.2 == "remote");
            named(&found?.3)
        });
        let first = || self.0.iter().find(|v| v.0 == "remote" && v.2 == "url").map(|v| v.3.clone());
        tracked.or_else(|| named("origin")).or_else(first)
    }
}

/// The places of a work tree's submodules, as its `.gitmodules` names them (gitmodules(5)).
pub fn submodules(dir: &Path) -> Vec<String> {
    let config = Config::parse(&text(&dir.join(".gitmodules")).unwrap_or_default());
    let paths = config.0.into_iter().filter(|v| v.0 == "submodule" && v.2 == "path");
    paths.map(|v| v.3.trim_end_matches('/').to_string()).collect()
}

/// Runs git plumbing on a repository with nothing of the user's environment and nothing of the
/// repository's configuration that names a program. `None`: no git, an error, or no end.
pub fn run(
    git_dir: &Path,
    work_tree: Option<&Path>,
    arguments: &[&str],
    input: Option<&[u8]>,
) -> Option<Vec<u8>> {
    run_status(git_dir, work_tree, arguments, input).and_then(|(ok, out)| ok.then_some(out))
}

/// As `run`, but an exit status of 1 (which `check-ignore` uses for "none") counts as an answer.
pub fn run_status(
    git_dir: &Path,
    work_tree: Option<&Path>,
    arguments: &[&str],
    input: Option<&[u8]>,
) -> Option<(bool, Vec<u8>)> {
    let mut command = Command::new(programs::find("git")?);
    command.env_clear().env("PATH", programs::path());
    for (key, value) in [
        ("HOME", "/nonexistent"),
        ("LC_ALL", "C"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        // A whitelist of transports that names none: an older git that would fetch missing objects
        // can reach nobody.
        ("GIT_ALLOW_PROTOCOL", "none"),
        ("GIT_TERMINAL_PROMPT", "0"),
    ] {
        command.env(key, value);
    }
    for setting in [
        "safe.directory=*",
        "core.fsmonitor=false",
        "core.hooksPath=/dev/null",
        "core.pager=cat",
        "core.untrackedCache=false",
        "core.sshCommand=false",
    ] {
        command.args(["-c", setting]);
    }
    command.arg("--git-dir").arg(git_dir);
    if let Some(dir) = work_tree {
        command.arg("--work-tree").arg(dir).current_dir(dir);
    }
    command.args(arguments).stderr(Stdio::null()).stdout(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    signals::shield(&mut command);
    let mut child = command.spawn().ok()?;
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take()?;
    let input = input.map(<[u8]>::to_vec);
    // Both ends at once: git may answer before it has read everything.
    std::thread::spawn(move || {
        if let (Some(pipe), Some(input)) = (stdin.as_mut(), input) {
            // A closed pipe shows in the exit status.
            let _ = pipe.write_all(&input);
        }
    });
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut out = Vec::new();
        let read = std::io::Read::read_to_end(&mut stdout, &mut out);
        // The receiver may have given up.
        let _ = send.send(read.is_ok().then_some(out));
    });
    let out = receive.recv_timeout(PATIENCE).ok().flatten();
    if out.is_none() {
        // Already gone is as good.
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    let code = status.code()?;
    (code <= 1).then_some((code == 0, out?))
}

#[cfg(test)]
mod tests;
