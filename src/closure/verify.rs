//! Verifying a snapshot: rebuild everything that is made from something else, with Nix, in a scratch
//! store, the wheels fetched from the index; then compare every NAR hash with the store that serves.
use crate::closure::compare::first_difference;
use crate::closure::nodes::{Node, NodeKind};
use crate::closure::recipe::{Recipe, Source, SourceKind, gone};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::nar::{self, Hashing, NarWriter, Visitor};
use crate::formats::nix::store_path::{StorePath, source_path};
use crate::store::{Store, StoreConfig, Text};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, Progress, check_interrupt};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;

#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
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

impl Mismatch {
    fn new(label: &str, path: &StorePath, store: &Store, expected: &Sha256, found: &Sha256) -> Mismatch {
        Mismatch {
            label: label.into(),
            path: path.to_absolute(&store.store_dir),
            expected: expected.to_string(),
            found: found.to_string(),
            ..Mismatch::default()
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Report {
    /// Copied in and hashed again.
    pub sources: u64,
    /// Built anew.
    pub rebuilt: u64,
    /// Of these, what the store has no more, and no part of the snapshot needs.
    pub collected: u64,
    /// Wheels fetched from the index.
    pub wheels: u64,
    pub mismatches: Vec<Mismatch>,
}

/// Rebuilds `recipe`, which `store` holds, in another below `scratch`.
pub fn verify(recipe: &Recipe, store: &mut Store, scratch: &Path, progress: &dyn Progress) -> Result<Report> {
    let scratch_config = StoreConfig {
        remote: Some(format!("local?root={}", scratch.display())),
        doubts: None,
        ..store.config.clone()
    };
    let mut fresh = Store::connect(&scratch_config)?;
    empty(recipe, scratch, &mut fresh)?;
    let mut report = Report::default();
    let total = recipe.sources.iter().map(|source| source.info.nar_size).sum();
    progress.stage("copying sources to a scratch store", Amount::Bytes(total));
    for source in &recipe.sources {
        check_interrupt()?;
        report.mismatches.extend(copy(source, store, &mut fresh)?);
        report.sources += 1;
        progress.advance(source.info.nar_size);
    }
    // What is not as it was makes nothing as it was: what is built from it says no more.
    if report.mismatches.is_empty() {
        rebuild(recipe, store, &mut fresh, progress, &mut report)?;
    }
    Ok(report)
}

/// A daemon that does not look where it is told would compare a store with itself.
fn empty(recipe: &Recipe, scratch: &Path, fresh: &mut Store) -> Result<()> {
    let Some(there) = fresh.valid(&recipe.paths())?.into_iter().next() else { return Ok(()) };
    Err(Error::new(
        Kind::Store,
        format!("the scratch store below {} has {there} before anything was put there", scratch.display()),
    )
    .hint("the daemon must use the store that NIX_REMOTE names: see STILLFRAME_NIX_DAEMON"))
}

fn rebuild(
    recipe: &Recipe,
    store: &mut Store,
    fresh: &mut Store,
    progress: &dyn Progress,
    report: &mut Report,
) -> Result<()> {
    progress.stage("rebuilding", Amount::Items(recipe.nodes.len() as u64));
    fresh.add_texts(recipe.nodes.iter().map(Node::text), |_| Ok(()))?;
    for node in &recipe.nodes {
        check_interrupt()?;
        if let Err(error) = fresh.build(std::slice::from_ref(&node.drv)) {
            let Some(mismatch) = hash_mismatch(&error, node, store, fresh)? else {
                return Err(error.within(format!("rebuilding {}", node.label)));
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
        let found = fresh.info(&node.out)?.ok_or_else(|| gone(&node.out, &node.label))?;
        let expected = match store.info(&node.out)? {
            Some(expected) => expected,
            // Nothing of the snapshot refers to it (bytecode of files that another distribution has alike, say), and the
            // collector came: there is nothing to compare with.
            None => {
                report.collected += 1;
                continue;
            }
        };
        // The store's own record may be right while its files are not: hash what is there.
        let on_disk = hash_of(store, &node.out)?;
        let differs = |hash: &&Sha256| **hash != expected.nar_hash;
        if let Some(actual) = [found.nar_hash, on_disk].iter().find(differs) {
            report.mismatches.push(Mismatch {
                first_difference: first_difference(store, &node.out, fresh, &node.out)?,
                ..Mismatch::new(&node.label, &node.out, store, &expected.nar_hash, actual)
            });
        }
    }
    Ok(())
}

/// Copies a path that nothing makes, and says how it differs from what it was.
fn copy(source: &Source, from: &mut Store, to: &mut Store) -> Result<Option<Mismatch>> {
    let Source { path, label, info, kind } = source;
    let mut references = info.references.clone();
    references.remove(path);
    // One that refers to what came out differently cannot be added, only hashed.
    let addable = to.valid(&references)? == references;
    let (expected, found) = match kind {
        SourceKind::Locked(hash) if addable => (hash, copy_tree(path, &references, from, to)?),
        SourceKind::Locked(hash) => (hash, hash_of(from, path)?),
        // Read, and seen to be what its path says.
        SourceKind::Text(bytes) => {
            let references: Vec<StorePath> = references.into_iter().collect();
            let text = Text { name: path.name(), references: &references, bytes };
            if addable {
                to.add_texts([text], |_| Ok(()))?;
            }
            return Ok(None);
        }
        SourceKind::Given => {
            // Hashed before it is sent: a daemon that gets more than it was told of ends the connection.
            let found = hash_of(from, path)?;
            if found == info.nar_hash && addable {
                from.nar(path, |input| to.add_nar(path, info, false, |out| transfer(input, out)))?;
            }
            (&info.nar_hash, found)
        }
    };
    if *expected == found {
        return Ok(None);
    }
    let locked = matches!(kind, SourceKind::Locked(_));
    Ok(Some(Mismatch {
        copied: locked.then(|| path.clone()),
        unexplained: (!locked).then(|| "no other copy of it is known".into()),
        ..Mismatch::new(label, path, from, expected, &found)
    }))
}

fn copy_tree(
    path: &StorePath,
    references: &BTreeSet<StorePath>,
    from: &mut Store,
    to: &mut Store,
) -> Result<Sha256> {
    let mut hashing = Hashing::default();
    from.nar(path, |input| {
        to.add_tree(path.name(), references, |out| {
            let mut both = Both { a: out, b: &mut hashing };
            transfer(input, &mut both)
        })
    })?;
    Ok(hashing.finish().0)
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
    let mut mismatch = Mismatch::new(&node.label, &node.out, store, &expected, &got);
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
