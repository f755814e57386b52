//! What lies in a virtual environment besides site-packages and what its makers put there: scripts,
//! `share/`, `etc/`. None of it is captured but what distributions own, so the rest is named. And the scripts
//! of entry points, which are written anew: one that was edited by hand is named too.
use crate::capture::files::paths::{finding, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::context::Context;
use crate::capture::python::installed::{Installed, Script, is_interpreter};
use crate::capture::trees::memo::stat_digest;
use crate::formats::python::wrapper::is_wrapper;
use crate::words::show;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// No script of an entry point is larger.
const SCRIPT_LIMIT: u64 = 64 << 10;

/// Everything of the kind that the report should name.
pub fn findings(
    context: &Context,
    all: &[Installed],
    claims: &HashSet<PathBuf>,
    lost: &Lost,
    sources: &[PathBuf],
) -> Vec<Finding> {
    let mut scripts: BTreeMap<PathBuf, (&Installed, &Script)> = BTreeMap::new();
    for one in all {
        for (name, script) in own_scripts(one, lost) {
            scripts.insert(one.scheme.scripts.join(name), (one, script));
        }
    }
    let walked = context.venv.map(|venv| Walk { context, venv, claims, scripts: &scripts, sources }.whole());
    let loose = walked.unwrap_or_default();
    // What is in a script decides, and is remembered as long as the script stays as it is.
    let read = scripts.keys().chain(loose.iter().filter(|l| l.files == 1).map(|l| &l.path));
    let names: Vec<_> = loose.iter().map(|l| (&l.path, l.files)).collect();
    let wanted: Vec<_> =
        scripts.iter().map(|(path, (one, s))| (path, &one.version, &s.point, s.stated)).collect();
    let salt = format!("{names:?}{wanted:?}");
    let digest = stat_digest(&salt, read.map(PathBuf::as_path), context.started);
    if let Some(kept) = context.memo.get::<Vec<Finding>>("prefix", digest.as_deref()) {
        context.memo.put("prefix", digest.as_deref(), &kept);
        return kept;
    }
    let mut found: Vec<Finding> = scripts.iter().filter_map(|(path, script)| edited(path, script)).collect();
    let points: Vec<&Script> = scripts.values().map(|(_, script)| *script).collect();
    found.extend(loose.iter().filter(|l| !one_more_name(l, &points)).map(|l| l.finding(context)));
    context.memo.put("prefix", digest.as_deref(), &found);
    found
}

/// Distribution and script whose place another distribution's script of the same name has.
pub type Lost = HashSet<(String, String)>;

/// The scripts of entry points that the environment has of a distribution.
pub fn own_scripts<'a>(one: &'a Installed, lost: &'a Lost) -> impl Iterator<Item = (&'a String, &'a Script)> {
    one.scripts.iter().filter(|(name, _)| !lost.contains(&(one.name.clone(), (*name).clone())))
}

/// Whether a script is as an installer left it: one that we know, or what it wrote down.
fn as_installed(script: &Script, text: &[u8]) -> bool {
    let stated = script.stated.is_some_and(|stated| stated[..] == Sha256::digest(text)[..]);
    stated || is_wrapper(text, &script.point)
}

/// Scripts of one name that several distributions make: whose the environment has, and who is passed over.
pub fn contested(all: &[Installed]) -> (Lost, Vec<Finding>) {
    let mut by_path: BTreeMap<PathBuf, Vec<(&str, &Installed, &Script)>> = BTreeMap::new();
    for one in all {
        for (name, script) in &one.scripts {
            by_path.entry(one.scheme.scripts.join(name)).or_default().push((name, one, script));
        }
    }
    let (mut lost, mut findings) = (HashSet::new(), Vec::new());
    for (path, rivals) in by_path {
        let [(_, _, first), others @ ..] = rivals.as_slice() else { continue };
        let same =
            |s: &Script| (&s.point.module, &s.point.function) == (&first.point.module, &first.point.function);
        if others.iter().all(|(_, _, script)| same(script)) {
            continue;
        }
        let text = read_small(&path, SCRIPT_LIMIT).unwrap_or_default();
        // Edited by hand or gone: no better word than the last of them.
        let winner =
            rivals.iter().position(|(_, _, script)| as_installed(script, &text)).unwrap_or(rivals.len() - 1);
        let (_, owner, script) = rivals[winner];
        let names: Vec<&str> = rivals.iter().map(|(_, one, _)| one.name.as_str()).collect();
        let message = format!(
            "a script of {}: the environment has that of {}, `{}`",
            names.join(" and of "),
            owner.name,
            script.point
        );
        findings.push(finding(Severity::Warning, Topic::Scripts, shown(&path, &owner.scheme.data), message));
        for (at, (name, one, _)) in rivals.iter().enumerate() {
            if at != winner {
                lost.insert((one.name.clone(), (*name).to_string()));
            }
        }
    }
    (lost, findings)
}

/// A line of the report for the script of an entry point that is not as an installer writes it.
fn edited(path: &Path, (one, script): &(&Installed, &Script)) -> Option<Finding> {
    // One that is not there is no loss: it will be.
    let text = read_small(path, SCRIPT_LIMIT)?;
    if as_installed(script, &text) {
        return None;
    }
    let message = format!(
        "the script of {} {}: changed; the snapshot has the one that an installer writes for `{}`",
        one.name, one.version, script.point
    );
    Some(finding(Severity::Warning, Topic::Patched, shown(path, &one.scheme.data), message))
}

/// pip's own `pip3.11`: the script of an entry point under one more name.
fn one_more_name(loose: &Loose, points: &[&Script]) -> bool {
    let script = || read_small(&loose.path, SCRIPT_LIMIT);
    loose.files == 1
        && loose.in_bin
        && script().is_some_and(|text| points.iter().any(|s| is_wrapper(&text, &s.point)))
}

fn shown(path: &Path, prefix: &Path) -> String {
    show(path.strip_prefix(prefix).unwrap_or(path).as_os_str().as_bytes())
}

/// A file, or a folder of files, that no distribution owns.
struct Loose {
    path: PathBuf,
    files: u64,
    in_bin: bool,
}

impl Loose {
    fn finding(&self, context: &Context) -> Finding {
        let prefix = context.venv.unwrap_or(Path::new("/"));
        let message = match self.files {
            1 => "no distribution owns it, and it is outside site-packages: not captured".to_string(),
            n => format!("{n} files that no distribution owns, outside site-packages: not captured"),
        };
        finding(Severity::Warning, Topic::Unowned, shown(&self.path, prefix), message)
    }
}

struct Walk<'a> {
    context: &'a Context<'a>,
    venv: &'a Path,
    claims: &'a HashSet<PathBuf>,
    scripts: &'a BTreeMap<PathBuf, (&'a Installed, &'a Script)>,
    /// Projects that are captured by themselves: `pip install -e git+…` clones into `src`.
    sources: &'a [PathBuf],
}

/// What a folder holds.
#[derive(Default)]
struct Held {
    owned: bool,
    loose: Vec<Loose>,
}

impl Walk<'_> {
    fn whole(&self) -> Vec<Loose> {
        let mut found = Vec::new();
        for (path, folder) in self.entries(self.venv) {
            let name = path.file_name().unwrap_or_default();
            // An environment in the program's own folder: what else is there is not of Python.
            let usual =
                [&b"bin"[..], b"lib", b"lib64", b"include", b"share", b"etc"].contains(&name.as_bytes());
            if self.context.environment.starts_with(self.venv) && !usual {
                continue;
            }
            if folder {
                let in_bin = name == "bin";
                let held = self.folder(&path, in_bin);
                found.extend(Self::together(path, held, in_bin));
            } else if !top(name) && !self.leads(&path) {
                found.push(Loose { path, files: 1, in_bin: false });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    fn folder(&self, dir: &Path, in_bin: bool) -> Held {
        let mut held = Held::default();
        for (path, folder) in self.entries(dir) {
            if folder {
                if self.context.sites.contains(&path) || self.sources.contains(&path) {
                    held.owned = true;
                    continue;
                }
                let inner = self.folder(&path, false);
                held.owned |= inner.owned;
                held.loose.extend(Self::together(path, inner, false));
            } else if self.claims.contains(&path)
                || self.scripts.contains_key(&path)
                || (in_bin && made_with_the_venv(path.file_name().unwrap_or_default()))
                || self.leads(&path)
            {
                held.owned = true;
            } else {
                held.loose.push(Loose { path, files: 1, in_bin });
            }
        }
        held
    }

    /// A link to a folder that distributions are in.
    fn leads(&self, path: &Path) -> bool {
        let mut owned = self.context.sites.iter().chain(self.claims).chain(self.scripts.keys());
        path.is_symlink() && owned.any(|inner| inner.starts_with(path))
    }

    /// A folder of which nothing is owned is one line.
    fn together(path: PathBuf, held: Held, in_bin: bool) -> Vec<Loose> {
        let files = held.loose.iter().map(|l| l.files).sum();
        if held.owned || in_bin || files < 2 {
            return held.loose;
        }
        vec![Loose { path, files, in_bin: false }]
    }

    /// Whether each is a folder; a link to one is none. What cannot be listed holds nothing that counts.
    fn entries(&self, dir: &Path) -> Vec<(PathBuf, bool)> {
        let listed = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let kind = |e: &std::fs::DirEntry| e.file_type().is_ok_and(|kind| kind.is_dir());
        listed.filter(|e| e.file_name() != "__pycache__").map(|e| (e.path(), kind(&e))).collect()
    }
}

/// What `venv`, virtualenv and uv put at the top of an environment.
fn top(name: &OsStr) -> bool {
    ["pyvenv.cfg", "lib64", ".gitignore", ".lock", "CACHEDIR.TAG"].iter().any(|made| name == *made)
}

/// The same, in `bin/`.
fn made_with_the_venv(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let starts = ["activate", "deactivate", "Activate.ps1", "\u{1d70b}thon", "pydoc.bat"];
    is_interpreter(&name) || starts.iter().any(|start| name.starts_with(start))
}
