//! The Python side of a capture: every distribution decided, its tree hashed, the files nobody owns
//! and the folders outside that `.pth` files and editable installs put on the path.
pub mod context;
pub mod editable;
pub mod find;
mod import_hooks;
pub mod installed;
pub mod interpreter;
mod kept;
mod last_build;
pub mod leftover;
pub mod legacy;
pub mod pin;
pub mod prefix;
pub mod pth;
pub mod python_path;
pub mod reach;
pub mod schemes;
mod site;
pub mod unowned;

use crate::capture::files::left_out::LeftOut;
use crate::capture::files::paths::finding;
use crate::capture::index::provenance::Candidate;
use crate::capture::model::change::How;
use crate::capture::model::lock::{DistributionLock, Provenance, WheelRef};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::context::{Context, Python};
use crate::capture::python::editable::Relocation;
use crate::capture::python::installed::{Installed, Scheme};
use crate::capture::python::kept::Kept;
use crate::capture::python::leftover::Leftover;
use crate::capture::python::pin::{Pinned, Trust};
use crate::capture::python::site::read_site;
use crate::capture::trees::nar::hash_tree;
use crate::capture::trees::tree::Tree;
use crate::formats::credentials::without_credentials;
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::StorePathName;
use crate::formats::python::direct_url::DirectKind;
use crate::sys::error::Result;
use crate::sys::progress::{Amount, check_interrupt};
use crate::words::show;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Every distribution of the site directories, the first of a name winning as on `sys.path`; those that lie behind one of
/// the same name in an earlier directory; and what is left over of others.
pub fn installed(
    sites: &[Scheme],
    left_out: &LeftOut,
    findings: &mut Vec<Finding>,
) -> (Vec<Installed>, Vec<Installed>, HashSet<PathBuf>) {
    let mut seen: HashSet<String> = HashSet::new();
    let (mut all, mut behind, mut leftovers) = (Vec::new(), Vec::new(), HashSet::new());
    for scheme in sites {
        let (found, left) = read_site(scheme, findings);
        findings.extend(left.iter().map(Leftover::finding));
        leftovers.extend(left.into_iter().map(|left| left.path));
        for one in found {
            if !seen.insert(one.name.clone()) {
                findings.push(Finding {
                    severity: Severity::Warning,
                    topic: Topic::Captured,
                    path: show(one.scheme.site.join(&one.info).as_os_str().as_bytes()),
                    message: format!("{} is installed twice; the first on sys.path counts", one.name),
                });
                behind.push(one);
            } else {
                all.push(one);
            }
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.iter_mut().for_each(|one| last_build::take(one, left_out));
    (all, behind, leftovers)
}

/// What installers make beside a distribution's own files.
fn made_by_installers(one: &Installed) -> impl Iterator<Item = PathBuf> {
    const MADE: [&str; 8] = [
        "INSTALLER",
        "REQUESTED",
        "direct_url.json",
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "uv_cache.json",
        "uv_build.json",
    ];
    let info = one.scheme.site.join(&one.info);
    MADE.iter().map(move |name| info.join(name))
}

/// Asks for the wheels of all that is decided anew, which draws in whoever shares a file with it: of two
/// that own a path, one has the file that lies there, and the other says so.
fn candidates(
    all: &[Installed],
    kept: &mut [Option<Kept>],
    mut ask: impl FnMut(&[&Installed]) -> Result<Vec<Candidate>>,
) -> Result<Vec<Option<Candidate>>> {
    let mut found: Vec<Option<Candidate>> = vec![None; all.len()];
    loop {
        let fresh: Vec<usize> =
            (0..all.len()).filter(|at| kept[*at].is_none() && found[*at].is_none()).collect();
        if fresh.is_empty() {
            return Ok(found);
        }
        let asked: Vec<&Installed> = fresh.iter().map(|at| &all[*at]).collect();
        let answers = ask(&asked)?;
        let mut paths: HashSet<PathBuf> = HashSet::new();
        for (at, answer) in fresh.into_iter().zip(answers) {
            paths.extend(all[at].files.values().map(|file| file.disk.clone()));
            if let Candidate::Wheel(listing) = &answer {
                paths.extend(listing.entries.keys().filter_map(|name| all[at].target(name)));
            }
            found[at] = Some(answer);
        }
        for slot in kept.iter_mut() {
            if slot.as_ref().is_some_and(|k| k.claims.iter().any(|path| paths.contains(path))) {
                *slot = None;
            }
        }
    }
}

/// Pins every distribution. `ask` is asked only for those whose files changed since the last run, so an
/// unchanged environment needs neither network nor hashing.
pub fn pin_all(
    context: &Context,
    all: &[Installed],
    ask: impl FnMut(&[&Installed]) -> Result<Vec<Candidate>>,
) -> Result<Python> {
    let mut python = Python::default();
    let pth = pth::read_all(context.sites, context.memo, context.started);
    python.findings.extend(pth::findings(&pth));
    // Folders that only a hook's own file names are no longer looked in.
    let hooks: HashSet<&PathBuf> =
        all.iter().filter_map(|one| one.last_build.as_ref()).flat_map(|build| &build.hooks).collect();
    let named: Vec<pth::Pth> = pth.iter().filter(|pth| !hooks.contains(&pth.file)).cloned().collect();
    let sources = editable::sources(context, all, &named, &mut python)?;
    let relocations = editable::fingerprint(&sources);
    let mut kept = kept::all(context, all, &relocations);
    let found = candidates(all, &mut kept, ask)?;
    let (fresh, found): (Vec<&Installed>, Vec<Candidate>) =
        all.iter().zip(found).filter_map(|(one, found)| Some((one, found?))).unzip();
    let mut decided = decide(context, &fresh, &found, &sources).into_iter().zip(&found);
    let mut claims: HashSet<PathBuf> = HashSet::new();
    let (lost, contests) = prefix::contested(all);
    for (one, kept) in all.iter().zip(kept) {
        claims.extend(made_by_installers(one));
        claims.extend(one.last_build.iter().flat_map(|build| build.hooks.clone()));
        let (kept, lasting) = match kept {
            Some(kept) => (kept, true),
            None => {
                let Some((next, candidate)) = decided.next() else { continue };
                let (lock, pinned) = next?;
                Kept::anew(context, lock, pinned, candidate, &relocations)
            }
        };
        // Looked at after the files were read: one that changed meanwhile is too young to be trusted.
        let digest = lasting.then(|| kept::digest_of(context, one, &kept.claims)).flatten();
        context.memo.put(&kept::key(one), digest.as_deref(), &kept);
        claims.extend(kept.claims);
        // Written anew; in a folder of `pip install --target` they lie among the modules.
        claims.extend(one.scripts.keys().map(|name| one.scheme.scripts.join(name)));
        python.objects.extend(kept.objects);
        // The user's word of today, whatever was remembered.
        let real_files = context.real_files.contains(&one.name);
        // What another's script of the same name replaced is not what the environment has.
        let own = prefix::own_scripts(one, &lost);
        let scripts = own.map(|(_, script)| script.point.to_string()).collect();
        let site = context.sites.iter().position(|site| *site == one.scheme.site).unwrap_or(0);
        python.distributions.push(DistributionLock { real_files, site, scripts, ..kept.lock });
    }
    for one in context.behind {
        claims.extend(made_by_installers(one));
        claims.extend(one.files.values().map(|file| file.disk.clone()));
    }
    report(&mut python, all, context);
    python.findings.extend(contests);
    python.findings.extend(import_hooks::findings(all));
    python.findings.extend(last_build::findings(all));
    let projects: Vec<PathBuf> = sources.iter().map(|source| PathBuf::from(&source.from)).collect();
    python.findings.extend(prefix::findings(context, all, &claims, &lost, &projects));
    unowned::capture(context, &claims, &sources, &mut python)?;
    Ok(python)
}

/// Decides each distribution of `fresh` by the wheel that was found for it, side by side; in their order.
fn decide(
    context: &Context,
    fresh: &[&Installed],
    found: &[Candidate],
    sources: &[Relocation],
) -> Vec<Result<(DistributionLock, Pinned)>> {
    let owners = pin::owners(fresh.iter().copied().zip(found));
    let sizes: Vec<u64> = fresh.par_iter().map(|one| size_of(one)).collect();
    context.progress.stage("reading distributions", Amount::Bytes(sizes.iter().sum()));
    let attempt = |at: usize, trust: Trust| -> Result<(Result<DistributionLock>, Pinned)> {
        let (one, candidate) = (fresh[at], &found[at]);
        check_interrupt()?;
        let mut pinned = pin::decide(one, candidate, &owners, trust, context.left_out)?;
        let references = match pinned.provenance {
            // Whatever it names.
            Provenance::Pinned => Vec::new(),
            _ => editable::relocate(&mut pinned.tree, sources)?,
        };
        pinned.finish(one);
        let lock = lock_one(context, one, candidate, &mut pinned, references);
        Ok((lock, pinned))
    };
    let decide = |at: usize| -> Result<(DistributionLock, Pinned)> {
        let (mut lock, mut pinned) = attempt(at, Trust::Stated)?;
        if pinned.promises.broken() {
            (lock, pinned) = attempt(at, Trust::Nothing)?;
        }
        pinned.settle();
        context.progress.advance(sizes[at]);
        Ok((lock?, pinned))
    };
    // The largest first: one that begins last would keep all but one core waiting.
    let mut order: Vec<usize> = (0..fresh.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(sizes[*at]));
    let mut decided: Vec<(usize, Result<(DistributionLock, Pinned)>)> =
        order.par_iter().with_max_len(1).map(|at| (*at, decide(*at))).collect();
    decided.sort_by_key(|(at, _)| *at);
    decided.into_iter().map(|(_, result)| result).collect()
}

/// Bytes on disk, as far as they can be read: for progress and order only.
fn size_of(one: &Installed) -> u64 {
    one.files.values().filter_map(|file| std::fs::metadata(&file.disk).ok()).map(|meta| meta.len()).sum()
}

fn lock_one(
    context: &Context,
    one: &Installed,
    candidate: &Candidate,
    pinned: &mut Pinned,
    references: Vec<String>,
) -> Result<DistributionLock> {
    let name = StorePathName::sanitize(&format!("{}-{}", one.name, one.version)).to_string();
    let tree = pinned.tree.clone();
    let tree = context.trees.add_promised(&name, tree, &mut pinned.promises, references, context.store)?;
    let wheel = match (candidate, pinned.provenance) {
        (Candidate::Wheel(listing), Provenance::Pinned | Provenance::Patched) => Some(WheelRef {
            file: listing.file.filename.clone(),
            url: without_credentials(&listing.file.url),
            sha256: Sha256(listing.file.sha256.unwrap_or_default()),
            size: listing.file.size,
        }),
        _ => None,
    };
    Ok(DistributionLock {
        name: one.name.clone(),
        version: one.version.clone(),
        provenance: pinned.provenance,
        reason: pinned.reason.clone(),
        real_files: false,
        headers: (one.headers != one.name).then(|| one.headers.clone()),
        site: 0,
        scripts: one.scripts.values().map(|script| script.point.to_string()).collect(),
        has_modules: pinned.has_modules,
        tree,
        wheel,
        changed: pinned.changed.clone(),
        commit: one.direct_url.as_ref().and_then(|direct| match &direct.kind {
            DirectKind::Vcs { commit_id, .. } => Some(commit_id.clone()),
            _ => None,
        }),
    })
}

fn report(python: &mut Python, all: &[Installed], context: &Context) {
    let advice = |name: &str, member: &str| {
        let disk = all.iter().find(|one| one.name == name)?.target(member)?;
        Some(format!("; {}", context.left_out.advice(&disk)?))
    };
    for d in &python.distributions {
        for change in &d.changed {
            // Another's file lies there; a file that should ship does not; anything else was edited.
            let (severity, topic) = match change.how {
                How::ReplacedBy(_) => (Severity::Info, Topic::Patched),
                How::LeftOut(_) => (Severity::Problem, Topic::Unreadable),
                How::Secret(_) => (Severity::Warning, Topic::Secret),
                How::Changed | How::Missing | How::Other(_) => (Severity::Warning, Topic::Patched),
            };
            let mut message = format!("{} {}: {}", d.name, d.version, change.how);
            if let How::Secret(_) = change.how {
                message.extend(advice(&d.name, &change.path));
            }
            python.findings.push(finding(severity, topic, show(change.path.as_bytes()), message));
        }
        if d.provenance == Provenance::Captured {
            python.findings.push(Finding {
                severity: Severity::Info,
                topic: Topic::Captured,
                path: d.name.clone(),
                message: d.reason.clone().unwrap_or_default(),
            });
        }
    }
}

/// Names of distributions for a report.
pub fn by_name(python: &[DistributionLock]) -> BTreeMap<&str, &DistributionLock> {
    python.iter().map(|d| (d.name.as_str(), d)).collect()
}

/// Hashes a tree without keeping it: for callers that only compare.
pub fn tree_hash(tree: &Tree) -> Result<Sha256> {
    hash_tree(tree).map(|(hash, _)| hash)
}
