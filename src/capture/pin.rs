//! Decides what a distribution is: *pinned* when every installed file equals the wheel's RECORD,
//! *patched* when some differ (each named), *captured* when no wheel vouches for it. The tree is always
//! what is on disk, in the wheel's own layout; never a false "pinned".
use crate::capture::digest::{FileDigest, digest_bytes};
use crate::capture::index::WheelListing;
use crate::capture::installed::{Installed, installer_file};
use crate::capture::lock::{FileChange, Provenance};
use crate::capture::provenance::Candidate;
use crate::capture::reach::{Look, Reach};
use crate::capture::tree::{Entry, Source, Tree};
use crate::formats::python::record::{Record, RecordRow};
use crate::sys::error::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the line of a file begins that another distribution has put there.
pub const REPLACED: &str = "replaced by ";

/// A distribution decided, its tree not hashed yet.
#[derive(Debug, Clone)]
pub struct Pinned {
    pub provenance: Provenance,
    pub reason: Option<String>,
    pub tree: Tree,
    pub changed: Vec<FileChange>,
    /// The disk files this distribution accounts for.
    pub claims: Vec<PathBuf>,
    pub has_modules: bool,
    /// The RECORD that `finish` writes: of our own making where no wheel gave one.
    record: Option<Record>,
}

impl Pinned {
    /// Writes our own RECORD into the tree, once its files are what will ship.
    pub fn finish(&mut self, installed: &Installed) {
        let Some(mut record) = self.record.take() else { return };
        for row in &mut record.rows {
            // Relocated texts are in memory; everything else was hashed as it is.
            if let Some(Entry::File { source: Source::Bytes(bytes), .. }) =
                self.tree.entries.get(row.path.as_bytes())
            {
                let found = digest_bytes(bytes);
                (row.sha256, row.size) = (Some(found.sha256), Some(found.size));
            }
        }
        let path = format!("{}/RECORD", installed.info);
        record.rows.push(RecordRow { path: path.clone(), sha256: None, size: None });
        self.tree.bytes(path, record.print().into_bytes(), false);
    }
}

/// Disk path -> the distributions whose wheels put a file there, with its digest: two distributions
/// may own one path (opencv's headless and contrib wheels), and one of them has won.
pub type Owners = HashMap<PathBuf, Vec<(String, [u8; 32])>>;

pub fn owners<'a>(all: impl Iterator<Item = (&'a Installed, &'a Candidate)>) -> Owners {
    let mut owners: Owners = HashMap::new();
    for (installed, candidate) in all {
        let Candidate::Wheel(listing) = candidate else { continue };
        for (name, entry) in &listing.entries {
            if let Some(target) = installed.target(name) {
                owners.entry(target).or_default().push((installed.name.clone(), entry.sha256));
            }
        }
    }
    owners
}

/// What a wheel's script looked like before the installer wrote its interpreter into it: a `#!` line,
/// or the three-line `/bin/sh` form used for paths too long for the kernel.
fn original_scripts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let line_end = |from: usize| bytes[from..].iter().position(|b| *b == b'\n').map(|p| from + p);
    if !bytes.starts_with(b"#!") {
        return Vec::new();
    }
    let mut end = line_end(0).unwrap_or(bytes.len());
    if bytes.starts_with(b"#!/bin/sh\n'''exec' ") {
        let second = line_end(end + 1).unwrap_or(bytes.len());
        end = if second < bytes.len() { line_end(second + 1).unwrap_or(bytes.len()) } else { second };
    }
    ["#!python", "#!pythonw"].iter().map(|first| [first.as_bytes(), &bytes[end..]].concat()).collect()
}

fn is_script(canonical: &str) -> bool {
    canonical.split('/').nth(1) == Some("scripts")
        && canonical.split('/').next().is_some_and(|f| f.ends_with(".data"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// RECORD lists itself without a hash; its signatures (deprecated) sign what an installer rewrites.
/// Only the wheel's own: a vendored `pkg/_vendor/x.dist-info/RECORD` is a file like any other.
fn record_file(name: &str) -> bool {
    name.split_once('/').is_some_and(|(info, file)| {
        info.ends_with(".dist-info") && matches!(file, "RECORD" | "RECORD.jws" | "RECORD.p7s")
    })
}

/// The largest share of a wheel that may differ before we say it is not that wheel.
const PATCHED_SHARE: usize = 2;

pub fn decide(installed: &Installed, candidate: &Candidate, owners: &Owners) -> Result<Pinned> {
    match candidate {
        Candidate::Wheel(listing) => match against_wheel(installed, listing, owners)? {
            Ok(pinned) => Ok(pinned),
            Err(reason) => captured(installed, reason, owners),
        },
        Candidate::None { reason, .. } => {
            captured(installed, installed.reason.clone().unwrap_or_else(|| reason.clone()), owners)
        }
    }
}

fn against_wheel(
    installed: &Installed,
    listing: &WheelListing,
    owners: &Owners,
) -> Result<Result<Pinned, String>> {
    let mut tree = Tree::default();
    let mut changed = Vec::new();
    let mut claims = Vec::new();
    let mut reach = Reach::new(installed);
    let mut total = 0usize;
    let mut has_modules = false;
    for (name, entry) in &listing.entries {
        if installer_file(name) || record_file(name) {
            continue;
        }
        let Some(disk) = installed.target(name) else {
            return Ok(Err(format!("{} has the unknown scheme of {name:?}", listing.file.filename)));
        };
        total += 1;
        has_modules |= name.ends_with(".py") && !is_script(name);
        let mut change = |how: &str| changed.push(FileChange { path: name.to_string(), how: how.into() });
        claims.push(disk.clone());
        let found = match reach.look(&disk)? {
            Look::Found(found) => found,
            Look::Left(why) => {
                change(&why);
                continue;
            }
        };
        let same =
            |d: &FileDigest| d.sha256 == entry.sha256 && d.size == entry.size && d.crc32 == entry.crc32;
        if same(&found) {
            tree.disk(name, disk, entry.executable);
            continue;
        }
        if is_script(name) {
            let original = original_scripts(&read(&disk)?).into_iter().find(|b| same(&digest_bytes(b)));
            if let Some(bytes) = original {
                tree.bytes(name, Arc::<[u8]>::from(bytes), entry.executable);
                continue;
            }
        }
        let winner = owners
            .get(&disk)
            .and_then(|all| all.iter().find(|(owner, sha)| *owner != installed.name && *sha == found.sha256));
        if let Some((owner, _)) = winner {
            change(&format!("{REPLACED}{owner}"));
            continue;
        }
        if let Some(why) = reach.stray(&disk, &found) {
            change(&why);
            continue;
        }
        change("changed");
        tree.disk(name, disk, entry.executable);
    }
    if changed.len() * PATCHED_SHARE > total {
        return Ok(Err(format!("{} of {total} files differ from {}", changed.len(), listing.file.filename)));
    }
    tree.bytes(format!("{}/RECORD", installed.info), Arc::<[u8]>::from(listing.record_bytes.clone()), false);
    claims.push(installed.scheme.site.join(&installed.info).join("RECORD"));
    let provenance = if changed.is_empty() { Provenance::Pinned } else { Provenance::Patched };
    let reason = (!changed.is_empty())
        .then(|| format!("{} of {total} files differ from {}", changed.len(), listing.file.filename));
    Ok(Ok(Pinned { provenance, reason, tree, changed, claims, has_modules, record: None }))
}

/// What is on disk, with a RECORD of our own making: the installed one names this machine's paths.
fn captured(installed: &Installed, reason: String, owners: &Owners) -> Result<Pinned> {
    let mut tree = Tree::default();
    let mut claims = Vec::new();
    let mut changed = Vec::new();
    let mut reach = Reach::new(installed);
    let mut record = Record::default();
    let mut has_modules = false;
    for (name, disk) in &installed.files {
        claims.push(disk.clone());
        if record_file(name) {
            continue;
        }
        let found = match reach.look(disk)? {
            Look::Found(found) => found,
            Look::Left(how) => {
                changed.push(FileChange { path: name.clone(), how });
                continue;
            }
        };
        let winner = owners
            .get(disk)
            .and_then(|all| all.iter().find(|(owner, sha)| *owner != installed.name && *sha == found.sha256));
        if let Some((owner, _)) = winner {
            changed.push(FileChange { path: name.clone(), how: format!("{REPLACED}{owner}") });
            continue;
        }
        if let Some(how) = reach.stray(disk, &found) {
            changed.push(FileChange { path: name.clone(), how });
            continue;
        }
        has_modules |= name.ends_with(".py") && !is_script(name);
        let mut shown = found;
        if is_script(name)
            && let Some(bytes) = original_scripts(&read(disk)?).into_iter().next()
        {
            shown = digest_bytes(&bytes);
            tree.insert(
                name,
                Entry::File { source: Source::Bytes(bytes.into()), executable: found.executable },
            );
        } else {
            tree.disk(name, disk, found.executable);
        }
        record.rows.push(RecordRow {
            path: name.clone(),
            sha256: Some(shown.sha256),
            size: Some(shown.size),
        });
    }
    let record = installed.info.ends_with(".dist-info").then_some(record);
    let reason = Some(reason);
    Ok(Pinned { provenance: Provenance::Captured, reason, tree, changed, claims, has_modules, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendored_record_is_no_record() {
        assert!(record_file("a-1.dist-info/RECORD"));
        assert!(!record_file("setuptools/_vendor/a-1.dist-info/RECORD"));
        assert!(!record_file("a-1.dist-info/licenses/RECORD"));
    }

    #[test]
    fn both_forms_of_an_installed_script_lead_back_to_the_wheels() {
        let long = b"#!/bin/sh\n'''exec' /very/long/python \"$0\" \"$@\"\n' '''\nimport x\n";
        assert_eq!(original_scripts(long)[0], b"#!python\nimport x\n");
        assert_eq!(original_scripts(b"#!/v/bin/python\nimport x\n")[0], b"#!python\nimport x\n");
        assert!(original_scripts(b"import x\n").is_empty());
    }
}
