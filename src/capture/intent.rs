//! Statements of intent: files that say what an environment should hold. They pin nothing here (what is
//! installed ships, never a fresh resolution); each disagreement is an item of the report.
//!
//! `uv.lock`, `pylock.toml` (PEP 751) and requirements with hashes name everything that should be
//! installed, on every platform; requirements without hashes name some of it; a ManagerSnapshot names
//! the main program, the packs and what `pip freeze` printed.
use crate::capture::files::paths::{finding, read_foreign, read_foreign_text, read_small};
use crate::capture::model::lock::{DistributionLock, MainLock, PackLock};
use crate::capture::model::pylock::is_ours;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::formats::comfy::manager_snapshot::ManagerSnapshot;
use crate::formats::credentials::redacted;
use crate::formats::python::digest::Sha256Digest;
use crate::formats::python::name::normalize;
use crate::formats::python::pylock::{Pylock, PylockSource};
use crate::formats::python::requirements::Requirements;
use crate::formats::python::uv_lock::{UvLock, UvSource};
use crate::sys::error::{Error, Kind, Result};
use pep440_rs::{Version, VersionSpecifier};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a statement is checked against.
pub struct Installed<'a> {
    pub environment: &'a Path,
    pub distributions: &'a [DistributionLock],
    pub packs: &'a [PackLock],
    /// As `custom_nodes/` has them: `x.disabled`, `.disabled/x`.
    pub disabled_packs: &'a [String],
    pub main: &'a MainLock,
}

/// The statements that lie beside an environment or its project. A ManagerSnapshot is history, and
/// counts only where the configuration names it.
pub fn discover(environment: &Path, project: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for dir in [environment, project] {
        // A folder that cannot be listed is reported by the scan.
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let requirements = name.starts_with("requirements") && name.ends_with(".txt");
            if (name == "uv.lock" || is_pylock(name) || requirements) && path.is_file() {
                found.insert(path);
            }
        }
    }
    found.into_iter().collect()
}

/// `pylock.toml` or `pylock.NAME.toml` (PEP 751, "File Name").
fn is_pylock(name: &str) -> bool {
    name == "pylock.toml"
        || name
            .strip_prefix("pylock.")
            .and_then(|rest| rest.strip_suffix(".toml"))
            .is_some_and(|middle| !middle.is_empty() && !middle.contains('.'))
}

/// Compares one file with what is installed.
pub fn check(path: &Path, installed: &Installed) -> Result<Vec<Finding>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let malformed = |e: &dyn std::fmt::Display| {
        // A parser quotes the line.
        Error::new(Kind::Input, redacted(&format!("{}: {e}", path.display())))
            .hint("mend it, or take it out of `intent` in stillframe.toml")
    };
    let mut report = Report { path: path.display().to_string(), findings: Vec::new() };
    if name.ends_with(".json") {
        let snapshot = ManagerSnapshot::parse(&read_foreign(path)?).map_err(|e| malformed(&e))?;
        manager(&snapshot, installed, &mut report);
        return Ok(report.findings);
    }
    let text = read_foreign_text(path)?;
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        let snapshot = ManagerSnapshot::parse_yaml(&text).map_err(|e| malformed(&e))?;
        manager(&snapshot, installed, &mut report);
        return Ok(report.findings);
    }
    let stated = if name == "uv.lock" {
        uv(&UvLock::parse(&text).map_err(|e| malformed(&e))?)
    } else if name.ends_with(".toml") {
        let lock = Pylock::parse(&text).map_err(|e| malformed(&e))?;
        if is_ours(&lock) {
            return Ok(Vec::new());
        }
        pylock(&lock)
    } else if name.ends_with(".txt") || name.ends_with(".in") {
        requirements(&Requirements::parse(&text).map_err(|e| malformed(&e))?)
    } else {
        return Err(malformed(
            &"not a kind of file that can be checked (uv.lock, pylock*.toml, *.txt, a ManagerSnapshot *.json or *.yaml)",
        ));
    };
    distributions(&stated, installed.distributions, &mut report);
    Ok(report.findings)
}

/// What a file says of one distribution: any of the versions (a universal lock may hold several), any
/// of the files.
#[derive(Debug, Default)]
struct Stated {
    versions: BTreeSet<String>,
    sha256: BTreeSet<Sha256Digest>,
    /// Of a repository.
    commits: BTreeSet<String>,
    /// It may be meant for another platform or an extra.
    conditional: bool,
}

#[derive(Debug, Default)]
struct Statement {
    by_name: BTreeMap<String, Stated>,
    /// Whether what it does not name should not be installed.
    complete: bool,
}

fn uv(lock: &UvLock) -> Statement {
    let mut out = Statement { complete: true, ..Statement::default() };
    for package in &lock.packages {
        let stated = out.by_name.entry(normalize(&package.name)).or_default();
        // uv.lock holds all platforms, extras and groups.
        stated.conditional = true;
        stated.versions.extend(package.version.clone());
        stated.sha256.extend(package.wheels.iter().filter_map(|w| w.sha256));
        if let UvSource::Git(url) = &package.source {
            stated.commits.extend(commit(url));
        }
    }
    out
}

/// The whole commit that the URL of a repository ends in: `…#COMMIT` as uv locks it, `…@COMMIT` as pip takes it.
/// A branch or a tag is no statement of what is installed.
fn commit(url: &str) -> Option<String> {
    let whole = |text: &&str| matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let (before, fragment) = url.trim().split_once('#').unwrap_or((url.trim(), ""));
    let at = before.rsplit('@').next();
    [Some(fragment), at].into_iter().flatten().find(whole).map(str::to_lowercase)
}

/// `NAME @ git+URL`, with a commit.
fn from_repository(line: &str) -> Option<(String, String)> {
    let (name, url) = line.split_once('@')?;
    let name = name.split('[').next().unwrap_or(name).trim();
    let url = url.split(';').next().unwrap_or(url).trim();
    Some((normalize(name), commit(url.starts_with("git+").then_some(url)?)?))
}

fn pylock(lock: &Pylock) -> Statement {
    let mut out = Statement { complete: true, ..Statement::default() };
    for package in &lock.packages {
        let stated = out.by_name.entry(normalize(&package.name)).or_default();
        stated.conditional |= package.marker.is_some();
        stated.versions.extend(package.version.clone());
        stated.sha256.extend(package.wheels.iter().filter_map(|w| w.sha256));
        if let PylockSource::Vcs { commit_id, .. } = &package.source {
            stated.commits.insert(commit_id.to_lowercase());
        }
    }
    out
}

fn requirements(file: &Requirements) -> Statement {
    let hashed = |p: &&crate::formats::python::requirements::Pinned| !p.sha256.is_empty();
    let complete = !file.pinned.is_empty() && file.pinned.iter().all(|p| hashed(&p));
    let mut out = Statement { complete: complete && file.unpinned.is_empty(), ..Statement::default() };
    for pin in &file.pinned {
        let stated = out.by_name.entry(normalize(&pin.name)).or_default();
        stated.conditional |= pin.marker.is_some();
        stated.versions.insert(pin.version.clone());
        stated.sha256.extend(&pin.sha256);
    }
    for (name, commit) in file.unpinned.iter().filter_map(|line| from_repository(line)) {
        out.by_name.entry(name).or_default().commits.insert(commit);
    }
    out
}

struct Report {
    path: String,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, severity: Severity, message: String) {
        self.findings.push(finding(severity, Topic::Intent, self.path.clone(), message));
    }
}

/// PEP 440 `==`: a public version matches the same version with any local label (`2.1` and `2.1+cu121`).
fn same_version(stated: &str, installed: &str) -> bool {
    match (VersionSpecifier::from_str(&format!("=={stated}")), Version::from_str(installed)) {
        (Ok(specifier), Ok(version)) => specifier.contains(&version),
        _ => stated == installed,
    }
}

fn distributions(statement: &Statement, installed: &[DistributionLock], report: &mut Report) {
    let by_name: BTreeMap<&str, &DistributionLock> = installed.iter().map(|d| (d.name.as_str(), d)).collect();
    let mut elsewhere = Vec::new();
    for (name, stated) in &statement.by_name {
        let versions = stated.versions.iter().cloned().collect::<Vec<_>>().join(" or ");
        let Some(found) = by_name.get(name.as_str()) else {
            if stated.conditional {
                elsewhere.push(format!("{name} {versions}").trim_end().to_string());
            } else {
                let wanted = format!("{name} {versions}");
                report.add(Severity::Warning, format!("wants {}, which is not installed", wanted.trim_end()));
            }
            continue;
        };
        if !stated.versions.is_empty() && !stated.versions.iter().any(|v| same_version(v, &found.version)) {
            report.add(Severity::Warning, format!("wants {name} {versions}, installed is {}", found.version));
        } else if !stated.commits.is_empty()
            && !found.commit.as_ref().is_some_and(|c| stated.commits.contains(c))
        {
            let wanted = stated.commits.iter().cloned().collect::<Vec<_>>().join(" or ");
            let message = match &found.commit {
                Some(commit) => format!("wants {name} at commit {wanted}, it is at {commit}"),
                None => format!(
                    "wants {name} from a repository at commit {wanted}; it was not installed from one"
                ),
            };
            report.add(Severity::Warning, message);
        } else if let Some(wheel) = &found.wheel
            && !stated.sha256.is_empty()
            && !stated.sha256.contains(&wheel.sha256.0)
        {
            report.add(
                Severity::Warning,
                format!("names other files for {name} {versions} than the installed {}", wheel.file),
            );
        }
    }
    if !elsewhere.is_empty() {
        report.add(
            Severity::Info,
            format!("names for some platforms or extras, not installed here: {}", elsewhere.join(", ")),
        );
    }
    if statement.complete {
        let extra: Vec<String> = installed
            .iter()
            .filter(|d| !statement.by_name.contains_key(&d.name))
            .map(|d| format!("{} {}", d.name, d.version))
            .collect();
        if !extra.is_empty() {
            report.add(Severity::Info, format!("does not name what is installed: {}", extra.join(", ")));
        }
    }
}

/// `https://host/owner/name.git`, `git@host:owner/name` and the like, made comparable.
fn repository(url: &str) -> String {
    let url = url.trim().trim_end_matches('/').trim_end_matches(".git");
    let url = url.split_once("://").map_or(url, |(_, rest)| rest);
    let url = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    url.replacen(':', "/", 1).to_lowercase()
}

fn last_part(url: &str) -> &str {
    let url = url.trim_end_matches('/').trim_end_matches(".git");
    url.rsplit(['/', ':']).next().unwrap_or(url)
}

/// Whether `custom_nodes/` holds a pack of this name, disabled.
fn is_disabled(installed: &Installed, name: &str) -> bool {
    installed
        .disabled_packs
        .iter()
        .map(|d| d.trim_start_matches(".disabled/").trim_end_matches(".disabled"))
        .any(|d| d.eq_ignore_ascii_case(name))
}

fn presence(installed: &Installed, shown: &str, enabled: bool, wanted: bool, report: &mut Report) {
    let message = match (enabled, wanted) {
        (true, false) => format!("wants the pack {shown} disabled; it is enabled"),
        (false, true) if is_disabled(installed, last_part(shown)) => {
            format!("wants the pack {shown}, which is disabled")
        }
        (false, true) => format!("wants the pack {shown}, which is not there"),
        _ => return,
    };
    report.add(Severity::Warning, message);
}

/// The `version` of a registry pack's `pyproject.toml`.
fn pack_version(environment: &Path, pack: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Project {
        version: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct File {
        project: Option<Project>,
    }
    let path = environment.join("custom_nodes").join(pack).join("pyproject.toml");
    let bytes = read_small(&path, 1 << 20)?;
    let file: File = toml::from_str(&String::from_utf8_lossy(&bytes)).ok()?;
    file.project?.version
}

fn manager(snapshot: &ManagerSnapshot, installed: &Installed, report: &mut Report) {
    let here = installed.main.git.as_ref().and_then(|g| g.commit.as_deref());
    if let Some(wanted) = snapshot.comfyui.as_deref()
        && here != Some(wanted)
    {
        report.add(
            Severity::Warning,
            format!(
                "wants the main program at commit {wanted}, it is at {}",
                here.unwrap_or("an unknown commit")
            ),
        );
    }
    let mut named = BTreeSet::new();
    for (url, node) in &snapshot.git_custom_nodes {
        let remote = |p: &&PackLock| {
            p.git.as_ref().and_then(|g| g.remote.as_deref()).map(repository) == Some(repository(url))
        };
        let pack = installed.packs.iter().find(remote);
        presence(installed, url, pack.is_some(), !node.disabled, report);
        let Some(pack) = pack else { continue };
        named.insert(pack.name.as_str());
        let commit = pack.git.as_ref().and_then(|g| g.commit.as_deref());
        if let Some(wanted) = node.hash.as_deref()
            && commit != Some(wanted)
            && !node.disabled
        {
            let commit = commit.unwrap_or("an unknown commit");
            report.add(
                Severity::Warning,
                format!("wants the pack {} at commit {wanted}, it is at {commit}", pack.name),
            );
        }
    }
    for (id, version) in &snapshot.cnr_custom_nodes {
        let pack = installed.packs.iter().find(|p| p.name.eq_ignore_ascii_case(id));
        presence(installed, id, pack.is_some(), true, report);
        let Some(pack) = pack else { continue };
        named.insert(pack.name.as_str());
        match pack_version(installed.environment, &pack.name) {
            Some(found) if same_version(version, &found) => {}
            found => {
                let found = found.unwrap_or_else(|| "of no stated version".into());
                report
                    .add(Severity::Warning, format!("wants the pack {} {version}, it is {found}", pack.name));
            }
        }
    }
    for file in &snapshot.file_custom_nodes {
        let pack = installed.packs.iter().find(|p| p.name == file.filename);
        presence(installed, &file.filename, pack.is_some(), !file.disabled, report);
        named.extend(pack.map(|p| p.name.as_str()));
    }
    // It names no plain folders, so only packs that it could have named count.
    let extra: Vec<&str> = installed
        .packs
        .iter()
        .filter(|p| p.git.as_ref().is_some_and(|g| g.remote.is_some()) && !named.contains(p.name.as_str()))
        .map(|p| p.name.as_str())
        .collect();
    if !extra.is_empty() {
        report.add(Severity::Info, format!("does not name these packs: {}", extra.join(", ")));
    }
    let mut pips = Statement::default();
    for (name, version) in snapshot.pinned_pips() {
        pips.by_name.entry(normalize(name)).or_default().versions.insert(version.to_string());
    }
    for (name, commit) in snapshot.pip_lines().filter_map(|line| from_repository(&line)) {
        pips.by_name.entry(name).or_default().commits.insert(commit);
    }
    distributions(&pips, installed.distributions, report);
}

#[cfg(test)]
#[path = "intent_tests.rs"]
mod tests;
