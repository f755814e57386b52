//! Taking a snapshot: capture, derivations, realise, import check and probe where they are asked for, register.
use crate::capture::model::lock::Lock;
use crate::capture::model::probe::ProbeResult;
use crate::capture::model::pylock;
use crate::capture::model::used::Used;
use crate::capture::pipeline::Captured;
use crate::capture::trees::Trees;
use crate::closure::graph::{self, Graph};
use crate::closure::realise::{self, Held};
use crate::closure::registry::{OutputRecord, RECORD_VERSION, Record, Registry, Requires};
use crate::formats::nix::store_path::StorePath;
use crate::snapshot::events::{Event, Observer};
use crate::snapshot::import_check;
use crate::snapshot::mend::{mend, mend_beside};
use crate::snapshot::probe;
use crate::snapshot::reading::{self, Manner};
use crate::snapshot::report::{REPORT_VERSION, Report};
use crate::snapshot::subject::Subject;
use crate::store::damage::Depth;
use crate::store::{PathInfo, Store};
use crate::sys::clock;
use crate::sys::error::{Kind, Result};
use crate::sys::files;
use crate::sys::who;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// A name for the snapshot, to find it again.
    pub label: Option<String>,
    /// Also run the environment's own code: the import check and the probe.
    pub probe: bool,
    /// Ask no package index.
    pub offline: bool,
}

/// How many characters of the store path's hash make an id.
const ID_LENGTH: usize = 10;

/// Takes a snapshot of the environment and registers it.
pub fn take(subject: &Subject, request: &Request, observer: &dyn Observer) -> Result<(Record, Report)> {
    let started = Instant::now();
    let _lock = subject.exclusive("snapshot", observer)?;
    request.label.iter().try_for_each(|label| subject.registry().check_label(label))?;
    // Before any work: a store that cannot be used is known in a moment.
    let mut store = Store::connect(&subject.store)?;
    let manner = Manner { offline: request.offline, checked: request.probe };
    let (mut captured, trees) = reading::capture(subject, manner, Some(&mut store), observer)?;
    let mut made = Made::of(subject, &captured.lock, &trees, &mut store, observer)?;
    let mut used = Used::default();
    if request.probe {
        let environment = made.graph.environment.to_absolute(&store.store_dir);
        used = import_check::check(subject, &mut captured, &environment, observer, |captured| {
            made.again(subject, &captured.lock, &trees, &mut store, observer)?;
            Ok(made.graph.environment.to_absolute(&store.store_dir))
        })?;
    }
    let registry = subject.registry();
    let known = registry.get(&id_of(&made.graph))?;
    let had = known.as_ref().and_then(|known| known.label.clone());
    let before = known.as_ref().and_then(|known| known.probe.clone());
    if !request.probe {
        captured.findings.extend(before.iter().flat_map(|probe| probe.findings(&subject.configured)));
    }
    let known = known.filter(|_| made.report.present);
    let unchanged = known.is_some();
    let mut record = record(subject, request, &captured, &made, before, known, &mut store)?;
    // Before the probe: the environment's own server takes minutes, and its end takes nothing of the snapshot away.
    register(&registry, &record, &captured.lock, &mut store)?;
    name(&registry, &record, had, observer)?;
    if request.probe {
        // All of that ran sealed (`sys/seal`), where this machine lets a process seal itself.
        mend(subject, &made.graph, Depth::Suspects, &mut store, observer)?;
        // What is known of the same content stays known.
        record.probe = probed(subject, &mut captured, used, observer)?.or(record.probe);
        captured.findings.extend(record.probe.iter().flat_map(|probe| probe.findings(&subject.configured)));
        record.findings = captured.findings.clone();
        registry.write(&record)?;
    }
    let report = Report {
        version: REPORT_VERSION,
        snapshot: made.graph.snapshot.to_absolute(&store.store_dir),
        id: record.id.clone(),
        label: record.label.clone(),
        unchanged,
        derivation: record.derivation.clone(),
        closure_paths: record.closure_paths,
        closure_bytes: record.closure_bytes,
        realise: made.report,
        graph_ms: made.graph_ms,
        derivations: made.graph.nodes.len(),
        seconds: started.elapsed().as_secs_f64(),
        index: captured.index,
        probe: record.probe.clone(),
        findings: captured.findings,
    };
    Ok((record, report))
}

/// What the environment's own server has. One that does not serve is worth a warning: the snapshot is whole.
fn probed(
    subject: &Subject,
    captured: &mut Captured,
    used: Used,
    observer: &dyn Observer,
) -> Result<Option<ProbeResult>> {
    match probe::probe(subject, captured, observer) {
        Ok(mut result) => {
            result.used.merge(used);
            Ok(Some(result))
        }
        Err(e) if e.kind == Kind::Environment => {
            captured.findings.extend(used.findings(&subject.configured));
            captured.findings.push(probe::failed(subject, &e));
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Derivations that are realised.
struct Made {
    graph: Graph,
    /// What the store was found to have on record of its paths, as far as that was asked.
    known: BTreeMap<StorePath, PathInfo>,
    report: realise::Report,
    graph_ms: f64,
}

impl Made {
    fn of(
        subject: &Subject,
        lock: &Lock,
        trees: &Trees,
        store: &mut Store,
        observer: &dyn Observer,
    ) -> Result<Made> {
        let started = Instant::now();
        let graph = graph::graph(lock, &store.store_dir, &subject.service_spec())?;
        let graph_ms = started.elapsed().as_secs_f64() * 1000.0;
        let held = Held::of(&graph, store)?;
        let realise = |store: &mut Store| {
            realise::realise(&graph, &held, trees, &subject.store, store, observer.progress())
        };
        let doubted = subject.store.doubted();
        let (report, known) = if !doubted.is_empty() && graph.paths().any(|path| doubted.contains(path)) {
            mend(subject, &graph, Depth::Everything, store, observer)?;
            (realise(store)?, BTreeMap::new())
        } else if held.valid.contains(&graph.snapshot) {
            (realise(store)?, BTreeMap::new())
        } else {
            mend_beside(subject, &graph, &held, store, observer, realise)?
        };
        Ok(Made { graph, known, report, graph_ms })
    }

    /// The lock has become another one.
    fn again(
        &mut self,
        subject: &Subject,
        lock: &Lock,
        trees: &Trees,
        store: &mut Store,
        observer: &dyn Observer,
    ) -> Result<()> {
        let Made { graph, known, report, .. } = Made::of(subject, lock, trees, store, observer)?;
        self.graph = graph;
        self.known = known;
        self.report = realise::Report { built: self.report.built + report.built, ..report };
        Ok(())
    }
}

fn id_of(graph: &Graph) -> String {
    graph.snapshot.digest()[..ID_LENGTH].to_string()
}

/// `known`: the record of the same content, whose snapshot the store had.
fn record(
    subject: &Subject,
    request: &Request,
    captured: &Captured,
    made: &Made,
    probe: Option<ProbeResult>,
    known: Option<Record>,
    store: &mut Store,
) -> Result<Record> {
    let graph = &made.graph;
    let copied = copied(captured, store)?;
    let derivation = graph.snapshot_drv.to_absolute(&store.store_dir);
    let findings = captured.findings.clone();
    if let Some(known) = known {
        // What was asked for anew changes, and, where an index vouches for more or less than the last time, the
        // derivations.
        return Ok(Record {
            label: request.label.clone().or(known.label.clone()),
            taken_ms: clock::now_ms(),
            derivation,
            outputs: outputs(graph, store),
            probe,
            findings,
            copied,
            ..known
        });
    }
    let closure = store.closure_knowing(std::slice::from_ref(&graph.snapshot), made.known.clone())?;
    Ok(Record {
        version: RECORD_VERSION,
        id: id_of(graph),
        label: request.label.clone(),
        snapshot: graph.snapshot.to_absolute(&store.store_dir),
        derivation,
        environment: captured.scan.root.clone(),
        created: clock::rfc3339(clock::now()),
        taken_ms: clock::now_ms(),
        user: who::user(),
        host: who::host(),
        stillframe: env!("CARGO_PKG_VERSION").into(),
        service: subject.service.name.clone(),
        closure_paths: closure.len() as u64,
        closure_bytes: closure.values().map(|i| i.nar_size).sum(),
        outputs: outputs(graph, store),
        probe,
        findings,
        copied,
        requires: requires(captured),
    })
}

fn register(registry: &Registry, record: &Record, lock: &Lock, store: &mut Store) -> Result<()> {
    registry.save(record, &lock.to_toml()?, &pylock::print(lock))?;
    registry.roots(record).iter().try_for_each(|(link, target)| root(store, link, target))
}

/// A label is one snapshot's: what had it, and what this one was called, is told.
fn name(registry: &Registry, record: &Record, had: Option<String>, observer: &dyn Observer) -> Result<()> {
    let Some(label) = &record.label else { return Ok(()) };
    for id in registry.move_label(record)? {
        observer.event(&Event::LabelMoved { label: label.clone(), from: id, to: record.id.clone() });
    }
    if let Some(had) = had.filter(|had| had != label) {
        observer.event(&Event::Renamed { id: record.id.clone(), from: had, to: label.clone() });
    }
    Ok(())
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
    let absolute = |p: &StorePath| p.to_absolute(&store.store_dir);
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
