//! derivations -> realised closure: what the store lacks is sent, and only that; the rest of the graph
//! is built by Nix. Several connections send side by side, the largest trees first.
use crate::capture::trees::Trees;
use crate::capture::trees::nar::write_tree;
use crate::closure::graph::{Graph, Import};
use crate::formats::nix::store_path::StorePath;
use crate::store::{Event, PathInfo, Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::parallel;
use crate::sys::progress::{Amount, Progress, check_interrupt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

/// What it took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Realised")]
pub struct Report {
    pub sent_paths: u64,
    pub sent_bytes: u64,
    pub derivations_written: u64,
    pub built: u64,
    /// Everything was there already, derivations too.
    pub unchanged: bool,
    /// The snapshot was there already.
    pub present: bool,
    /// Writing the `.drv` files into the store.
    pub derivations_ms: f64,
    pub build_seconds: f64,
}

/// Two senders fill two cores: the daemon hashes and writes, we read.
const SENDERS: usize = 3;

/// Which paths of a graph the store has. None of a graph's is collected while the connection lasts that was asked.
pub struct Held {
    pub valid: BTreeSet<StorePath>,
    /// Everything that would be brought, and the snapshot.
    pub all: bool,
}

impl Held {
    pub fn of(graph: &Graph, store: &mut Store) -> Result<Held> {
        let wanted: BTreeSet<StorePath> = graph.wanted().cloned().collect();
        // Roots first: what is found valid then cannot be collected while we work.
        store.add_temp_roots(&wanted)?;
        let valid = store.valid(&wanted)?;
        Ok(Held { all: valid.len() == wanted.len(), valid })
    }
}

/// What is known of a graph's paths before it is realised, each asked for once.
pub struct Known {
    /// Those that the store has, or that are brought.
    pub infos: BTreeMap<StorePath, PathInfo>,
    pub valid: BTreeSet<StorePath>,
}

impl Known {
    pub fn of(graph: &Graph, held: &Held, store: &mut Store) -> Result<Known> {
        let mut infos = graph.told()?;
        let others: BTreeSet<StorePath> =
            graph.paths().filter(|path| !infos.contains_key(path)).cloned().collect();
        store.add_temp_roots(&others)?;
        let mut valid = store.valid(&others)?;
        infos.extend(store.infos(&valid)?);
        valid.extend(held.valid.iter().cloned());
        Ok(Known { infos, valid })
    }

    /// Those that the store has.
    pub fn in_store(&self) -> impl Iterator<Item = (&StorePath, &PathInfo)> {
        self.infos.iter().filter(|(path, _)| self.valid.contains(path))
    }
}

/// Brings the graph's output into the store, of which `held` says what it has. `progress` hears bytes sent, then derivations built.
pub fn realise(
    graph: &Graph,
    held: &Held,
    trees: &Trees,
    config: &StoreConfig,
    store: &mut Store,
    progress: &Arc<dyn Progress>,
) -> Result<Report> {
    // What the capture sent while it read is here already.
    let (sent_paths, sent_bytes) = trees.sent();
    let mut report = Report { sent_paths, sent_bytes, ..Report::default() };
    report.present = held.valid.contains(&graph.snapshot);
    if held.all {
        report.unchanged = true;
        return Ok(report);
    }
    let valid = &held.valid;
    let missing: Vec<&Import> = graph.imports.iter().filter(|i| !valid.contains(&i.path)).collect();
    let total = missing.iter().map(|i| i.tree.nar_size).sum();
    progress.stage("sending to the store", Amount::Bytes(total));
    for wave in waves(missing) {
        send(wave, trees, config, store, progress, &mut report)?;
    }
    progress.stage("writing derivations", Amount::Items(graph.nodes.len() as u64));
    let started = Instant::now();
    let to_write = || graph.texts().filter(|(path, ..)| !valid.contains(path));
    let mut expected = to_write();
    store.add_texts(to_write().map(|(.., text)| text), |at| {
        if let Some((path, label, _)) = expected.next() {
            same(&at, path, label)?;
        }
        if at.is_derivation() {
            report.derivations_written += 1;
            progress.advance(1);
        }
        Ok(())
    })?;
    report.derivations_ms = started.elapsed().as_secs_f64() * 1000.0;
    check_interrupt()?;
    let started = Instant::now();
    report.built = build(graph, store, progress)?;
    report.build_seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What is to be sent, in parts: a daemon takes a path only once it has what that refers to.
fn waves(mut missing: Vec<&Import>) -> Vec<Vec<&Import>> {
    let mut waves = Vec::new();
    while !missing.is_empty() {
        let unsent: BTreeSet<String> = missing.iter().map(|import| import.path.to_string()).collect();
        let waits = |import: &&Import| {
            let own = import.path.to_string();
            import.tree.references.iter().any(|path| *path != own && unsent.contains(path))
        };
        let (later, now): (Vec<&Import>, Vec<&Import>) = missing.into_iter().partition(waits);
        if now.is_empty() {
            // No store path refers to one that refers to it.
            waves.push(later);
            break;
        }
        waves.push(now);
        missing = later;
    }
    waves
}

fn same(at: &StorePath, wanted: &StorePath, label: &str) -> Result<()> {
    if at == wanted {
        return Ok(());
    }
    Err(Error::new(Kind::Store, format!("{label}: Nix put it at {at}, stillframe computed {wanted}"))
        .hint("the files changed between hashing and sending: run the command again"))
}

fn send(
    mut imports: Vec<&Import>,
    trees: &Trees,
    config: &StoreConfig,
    store: &mut Store,
    progress: &Arc<dyn Progress>,
    report: &mut Report,
) -> Result<()> {
    imports.sort_by_key(|i| Reverse(i.tree.nar_size));
    report.sent_paths += imports.len() as u64;
    report.sent_bytes += imports.iter().map(|i| i.tree.nar_size).sum::<u64>();
    // Another connection takes longer than what most packs are.
    if let [import] = imports[..] {
        return send_one(import, trees, store, progress.as_ref());
    }
    parallel::each(
        &imports,
        SENDERS,
        || Store::connect(config),
        |store, import| {
            check_interrupt()?;
            send_one(import, trees, store, progress.as_ref())
        },
    )
}

fn send_one(import: &Import, trees: &Trees, store: &mut Store, progress: &dyn Progress) -> Result<()> {
    let tree = trees.take(&import.path).ok_or_else(|| {
        Error::new(Kind::Store, format!("{} left the store while stillframe ran", import.path))
            .hint("run the command again; do not collect garbage meanwhile")
    })?;
    let at = store
        .add_tree(&import.tree.name, &import.references()?, |out| {
            write_tree(&tree, &mut Counting { out, progress })
        })
        .map_err(|e| match e.kind {
            Kind::Interrupted => e,
            _ => e.within(&import.label),
        })?;
    same(&at, &import.path, &import.label)
}

struct Counting<'a> {
    out: &'a mut dyn Write,
    progress: &'a dyn Progress,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.progress.advance(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Builds what is input-addressed: bytecode, environment, snapshot. Nix runs the jobs side by side.
fn build(graph: &Graph, store: &mut Store, progress: &Arc<dyn Progress>) -> Result<u64> {
    let outputs: BTreeSet<StorePath> = graph.nodes.iter().map(|n| n.out.clone()).collect();
    let valid = store.valid(&outputs)?;
    let to_build = graph.builds(|path| valid.contains(path)).len() as u64;
    progress.stage("building", Amount::Items(to_build));
    let labels: HashMap<String, String> =
        graph.nodes.iter().map(|n| (n.drv.to_absolute(&store.store_dir), n.label.clone())).collect();
    let hear = progress.clone();
    let mut running: HashMap<u64, String> = HashMap::new();
    store.on_event(move |event| match event {
        Event::Building { id, derivation } => {
            let label = labels.get(&derivation).cloned().unwrap_or(derivation);
            tracing::debug!("building {label}");
            running.insert(id, label);
        }
        Event::Stopped { id } => {
            if let Some(label) = running.remove(&id) {
                tracing::debug!("built {label}");
                hear.advance(1);
            }
        }
        Event::Log(_) => {}
    });
    let built = store.build(std::slice::from_ref(&graph.snapshot_drv));
    store.on_event(|_| {});
    let log = |e: Error| match e.hint {
        None => e.hint("the whole log: nix-store --read-log DERIVATION"),
        Some(_) => e,
    };
    built.map_err(log).map(|()| to_build)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::trees::tree::TreeRef;
    use crate::formats::nix::hash::Sha256;

    /// A library, the runtime that loads it, an interpreter that loads both, and a file alone.
    #[test]
    fn what_others_refer_to_is_sent_before_them() {
        let path = |letter: char, name: &str| {
            StorePath::from_base_name(&format!("{}-{name}", letter.to_string().repeat(32))).unwrap()
        };
        let import = |path: &StorePath, references: &[&StorePath]| Import {
            path: path.clone(),
            label: path.to_string(),
            drv: None,
            tree: TreeRef {
                name: path.name().into(),
                nar_hash: Sha256::of(b""),
                nar_size: 1,
                references: references.iter().map(ToString::to_string).collect(),
            },
        };
        let [library, runtime, interpreter, file] =
            [path('a', "library"), path('b', "runtime"), path('c', "interpreter"), path('d', "file")];
        let all = [
            import(&interpreter, &[&library, &runtime]),
            import(&runtime, &[&library, &runtime]),
            import(&file, &[]),
            import(&library, &[]),
        ];
        let names = |missing: Vec<&Import>| -> Vec<Vec<String>> {
            let name = |wave: Vec<&Import>| wave.iter().map(|i| i.tree.name.clone()).collect();
            waves(missing).into_iter().map(name).collect()
        };
        assert_eq!(
            names(all.iter().collect()),
            [vec!["file", "library"], vec!["runtime"], vec!["interpreter"]]
        );
        // What the store has already holds nobody up.
        assert_eq!(names(vec![&all[0], &all[2]]), [vec!["interpreter", "file"]]);
        assert!(waves(vec![]).is_empty());
    }
}
