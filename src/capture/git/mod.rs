//! What git knows of a directory, without running anything the repository configures: refs and
//! configuration are read here, as text or as reftables; objects by `plumbing`. `compare` says dirty or not.
pub mod compare;
pub mod plumbing;
mod reftable;

use crate::capture::files::paths::{finding, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::formats::credentials::without_credentials;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Refs and configuration files are small; a larger one is not read.
const TEXT_LIMIT: u64 = 8 * 1024 * 1024;

/// git keeps a stack of few tables, and a table of a large repository's refs in some megabytes.
const TABLE_LIMIT: u64 = 256 * 1024 * 1024;
const TABLES: usize = 1000;

/// A repository as its files tell it.
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
    /// `core.excludesFile` of the repository itself, and `core.ignoreCase`.
    pub excludes_file: Option<String>,
    pub ignore_case: bool,
    /// Only a part of the commit is checked out (`git sparse-checkout`): what the index is now, which says which part.
    pub sparse_index: Option<String>,
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
    let mut config = Config::parse(&text(&common_dir.join("config")).unwrap_or_default());
    if config.on("extensions", "worktreeconfig") {
        config.0.extend(Config::parse(&text(&git_dir.join("config.worktree")).unwrap_or_default()).0);
    }
    let refs = Refs { git_dir: &git_dir, common_dir: &common_dir, tables: config.reftable() };
    // With reftables the file is there for older readers, and names nothing.
    let head = if refs.tables { refs.value("HEAD").unwrap_or_default() } else { head.to_string() };
    let (branch, commit) = match head.strip_prefix("ref: ") {
        Some(name) => (name.strip_prefix("refs/heads/").map(str::to_string), refs.resolve(name)),
        None => (None, object_id(&head)),
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
    let index = || {
        let meta = std::fs::metadata(git_dir.join("index")).ok()?;
        Some(format!("{} {} {} {}", meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino()))
    };
    Some(Head {
        file_mode: on("filemode"),
        symlinks: on("symlinks"),
        excludes_file: config.get("core", "excludesfile").map(str::to_string),
        ignore_case: config.on("core", "ignorecase"),
        sparse_index: config.on("core", "sparsecheckout").then(index).flatten(),
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
    // A link to one is followed, as git does.
    if std::fs::metadata(dot_git).ok()?.is_dir() {
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

/// Where the refs of a repository are.
struct Refs<'a> {
    git_dir: &'a Path,
    common_dir: &'a Path,
    /// In reftables (git 2.45), not in files.
    tables: bool,
}

impl Refs<'_> {
    /// The commit that a ref names.
    fn resolve(&self, name: &str) -> Option<String> {
        let mut name = name.trim().to_string();
        // A ref may name another; git itself stops at five.
        for _ in 0..5 {
            if !name.starts_with("refs/") || name.split('/').any(|part| part == "..") {
                return None;
            }
            let value = self.value(&name)?;
            match value.trim().strip_prefix("ref: ") {
                Some(next) => name = next.to_string(),
                None => return object_id(&value),
            }
        }
        None
    }

    /// What a ref's file would hold.
    fn value(&self, name: &str) -> Option<String> {
        // A linked worktree has refs of its own.
        let places = [self.git_dir, self.common_dir];
        if self.tables {
            return places.iter().find_map(|dir| in_tables(&dir.join("reftable"), name));
        }
        let packed = || {
            let packed = text(&self.common_dir.join("packed-refs"))?;
            packed.lines().find_map(|line| {
                let (id, packed_name) = line.split_once(' ')?;
                (packed_name.trim_end() == name).then(|| id.to_string())
            })
        };
        places.iter().find_map(|dir| text(&dir.join(name))).or_else(packed)
    }
}

/// A ref in a stack of reftables, of which the last is the newest.
fn in_tables(folder: &Path, name: &str) -> Option<String> {
    let list = text(&folder.join("tables.list"))?;
    let names: Vec<&str> = list.lines().filter(|line| !line.is_empty() && !line.contains('/')).collect();
    for table in names.iter().rev().take(TABLES) {
        let table = read_small(&folder.join(table), TABLE_LIMIT)?;
        match reftable::look(&table, name).ok()? {
            Some(reftable::Value::Id(id)) => return Some(id),
            Some(reftable::Value::Symbolic(to)) => return Some(format!("ref: {to}")),
            Some(reftable::Value::Deleted) => return None,
            None => {}
        }
    }
    None
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

    fn on(&self, section: &str, key: &str) -> bool {
        let value = self.get(section, key).map(str::to_ascii_lowercase);
        value.is_some_and(|value| matches!(value.as_str(), "true" | "yes" | "on" | "1"))
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

#[cfg(test)]
mod layout_tests;
#[cfg(test)]
mod tests;
