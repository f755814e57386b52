//! `stillframe snapshot`: lock, derivations, realise, register.
use super::capture::{Manner, capture, exclusive, findings_text, lock_texts};
use super::import_check;
use super::printer::{Printer, bytes};
use super::probe;
use super::settings::Settings;
use crate::capture::model::probe::ProbeResult;
use crate::capture::model::report::{Finding, Severity};
use crate::capture::pipeline::Captured;
use crate::closure::graph::{self, Graph, ServiceSpec};
use crate::closure::realise;
use crate::closure::registry::{OutputRecord, RECORD_VERSION, Record, Registry, Requires};
use crate::protocol::launch::DEFER_GC;
use crate::store::{Store, StoreConfig};
use crate::sys::clock;
use crate::sys::error::Result;
use crate::sys::files;
use crate::sys::signals;
use crate::sys::who;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ComfyUI directory (default: the one in stillframe.toml, else the current one).
    env: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct How {
    /// A name for this snapshot, to find it again.
    #[arg(long)]
    pub label: Option<String>,
    /// Start the environment's own server once, on a loopback port with a scratch base directory, and
    /// record its node classes, import failures and import times; then import every distribution from the
    /// snapshot, and lay out as real files those that do not import through links. This runs the
    /// environment's code.
    #[arg(long)]
    pub probe: bool,
    /// Ask no package index; every distribution counts as captured.
    #[arg(long)]
    pub offline: bool,
}

pub fn service(settings: &Settings) -> ServiceSpec {
    let service = &settings.config.service;
    let mut environment = service.environment.clone();
    if settings.config.python.defer_gc.unwrap_or(true) {
        environment.entry(DEFER_GC.into()).or_insert("{port}".into());
    }
    ServiceSpec {
        name: service.name().into(),
        arguments: service.arguments.clone(),
        environment,
        pack_bytecode: settings.config.python.pack_bytecode.unwrap_or(true),
    }
}

/// How many characters of the store path's hash make an id.
const ID_LENGTH: usize = 10;

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::resolve(args.env.as_deref(), config)?;
    signals::heed()?;
    let taken = take(&settings, &args.how, printer)?;
    printer.value(&taken.report);
    findings_text(&taken.grave, printer);
    printer.line(&taken.line);
    Ok(ExitCode::SUCCESS)
}

/// A snapshot that was taken, and what there is to say of it.
pub struct Taken {
    pub record: Record,
    pub report: Value,
    pub grave: Vec<Finding>,
    pub line: String,
}

/// Takes a snapshot of the environment and registers it.
pub fn take(settings: &Settings, args: &How, printer: &Printer) -> Result<Taken> {
    let started = Instant::now();
    let _lock = exclusive(settings, printer, "snapshot")?;
    let store_config = StoreConfig::from_environment(settings.config.store.remote.as_deref());
    // Before any work: a store that cannot be used is known in a moment.
    let mut store = Store::connect(&store_config)?;
    let (mut captured, trees) =
        capture(settings, printer, Manner { offline: args.offline, checked: args.probe }, Some(&mut store))?;
    let graph_started = Instant::now();
    let mut graph = graph::graph(&captured.lock, &store.store_dir, &service(settings))?;
    let graph_ms = graph_started.elapsed().as_secs_f64() * 1000.0;
    let mut realised = realise::realise(&graph, &trees, &store_config, &mut store, printer.progress())?;
    if args.probe {
        let environment = graph.environment.to_absolute(&store.store_dir);
        import_check::check(settings, &mut captured, &environment, printer, |captured| {
            graph = graph::graph(&captured.lock, &store.store_dir, &service(settings))?;
            let again = realise::realise(&graph, &trees, &store_config, &mut store, printer.progress())?;
            realised = realise::Report { built: realised.built + again.built, ..again };
            Ok(graph.environment.to_absolute(&store.store_dir))
        })?;
    }
    let registry = Registry::new(&settings.state);
    let id = graph.snapshot.digest()[..ID_LENGTH].to_string();
    let known = registry.get(&id)?;
    let probed = match (args.probe, &known) {
        (true, _) => Some(probe::probe(settings, &captured, printer)?),
        (false, Some(known)) => known.probe.clone(),
        (false, None) => None,
    };
    captured.findings.extend(probed.iter().flat_map(ProbeResult::findings));
    let snapshot = graph.snapshot.to_absolute(&store.store_dir);
    let unchanged = realised.present && known.is_some();
    let copied = copied(&captured, &store)?;
    let record = match known {
        // The same content once more: what was asked for anew changes, and, where an index vouches for more
        // or less than the last time, the derivations.
        Some(known) if unchanged => Record {
            label: args.label.clone().or(known.label.clone()),
            taken_ms: clock::now_ms(),
            derivation: graph.snapshot_drv.to_absolute(&store.store_dir),
            outputs: outputs(&graph, &store),
            probe: probed,
            findings: captured.findings.clone(),
            copied,
            ..known
        },
        _ => {
            let closure = store.closure(std::slice::from_ref(&graph.snapshot))?;
            Record {
                version: RECORD_VERSION,
                id: id.clone(),
                label: args.label.clone(),
                snapshot: snapshot.clone(),
                derivation: graph.snapshot_drv.to_absolute(&store.store_dir),
                environment: captured.scan.root.clone(),
                created: clock::rfc3339(clock::now()),
                taken_ms: clock::now_ms(),
                user: who::user(),
                host: who::host(),
                stillframe: env!("CARGO_PKG_VERSION").into(),
                service: settings.config.service.name().into(),
                closure_paths: closure.len() as u64,
                closure_bytes: closure.values().map(|i| i.nar_size).sum(),
                outputs: outputs(&graph, &store),
                probe: probed,
                findings: captured.findings.clone(),
                copied,
                requires: requires(&captured),
            }
        }
    };
    let (lock, pylock) = lock_texts(&captured)?;
    registry.save(&record, &lock, &pylock)?;
    for (link, target) in registry.roots(&record) {
        root(&mut store, &link, &target)?;
    }
    let report = json!({
        "version": 1, "snapshot": snapshot, "id": id, "label": record.label, "unchanged": unchanged,
        "derivation": record.derivation, "closure_paths": record.closure_paths,
        "closure_bytes": record.closure_bytes, "realise": realised, "graph_ms": graph_ms,
        "derivations": graph.nodes.len(), "seconds": started.elapsed().as_secs_f64(),
        "index": captured.index, "probe": record.probe, "findings": captured.findings,
    });
    let grave = captured.findings.iter().filter(|f| f.severity == Severity::Problem).cloned().collect();
    let line = if unchanged {
        format!("unchanged: {snapshot} ({id})")
    } else {
        format!(
            "snapshot {id}: {snapshot} ({} paths, {}; {} paths and {} were new; {} built) in {:.1} s",
            record.closure_paths,
            bytes(record.closure_bytes),
            realised.sent_paths,
            bytes(realised.sent_bytes),
            realised.built,
            started.elapsed().as_secs_f64()
        )
    };
    Ok(Taken { record, report, grave, line })
}

/// What hosts must have, as far as the files tell.
fn requires(captured: &Captured) -> Requires {
    Requires {
        system: captured.lock.system.clone(),
        glibc: Some(captured.audit.glibc).filter(|v| *v > (0, 0)),
        cuda: captured.audit.cuda_majors.keys().next_back().copied(),
    }
}

/// See `Record::copied`.
fn copied(captured: &Captured, store: &Store) -> Result<Vec<String>> {
    let trees = captured.lock.distributions.iter().filter(|d| d.real_files).map(|d| &d.tree);
    trees.map(|tree| Ok(graph::tree_path(tree, &store.store_dir)?.to_absolute(&store.store_dir))).collect()
}

fn outputs(graph: &Graph, store: &Store) -> Vec<OutputRecord> {
    let absolute = |p: &crate::formats::nix::store_path::StorePath| p.to_absolute(&store.store_dir);
    let sources = graph.imports.iter().map(|i| OutputRecord {
        label: i.label.clone(),
        path: absolute(&i.path),
        derivation: i.drv.as_ref().map(absolute),
    });
    let built = graph.nodes.iter().map(|n| OutputRecord {
        label: n.label.clone(),
        path: absolute(&n.out),
        derivation: Some(absolute(&n.drv)),
    });
    sources.chain(built).collect()
}

/// A GC root: a link of ours that Nix is told of. Made anew when it points elsewhere.
fn root(store: &mut Store, link: &Path, target: &str) -> Result<()> {
    files::replace_link(link, Path::new(target))?;
    store.add_indirect_root(link)
}
