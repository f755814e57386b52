//! What `inspect`, `lock` and `snapshot` share: the report of a capture, and what is told while one goes on.
use super::documents::{self, Inspected, Sized};
use super::printer::{Printer, bytes, plain};
use crate::capture::model::inventory::{self, GitState, ModelFolder, PackKind};
use crate::capture::model::lock::{DistributionLock, Provenance};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::pipeline::{self, Captured};
use crate::capture::trees::tree::TreeRef;
use crate::snapshot::events::{Event, Observer};
use crate::sys::progress::Progress;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Observer for Printer {
    fn progress(&self) -> &Arc<dyn Progress> {
        self.progress()
    }

    fn event(&self, event: &Event) {
        self.note(&match event {
            Event::Waiting { holder } => {
                format!("waiting for {}", holder.as_deref().unwrap_or("another stillframe"))
            }
            Event::NotRemembered(error) => {
                format!("the next run will read everything again: {}", error.full())
            }
            Event::LabelMoved { label, from, to } => {
                format!("{} names {to} now, and {from} no longer", plain(label))
            }
            Event::Damaged { path, how } => {
                format!("{path} was written to after Nix had registered it, and is made anew: {}", plain(how))
            }
            Event::Renamed { id, from, to } => {
                format!("{id} is called {} now, and {} no longer", plain(to), plain(from))
            }
        });
    }
}

/// The report as a document.
pub fn inspected(captured: &Captured) -> Inspected {
    let (lock, scan) = (&captured.lock, &captured.scan);
    let pack = |p: &inventory::Pack| documents::Pack {
        name: p.name.clone(),
        kind: p.kind,
        enabled: p.enabled,
        git: p.git.clone(),
        nested: p.nested.clone(),
        bytes: p.size,
        weights: p.weights.iter().map(|w| Sized { path: w.path.clone(), bytes: w.size }).collect(),
    };
    let distribution = |d: &DistributionLock| documents::Distribution {
        name: d.name.clone(),
        version: d.version.clone(),
        provenance: d.provenance,
        reason: d.reason.clone(),
        changed: d.changed.clone(),
        bytes: d.tree.nar_size,
    };
    let named = |path: &str, tree: &TreeRef| Sized { path: path.into(), bytes: tree.nar_size };
    Inspected {
        environment: scan.root.clone(),
        main: documents::MainProgram {
            version: lock.main.version.clone(),
            git: scan.main.git.clone(),
            bytes: scan.main.size,
        },
        python: documents::Python {
            executable: captured.python.executable.clone(),
            venv: captured.venv.clone(),
            found: captured.python.how.to_string(),
            version: lock.runtime.version.clone(),
        },
        packs: scan.packs.iter().map(pack).collect(),
        distributions: lock.distributions.iter().map(distribution).collect(),
        cache: scan.cache.iter().map(|c| Sized { path: c.path.clone(), bytes: c.size }).collect(),
        programs: lock.programs.iter().map(|p| named(&p.name, &p.tree)).collect(),
        program_libraries: lock.program_libraries.iter().map(|tree| tree.nar_size).collect(),
        system_files: lock.system_files.iter().map(|f| named(&f.at, &f.tree)).collect(),
        models: scan.models.clone(),
        user: scan.user.clone(),
        outside: scan.outside.clone(),
        audit: documents::Audit {
            objects: captured.audit.objects,
            glibc_floor: captured.audit.glibc_floor.clone(),
            cuda_majors: captured.audit.cuda_majors.clone(),
            unmet: captured.audit.unmet.clone(),
        },
        index: captured.index.clone(),
        findings: captured.findings.clone(),
    }
}

/// The report for a person.
pub fn report_text(captured: &Captured, printer: &Printer) {
    let lock = &captured.lock;
    let git = |state: Option<&GitState>| match state {
        Some(s) => format!(
            "commit {}{}",
            s.commit.as_deref().map_or("none", |c| c.get(..10).unwrap_or(c)),
            match s.dirty {
                Some(true) => ", dirty",
                Some(false) => "",
                None => ", dirty or not: unknown",
            }
        ),
        None => "not in git".into(),
    };
    let environment = plain(&captured.scan.root.display().to_string());
    printer.line(printer.bold(&format!("ComfyUI environment {environment}")));
    printer.line(format!(
        "  main program  {} ({}, {})",
        plain(lock.main.version.as_deref().unwrap_or("version unknown")),
        git(captured.scan.main.git.as_ref()),
        bytes(captured.scan.main.size)
    ));
    printer.line(format!(
        "  Python        {} ({}, {})",
        lock.runtime.version,
        plain(&captured.python.executable.display().to_string()),
        captured.python.how
    ));
    let counts = lock.provenance_counts();
    let count = |p: Provenance| counts.get(p.name()).copied().unwrap_or(0);
    printer.line(format!(
        "  distributions {}: {} pinned, {} patched, {} captured",
        lock.distributions.len(),
        count(Provenance::Pinned),
        count(Provenance::Patched),
        count(Provenance::Captured)
    ));
    printer.line(format!("  packs         {}", captured.scan.packs.len()));
    for pack in &captured.scan.packs {
        let kind = match pack.kind {
            PackKind::Git => "",
            PackKind::Folder => "folder, ",
            PackKind::File => "file, ",
            PackKind::Link => "behind a link, ",
        };
        let state = if pack.enabled { git(pack.git.as_ref()) } else { "disabled, not captured".into() };
        let weights: u64 = pack.weights.iter().map(|w| w.size).sum();
        let weights = if weights > 0 { format!(", weights {}", bytes(weights)) } else { String::new() };
        printer.line(format!("    {:32} {kind}{state}, {}{weights}", plain(&pack.name), bytes(pack.size)));
        for nested in &pack.nested {
            let kind = if nested.submodule { "submodule" } else { "repository of its own" };
            let state = git(Some(&nested.git));
            printer.line(format!("      {:30} {kind}, {state}", plain(&nested.path)));
        }
    }
    let cache: u64 = captured.scan.cache.iter().map(|c| c.size).sum();
    printer.line(format!("  cache         {} entries, {}", captured.scan.cache.len(), bytes(cache)));
    for program in &lock.programs {
        printer.line(format!("  program       {} ({})", plain(&program.name), bytes(program.tree.nar_size)));
    }
    let libraries: u64 = lock.program_libraries.iter().map(|tree| tree.nar_size).sum();
    if libraries > 0 {
        printer.line(format!("                their libraries ({})", bytes(libraries)));
    }
    for file in &lock.system_files {
        printer.line(format!("  system files  {} ({})", plain(&file.at), bytes(file.tree.nar_size)));
    }
    folders("models", "shared storage, not captured", &captured.scan.models, printer);
    folders("user data", "stays with the service, not captured", &captured.scan.user, printer);
    if !captured.scan.outside.is_empty() {
        printer.line("  outside       paths out of the environment that it points at");
        for path in &captured.scan.outside {
            let what = if path.captured { "captured" } else { "NOT captured" };
            printer.line(format!("    {} -> {} ({what})", plain(&path.from), plain(&path.to)));
        }
    }
    if let Some((floor, file)) = &captured.audit.glibc_floor {
        printer.line(format!("  GLIBC floor   {}.{} ({})", floor.0, floor.1, plain(file)));
    }
    if let Some(index) = &captured.index {
        printer.line(format!(
            "  index         {} requests, {} of answers, {} of ranges ({})",
            index.requests,
            bytes(index.index_bytes),
            bytes(index.range_bytes),
            index.source
        ));
    }
    findings_text(&captured.findings, printer);
}

/// Folders that are listed by size and never captured; empty ones would only be noise.
fn folders(title: &str, why: &str, folders: &[ModelFolder], printer: &Printer) {
    let (files, size) = pipeline::total(folders);
    printer.line(format!("  {title:13} {files} files, {} ({why})", bytes(size)));
    for folder in folders.iter().filter(|f| f.bytes > 0) {
        printer.line(format!(
            "    {:32} {} files, {}",
            plain(&folder.path),
            folder.files,
            bytes(folder.bytes)
        ));
    }
}

/// Findings by topic, gravest first.
pub fn findings_text<'a>(findings: impl IntoIterator<Item = &'a Finding>, printer: &Printer) {
    let mut topics: BTreeMap<(std::cmp::Reverse<Severity>, Topic), Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        topics.entry((std::cmp::Reverse(finding.severity), finding.topic)).or_default().push(finding);
    }
    for ((_, topic), all) in topics {
        printer.line(printer.bold(topic.name()));
        for finding in all {
            printer.line(printer.finding(finding));
        }
    }
}
