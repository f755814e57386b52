//! Verifying a snapshot: rebuild everything that is made from something else, with Nix, in a scratch
//! store, the wheels fetched from the index; then compare every NAR hash with the store that serves.
use crate::build::graph::{Graph, Import, NodeKind};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::nar::{self, Hashing, NarWriter, Visitor};
use crate::formats::nix::store_path::{StorePath, source_path};
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Progress, check_interrupt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

#[derive(Debug, Clone, Serialize)]
pub struct Mismatch {
    pub label: String,
    pub path: String,
    pub expected: String,
    pub found: String,
    /// The first file that differs, when both trees could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_difference: Option<String>,
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
    let mut report = Report::default();
    let derived: BTreeSet<&StorePath> =
        graph.imports.iter().filter(|i| i.drv.is_some()).map(|i| &i.path).collect();
    let mut sources: Vec<&Import> = graph.imports.iter().filter(|i| !derived.contains(&i.path)).collect();
    sources.sort_by_key(|i| !i.tree.references.is_empty());
    let total = sources.iter().map(|i| i.tree.nar_size).sum();
    progress.stage("copying sources to a scratch store", Some(total));
    for import in sources {
        check_interrupt()?;
        copy(import, &mut store, &mut fresh, &mut report)?;
        progress.advance(import.tree.nar_size);
        report.sources += 1;
    }
    progress.stage("rebuilding", Some(graph.nodes.len() as u64));
    for node in &graph.nodes {
        fresh.add_text(node.drv.name(), &node.references.iter().cloned().collect(), &node.aterm)?;
    }
    for node in &graph.nodes {
        check_interrupt()?;
        if let Err(error) = fresh.build(std::slice::from_ref(&node.drv)) {
            let Some(mismatch) = hash_mismatch(&error, graph, node.drv.clone(), &mut store, &mut fresh)?
            else {
                return Err(Error {
                    message: format!("rebuilding {}: {}", node.label, error.message),
                    ..error
                });
            };
            report.mismatches.push(mismatch);
            // Nothing that depends on it can be built.
            return Ok(report);
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
        let on_disk = hash_of(&mut store, &node.out)?;
        for actual in [found.nar_hash, on_disk] {
            if actual != expected.nar_hash {
                let first = first_difference(&mut store, &node.out, &mut fresh, &node.out)?;
                report.mismatches.push(Mismatch {
                    label: node.label.clone(),
                    path: node.out.to_absolute(&config.store_dir),
                    expected: expected.nar_hash.to_string(),
                    found: actual.to_string(),
                    first_difference: first,
                });
                break;
            }
        }
    }
    Ok(report)
}

fn copy(import: &Import, from: &mut Store, to: &mut Store, report: &mut Report) -> Result<()> {
    let info = from.info(&import.path)?.ok_or_else(|| {
        Error::new(Kind::Store, format!("{} ({}) is not in the store", import.path, import.label))
            .hint("take the snapshot again")
    })?;
    let mut hashing = Hashing::default();
    let at = from.nar(&import.path, |input| {
        to.add_tree(import.path.name(), &info.references, |out| {
            let mut both = Both { a: out, b: &mut hashing };
            transfer(input, &mut both)
        })
    })?;
    let (found, _) = hashing.finish();
    if at != import.path {
        report.mismatches.push(Mismatch {
            label: import.label.clone(),
            path: import.path.to_absolute(&from.store_dir),
            expected: import.tree.nar_hash.to_string(),
            found: found.to_string(),
            first_difference: None,
        });
    }
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
    graph: &Graph,
    drv: StorePath,
    store: &mut Store,
    fresh: &mut Store,
) -> Result<Option<Mismatch>> {
    let got = error.message.lines().find_map(|line| line.trim().strip_prefix("got:"));
    let Some(got) = got.and_then(|text| Sha256::parse(text.trim()).ok()) else { return Ok(None) };
    let Some(node) = graph.nodes.iter().find(|n| n.drv == drv) else { return Ok(None) };
    let expected = graph.imports.iter().find(|i| i.path == node.out);
    let first = match source_path(&fresh.store_dir, node.out.name(), &got, &BTreeSet::new()) {
        Ok(actual) if fresh.info(&actual)?.is_some() && store.info(&node.out)?.is_some() => {
            first_difference(store, &node.out, fresh, &actual)?
        }
        _ => None,
    };
    Ok(Some(Mismatch {
        label: node.label.clone(),
        path: node.out.to_absolute(&store.store_dir),
        expected: expected.map_or_else(String::new, |i| i.tree.nar_hash.to_string()),
        found: got.to_string(),
        first_difference: first,
    }))
}

/// One line for each entry of a tree: enough to say which differs, without holding the files.
fn listing(store: &mut Store, path: &StorePath) -> Result<BTreeMap<Vec<u8>, String>> {
    struct List(BTreeMap<Vec<u8>, String>);
    impl Visitor for List {
        type Error = io::Error;
        fn directory(&mut self, path: &[Vec<u8>]) -> io::Result<()> {
            self.0.insert(path.join(&b'/'), "a folder".into());
            Ok(())
        }
        fn symlink(&mut self, path: &[Vec<u8>], target: &[u8]) -> io::Result<()> {
            self.0.insert(path.join(&b'/'), format!("a link to {}", String::from_utf8_lossy(target)));
            Ok(())
        }
        fn file(
            &mut self,
            path: &[Vec<u8>],
            executable: bool,
            size: u64,
            content: &mut dyn Read,
        ) -> io::Result<()> {
            let mut hashing = Hashing::default();
            io::copy(content, &mut hashing)?;
            let kind = if executable { "an executable" } else { "a file" };
            let text = format!("{kind} of {size} bytes, {}", hashing.finish().0);
            self.0.insert(path.join(&b'/'), text);
            Ok(())
        }
    }
    let mut list = List(BTreeMap::new());
    store.nar(path, |mut input| {
        nar::read(&mut input, &mut list)
            .map_err(|e| Error::new(Kind::Store, format!("cannot read {path} from the store")).caused_by(e))
    })?;
    Ok(list.0)
}

/// One file of a store path, wherever the store lies. The file must be small: it is held in memory.
pub fn file(store: &mut Store, path: &StorePath, name: &str) -> Result<Vec<u8>> {
    struct Pick<'a> {
        name: &'a [u8],
        found: Option<Vec<u8>>,
    }
    impl Visitor for Pick<'_> {
        type Error = io::Error;
        fn directory(&mut self, _: &[Vec<u8>]) -> io::Result<()> {
            Ok(())
        }
        fn symlink(&mut self, _: &[Vec<u8>], _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn file(&mut self, path: &[Vec<u8>], _: bool, _: u64, content: &mut dyn Read) -> io::Result<()> {
            if path.join(&b'/') == self.name {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                self.found = Some(bytes);
                return Ok(());
            }
            io::copy(content, &mut io::sink()).map(drop)
        }
    }
    let mut pick = Pick { name: name.as_bytes(), found: None };
    store.nar(path, |mut input| {
        nar::read(&mut input, &mut pick)
            .map_err(|e| Error::new(Kind::Store, format!("cannot read {path} from the store")).caused_by(e))
    })?;
    pick.found.ok_or_else(|| Error::new(Kind::Store, format!("{path} has no file {name}")))
}

/// The first entry, in byte order of the names, that is not the same in both trees.
pub fn first_difference(
    a: &mut Store,
    a_path: &StorePath,
    b: &mut Store,
    b_path: &StorePath,
) -> Result<Option<String>> {
    let first = differences(&listing(a, a_path)?, &listing(b, b_path)?).into_iter().next();
    Ok(first.map(|(name, sides)| format!("{name}: {sides}")))
}

/// The names that differ between two trees of one store.
pub fn changed_files(store: &mut Store, old: &StorePath, new: &StorePath) -> Result<Vec<String>> {
    let (old, new) = (listing(store, old)?, listing(store, new)?);
    Ok(differences(&old, &new).into_iter().map(|(name, _)| name).collect())
}

/// Name and both sides of each entry that differs.
fn differences(a: &BTreeMap<Vec<u8>, String>, b: &BTreeMap<Vec<u8>, String>) -> Vec<(String, String)> {
    let names: BTreeSet<&Vec<u8>> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| {
            let show = |side: &BTreeMap<Vec<u8>, String>| {
                side.get(name).cloned().unwrap_or_else(|| "not there".into())
            };
            (String::from_utf8_lossy(name).into_owned(), format!("{} / {}", show(a), show(b)))
        })
        .collect()
}
