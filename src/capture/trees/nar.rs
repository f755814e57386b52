//! A virtual tree as a NAR: streamed from disk, each file watched for changes while it is read; and
//! the set of trees a capture has hashed, kept until they are sent to the store.
use crate::capture::trees::digest;
use crate::capture::trees::promise::Promises;
use crate::capture::trees::tree::{Entry, Source, Tree, TreeRef};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::nar::{Hashing, NarWriter};
use crate::formats::nix::store_path::{StoreDir, StorePath, source_path};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

/// The tree with its directories made explicit.
enum Node<'a> {
    Folder(BTreeMap<&'a [u8], Node<'a>>),
    Leaf(&'a Entry),
}

fn nest(tree: &Tree) -> Result<Node<'_>> {
    if let Some(root) = tree.entries.get(&Vec::new()).filter(|e| !matches!(e, Entry::Directory)) {
        return Ok(Node::Leaf(root));
    }
    let mut root = BTreeMap::new();
    for (path, entry) in &tree.entries {
        let mut folder = &mut root;
        let mut parts = path.split(|b| *b == b'/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() {
                break;
            }
            if parts.peek().is_none() && !matches!(entry, Entry::Directory) {
                folder.insert(part, Node::Leaf(entry));
                break;
            }
            let next = folder.entry(part).or_insert_with(|| Node::Folder(BTreeMap::new()));
            folder = match next {
                Node::Folder(below) => below,
                Node::Leaf(_) => {
                    return Err(Error::new(
                        Kind::Environment,
                        format!("{} is both a file and a folder", String::from_utf8_lossy(path)),
                    ));
                }
            };
        }
    }
    Ok(Node::Folder(root))
}

/// Between our errors and the writer's: a broken pipe to the store keeps its own text.
enum Failure {
    Io(io::Error),
    Ours(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Io(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Ours(e)
    }
}

/// Writes `tree` as a NAR. Errors of `out` come back as they are.
pub fn write_tree(tree: &Tree, out: &mut dyn Write) -> Result<()> {
    write_promised(tree, &mut Promises::default(), out)
}

/// The same, of files that are only said to be what they are: it fails where one is something else.
pub fn write_promised(tree: &Tree, promises: &mut Promises, out: &mut dyn Write) -> Result<()> {
    let write = || -> Result<(), Failure> {
        let node = nest(tree)?;
        let mut nar = NarWriter::new(io::BufWriter::with_capacity(64 * 1024, out))?;
        emit(&mut nar, b"", &node, promises)?;
        nar.finish()?;
        Ok(())
    };
    write().map_err(|failure| match failure {
        Failure::Ours(e) => e,
        Failure::Io(e) => match e.downcast::<Error>() {
            Ok(ours) => ours,
            Err(e) => Error::new(Kind::Io, "cannot write a NAR").caused_by(e),
        },
    })
}

fn emit<W: Write>(
    nar: &mut NarWriter<W>,
    name: &[u8],
    node: &Node,
    promises: &mut Promises,
) -> Result<(), Failure> {
    match node {
        Node::Folder(below) => {
            nar.directory(name)?;
            for (name, node) in below {
                emit(nar, name, node, promises)?;
            }
            nar.end_directory()?;
        }
        Node::Leaf(Entry::Symlink(target)) => nar.symlink(name, target)?,
        Node::Leaf(Entry::Directory) => {
            nar.directory(name)?;
            nar.end_directory()?;
        }
        Node::Leaf(Entry::File { source: Source::Bytes(bytes), executable }) => {
            nar.file::<Failure>(name, *executable, bytes.len() as u64, |out| Ok(out.write_all(bytes)?))?
        }
        Node::Leaf(Entry::File { source: Source::Disk(path), executable }) => {
            let size = match promises.size(path) {
                Some(size) => size,
                None => std::fs::metadata(path).map_err(|e| digest::cannot_read(path, e))?.len(),
            };
            nar.file::<Failure>(name, *executable, size, |out| copy(path, size, promises, out))?
        }
        Node::Leaf(Entry::File { source: Source::Shebang { path, line }, executable }) => {
            let bytes = with_line(path, line)?;
            nar.file::<Failure>(name, *executable, bytes.len() as u64, |out| Ok(out.write_all(&bytes)?))?
        }
    }
    Ok(())
}

fn copy(path: &Path, size: u64, promises: &mut Promises, out: &mut dyn Write) -> Result<(), Failure> {
    let mut failed = None;
    let result = promises.stream(path, size, |bytes| {
        check_interrupt()?;
        out.write_all(bytes).map_err(|e| {
            failed = Some(e);
            Error::new(Kind::Io, "cannot write a NAR")
        })
    });
    match (failed, result) {
        (Some(e), _) => Err(Failure::Io(e)),
        (None, Err(e)) => Err(Failure::Ours(e)),
        (None, Ok(())) => Ok(()),
    }
}

fn with_line(path: &Path, line: &[u8]) -> Result<Vec<u8>> {
    let mut reader = BufReader::new(digest::open(path)?);
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    reader
        .read_until(b'\n', &mut first)
        .and_then(|_| reader.read_to_end(&mut rest))
        .map_err(|e| Error::io("read", path, e))?;
    let end: &[u8] = if first.ends_with(b"\n") { b"\n" } else { b"" };
    Ok([line, end, &rest].concat())
}

/// The NAR hash and size of a tree.
pub fn hash_tree(tree: &Tree) -> Result<(Sha256, u64)> {
    hash_promised(tree, &mut Promises::default())
}

pub fn hash_promised(tree: &Tree, promises: &mut Promises) -> Result<(Sha256, u64)> {
    let mut hashing = Hashing::default();
    write_promised(tree, promises, &mut hashing)?;
    Ok(hashing.finish())
}

/// The store path of a content-addressed tree.
pub fn path_of(tree: &TreeRef, store: &StoreDir) -> Result<StorePath> {
    let references: BTreeSet<StorePath> = tree
        .references
        .iter()
        .map(|text| StorePath::from_base_name(text))
        .collect::<Result<_, _>>()
        .map_err(|e| Error::new(Kind::Input, format!("a reference in the lock is no store path: {e}")))?;
    source_path(store, &tree.name, &tree.nar_hash, &references)
        .map_err(|e| Error::new(Kind::Input, format!("{:?} cannot name a store path: {e}", tree.name)))
}
