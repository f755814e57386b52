//! Verifying a snapshot: rebuild everything that is made from something else, with Nix, in a scratch
//! store, the wheels fetched from the index; then compare every NAR hash with the store that serves.
use crate::build::compare::first_difference;
use crate::build::graph::{Graph, Import, Node, NodeKind};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::nar::{self, Hashing, NarWriter, Visitor};
use crate::formats::nix::store_path::{StorePath, source_path};
use crate::store::{PathInfo, Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Progress, check_interrupt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

#[derive(Debug, Clone, Default, Serialize)]
pub struct Mismatch {
    pub label: String,
    pub path: String,
    pub expected: String,
    pub found: String,
    /// The first file that differs, when both trees could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_difference: Option<String>,
    /// Why that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unexplained: Option<String>,
    /// A path that was copied from an environment: only that can tell what it was.
    #[serde(skip)]
    pub copied: Option<StorePath>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Copied in and hashed again.
    pub sources: u64,
    /// Built anew.
    pub rebuilt: u64,
    /// Wheels fetched from the index.
    pub wheels: u64,
    pub mismatches: Vec<Mismatch>,
}

/// Rebuilds `graph` in a store below `scratch`.
pub fn verify(
    graph: &Graph,
    config: &StoreConfig,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    let mut store = Store::connect(config)?;
    let scratch_config =
        StoreConfig { remote: Some(format!("local?root={}", scratch.display())), ..config.clone() };
    let mut fresh = Store::connect(&scratch_config)?;
    empty(graph, scratch, &mut fresh)?;
    let mut report = Report::default();
    sources(graph, &mut store, &mut fresh, progress, &mut report)?;
    // What is not as it was makes nothing as it was: what is built from it says no more.
    if report.mismatches.is_empty() {
        rebuild(graph, &mut store, &mut fresh, progress, &mut report)?;
    }
    Ok(report)
}

/// A daemon that does not look where it is told would compare a store with itself.
fn empty(graph: &Graph, scratch: &Path, fresh: &mut Store) -> Result<()> {
    let outputs = graph.nodes.iter().map(|node| node.out.clone());
    let all: BTreeSet<StorePath> = graph.imports.iter().map(|i| i.path.clone()).chain(outputs).collect();
    let Some(there) = fresh.valid(&all)?.into_iter().next() else { return Ok(()) };
    Err(Error::new(
        Kind::Store,
        format!("the scratch store below {} has {there} before anything was put there", scratch.display()),
    )
    .hint("the daemon must use the store that NIX_REMOTE names: see STILLFRAME_NIX_DAEMON"))
}

fn sources(
    graph: &Graph,
    store: &mut Store,
    fresh: &mut Store,
    progress: &dyn Progress,
    report: &mut Report,
) -> Result<()> {
    let given = match &graph.given {
        Some(path) => inputs_first(store.closure(std::slice::from_ref(path))?),
        None => Vec::new(),
    };
    let mut sources: Vec<&Import> = graph.imports.iter().filter(|i| i.drv.is_none()).collect();
    sources.sort_by_key(|i| !i.tree.references.is_empty());
    let total = sources.iter().map(|i| i.tree.nar_size).chain(given.iter().map(|(_, info)| info.nar_size));
    progress.stage("copying sources to a scratch store", Some(total.sum()));
    for (path, info) in &given {
        check_interrupt()?;
        copy_given(path, info, store, fresh, report)?;
        progress.advance(info.nar_size);
        report.sources += 1;
    }
    for import in sources {
        check_interrupt()?;
        copy(import, store, fresh, report)?;
        progress.advance(import.tree.nar_size);
        report.sources += 1;
    }
    Ok(())
}

/// A closure in an order in which each path comes after those it refers to.
fn inputs_first(mut closure: BTreeMap<StorePath, PathInfo>) -> Vec<(StorePath, PathInfo)> {
    let mut ordered = Vec::with_capacity(closure.len());
    while !closure.is_empty() {
        let ready: Vec<StorePath> = closure
            .iter()
            .filter(|(path, info)| info.references.iter().all(|r| r == *path || !closure.contains_key(r)))
            .map(|(path, _)| path.clone())
            .collect();
        // References of store paths have no circles.
        debug_assert!(!ready.is_empty());
        if ready.is_empty() {
            break;
        }
        ordered.extend(ready.into_iter().filter_map(|path| closure.remove_entry(&path)));
    }
    ordered
}

fn rebuild(
    graph: &Graph,
    store: &mut Store,
    fresh: &mut Store,
    progress: &dyn Progress,
    report: &mut Report,
) -> Result<()> {
    progress.stage("rebuilding", Some(graph.nodes.len() as u64));
    fresh.add_texts(graph.texts().map(|(.., text)| text), |_| Ok(()))?;
    for node in &graph.nodes {
        check_interrupt()?;
        if let Err(error) = fresh.build(std::slice::from_ref(&node.drv)) {
            let Some(mismatch) = hash_mismatch(&error, node, store, fresh)? else {
                return Err(Error {
                    message: format!("rebuilding {}: {}", node.label, error.message),
                    ..error
                });
            };
            report.mismatches.push(mismatch);
            // Nothing that depends on it can be built.
            return Ok(());
        }
        progress.advance(1);
        match node.kind {
            NodeKind::Wheel => {
                report.wheels += 1;
                continue;
            }
            // Copied, and compared there.
            NodeKind::Captured => continue,
            NodeKind::Distribution | NodeKind::Built => report.rebuilt += 1,
        }
        let absent = |path: &StorePath| {
            Error::new(Kind::Store, format!("{path} ({}) is not in the store", node.label))
                .hint("take the snapshot again")
        };
        let expected = store.info(&node.out)?.ok_or_else(|| absent(&node.out))?;
        let found = fresh.info(&node.out)?.ok_or_else(|| absent(&node.out))?;
        // The store's own record may be right while its files are not: hash what is there.
        let on_disk = hash_of(store, &node.out)?;
        let differs = |hash: &&Sha256| **hash != expected.nar_hash;
        if let Some(actual) = [found.nar_hash, on_disk].iter().find(differs) {
            report.mismatches.push(Mismatch {
                label: node.label.clone(),
                path: node.out.to_absolute(&store.store_dir),
                expected: expected.nar_hash.to_string(),
                found: actual.to_string(),
                first_difference: first_difference(store, &node.out, fresh, &node.out)?,
                ..Mismatch::default()
            });
        }
    }
    Ok(())
}

fn copy(import: &Import, from: &mut Store, to: &mut Store, report: &mut Report) -> Result<()> {
    let info = from.info(&import.path)?.ok_or_else(|| {
        Error::new(Kind::Store, format!("{} ({}) is not in the store", import.path, import.label))
            .hint("take the snapshot again")
    })?;
    // One that refers to what came out differently cannot be added, only hashed.
    let found = if to.valid(&info.references)? == info.references {
        let mut hashing = Hashing::default();
        from.nar(&import.path, |input| {
            to.add_tree(import.path.name(), &info.references, |out| {
                let mut both = Both { a: out, b: &mut hashing };
                transfer(input, &mut both)
            })
        })?;
        hashing.finish().0
    } else {
        hash_of(from, &import.path)?
    };
    if found != import.tree.nar_hash {
        report.mismatches.push(Mismatch {
            label: import.label.clone(),
            path: import.path.to_absolute(&from.store_dir),
            expected: import.tree.nar_hash.to_string(),
            found: found.to_string(),
            copied: Some(import.path.clone()),
            ..Mismatch::default()
        });
    }
    Ok(())
}

/// A path of the given runtime, which may be of any kind: it is what its store says it is, or it differs.
fn copy_given(
    path: &StorePath,
    info: &PathInfo,
    from: &mut Store,
    to: &mut Store,
    report: &mut Report,
) -> Result<()> {
    // Hashed before it is sent: a daemon that gets more than it was told of ends the connection.
    let found = hash_of(from, path)?;
    if found == info.nar_hash {
        return from.nar(path, |input| to.add_nar(path, info, false, |out| transfer(input, out)));
    }
    report.mismatches.push(Mismatch {
        label: "the given Python runtime".into(),
        path: path.to_absolute(&from.store_dir),
        expected: info.nar_hash.to_string(),
        found: found.to_string(),
        unexplained: Some("no other copy of it is known".into()),
        ..Mismatch::default()
    });
    Ok(())
}

/// Reads one archive and prints it again: a NAR has no length, only an end.
fn transfer(input: &mut dyn Read, out: &mut dyn Write) -> Result<()> {
    struct Copy<W: Write> {
        out: NarWriter<W>,
        open: Vec<Vec<Vec<u8>>>,
    }
    impl<W: Write> Copy<W> {
        fn close_to(&mut self, path: &[Vec<u8>]) -> io::Result<()> {
            while self.open.last().is_some_and(|o| path.len() <= o.len() || path[..o.len()] != **o) {
                self.out.end_directory()?;
                self.open.pop();
            }
            Ok(())
        }
        fn name(path: &[Vec<u8>]) -> &[u8] {
            path.last().map_or(b"", Vec::as_slice)
        }
    }
    impl<W: Write> Visitor for Copy<W> {
        type Error = io::Error;
        fn directory(&mut self, path: &[Vec<u8>]) -> io::Result<()> {
            self.close_to(path)?;
            self.out.directory(Self::name(path))?;
            self.open.push(path.to_vec());
            Ok(())
        }
        fn symlink(&mut self, path: &[Vec<u8>], target: &[u8]) -> io::Result<()> {
            self.close_to(path)?;
            self.out.symlink(Self::name(path), target)
        }
        fn file(
            &mut self,
            path: &[Vec<u8>],
            executable: bool,
            size: u64,
            content: &mut dyn Read,
        ) -> io::Result<()> {
            self.close_to(path)?;
            self.out.file(Self::name(path), executable, size, |out| io::copy(content, out).map(drop))
        }
    }
    let run = || -> io::Result<()> {
        let out = io::BufWriter::with_capacity(64 * 1024, out);
        let mut copy = Copy { out: NarWriter::new(out)?, open: Vec::new() };
        let mut input = input;
        nar::read(&mut input, &mut copy)?;
        while copy.open.pop().is_some() {
            copy.out.end_directory()?;
        }
        copy.out.finish()?;
        Ok(())
    };
    run().map_err(|e| Error::new(Kind::Store, "cannot copy a NAR").caused_by(e))
}

struct Both<'a> {
    a: &'a mut dyn Write,
    b: &'a mut dyn Write,
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.a.write_all(bytes)?;
        self.b.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.a.flush()
    }
}

fn hash_of(store: &mut Store, path: &StorePath) -> Result<Sha256> {
    let mut hashing = Hashing::default();
    store.nar(path, |input| transfer(input, &mut hashing))?;
    Ok(hashing.finish().0)
}

/// A fixed output that came out differently: Nix keeps it under the path of what it is.
fn hash_mismatch(
    error: &Error,
    node: &Node,
    store: &mut Store,
    fresh: &mut Store,
) -> Result<Option<Mismatch>> {
    let got = error.message.lines().find_map(|line| line.trim().strip_prefix("got:"));
    let Some(got) = got.and_then(|text| Sha256::parse(text.trim()).ok()) else { return Ok(None) };
    let Some(expected) = node.fixed else { return Ok(None) };
    let mut mismatch = Mismatch {
        label: node.label.clone(),
        path: node.out.to_absolute(&store.store_dir),
        expected: expected.to_string(),
        found: got.to_string(),
        ..Mismatch::default()
    };
    if node.kind == NodeKind::Wheel {
        mismatch.unexplained = Some("the index serves another file under this name now".into());
        return Ok(Some(mismatch));
    }
    let actual = source_path(&fresh.store_dir, node.out.name(), &got, &BTreeSet::new()).ok();
    mismatch.first_difference = match actual {
        Some(actual) if fresh.info(&actual)?.is_some() && store.info(&node.out)?.is_some() => {
            first_difference(store, &node.out, fresh, &actual)?
        }
        _ => None,
    };
    Ok(Some(mismatch))
}
