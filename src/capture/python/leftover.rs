//! Metadata that an interrupted upgrade or a broken uninstallation left behind. `importlib.metadata` takes the first folder of
//! a name that the file system lists, so a second one in a snapshot would have it answer by the order of a folder. What pip
//! ignores stays out; of two whole ones of one name the one stays whose files lie there.
use crate::capture::files::paths::finding;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::installed::{Installed, Owned};
use crate::capture::trees::digest::digest;
use crate::formats::python::name::normalize;
use crate::words::show;
use pep440_rs::Version;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file or folder of a site directory that no snapshot has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub path: PathBuf,
    why: String,
}

impl Leftover {
    pub fn new(path: PathBuf, why: impl Into<String>) -> Self {
        Leftover { path, why: why.into() }
    }

    pub fn finding(&self) -> Finding {
        let path = show(self.path.as_os_str().as_bytes());
        finding(Severity::Warning, Topic::Captured, path, format!("{}: left out", self.why))
    }
}

/// The part of `numpy-1.26.4.dist-info` that names a distribution.
pub fn named(info: &str) -> &str {
    let stem = info.rsplit_once('.').map_or(info, |(stem, _)| stem);
    stem.split('-').next().unwrap_or(stem)
}

/// Whether a name in a site directory is one under which pip sets aside what it is about to replace: `~umpy`, `~-mpy`.
pub fn set_aside(name: &[u8]) -> bool {
    name.starts_with(b"~")
}

/// The names that pip takes for a distribution's (core metadata, "Name"); others it reports as invalid and ignores.
pub fn valid(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.chars().all(inner) && end(name.chars().next()) && end(name.chars().next_back())
}

/// Of the distributions of one site directory, one of each name; and the metadata of the others.
pub fn choose(all: Vec<Installed>) -> (Vec<Installed>, Vec<Leftover>) {
    let (all, mut left) = choose_by(all, |one| one.name.clone());
    // The name that `importlib.metadata` goes by.
    let (all, more) = choose_by(all, |one| normalize(named(&one.info)));
    left.extend(more);
    (all, left)
}

fn choose_by(all: Vec<Installed>, name: impl Fn(&Installed) -> String) -> (Vec<Installed>, Vec<Leftover>) {
    let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, one) in all.iter().enumerate() {
        groups.entry(name(one)).or_default().push(at);
    }
    let mut beside: HashMap<usize, usize> = HashMap::new();
    for group in groups.values().filter(|group| group.len() > 1) {
        let rivals: Vec<&Installed> = group.iter().map(|at| &all[*at]).collect();
        let best = (0..rivals.len()).max_by(|a, b| weight(&rivals, *a).cmp(&weight(&rivals, *b)));
        let best = group[best.unwrap_or_default()];
        beside.extend(group.iter().filter(|at| **at != best).map(|at| (*at, best)));
    }
    let left = all.iter().enumerate().filter_map(|(at, one)| {
        let winner = &all[*beside.get(&at)?];
        let why =
            format!("a second metadata folder of {} beside {}, whose files lie there", one.name, winner.info);
        Some((at, Leftover::new(one.scheme.site.join(&one.info), why)))
    });
    let mut left: Vec<(usize, Leftover)> = left.collect();
    left.sort_by_key(|(at, _)| *at);
    let kept = all.into_iter().enumerate().filter(|(at, _)| !beside.contains_key(at)).map(|(_, one)| one);
    (kept.collect(), left.into_iter().map(|(_, left)| left).collect())
}

/// How much of what tells one of the rivals from the others lies there (in thousandths), whether a RECORD vouches for that,
/// the version, and for two of one version the name of the folder.
fn weight<'a>(rivals: &[&'a Installed], at: usize) -> (usize, bool, Option<Version>, &'a str) {
    let one = rivals[at];
    let common = |name: &String, file: &Owned| {
        rivals.iter().all(|other| other.files.get(name).is_some_and(|theirs| theirs.stated == file.stated))
    };
    let own = |name: &str| name.starts_with(&format!("{}/", one.info));
    let files: Vec<(&String, &Owned)> = one.files.iter().filter(|(name, _)| !own(name)).collect();
    let telling: Vec<&(&String, &Owned)> = files.iter().filter(|(name, file)| !common(name, file)).collect();
    let there = telling.iter().filter(|(_, file)| as_stated(file)).count();
    // Metadata alone says nothing of any file.
    let share = (there * 1000).checked_div(telling.len()).unwrap_or(if files.is_empty() { 0 } else { 1000 });
    let vouched = one.files.values().any(|file| file.stated.is_some());
    (share, vouched, Version::from_str(&one.version).ok(), &one.info)
}

fn as_stated(file: &Owned) -> bool {
    let there = |path: &Path| path.is_file();
    match file.stated {
        Some(stated) => there(&file.disk) && digest(&file.disk).is_ok_and(|found| found.sha256 == stated),
        None => there(&file.disk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_pip_does() {
        for (info, name) in
            [("numpy-1.26.4.dist-info", "numpy"), ("a.b-1.egg-info", "a.b"), ("lone.egg-info", "lone")]
        {
            assert_eq!(named(info), name);
            assert!(valid(name));
        }
        for info in [
            "~umpy-1.0.dist-info",
            "-umpy-1.0.dist-info",
            "num py-1.dist-info",
            "-1.0.dist-info",
            "_x-1.dist-info",
        ] {
            assert!(!valid(named(info)), "{info}");
        }
    }
}
