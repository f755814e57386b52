//! A tree as it will be in the store: virtual, sorted by path bytes, each file with where its bytes
//! come from. A capture never copies: it says "this path of the store is that file on disk", so a
//! 4 GB library is streamed once, when it is hashed or sent.
use crate::formats::nix::hash::Sha256;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One entry of a tree. Directories are implied by the paths below them, except empty ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory that must exist even when nothing is below it.
    Directory,
    /// A symbolic link, target verbatim.
    Symlink(Vec<u8>),
    /// A regular file.
    File { source: Source, executable: bool },
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The file on disk, as it is.
    Disk(PathBuf),
    /// Bytes already in memory (a RECORD read by range, a patched interpreter, a relocated `.pth`).
    Bytes(Arc<[u8]>),
    /// The file on disk with its first line (a `#!` written by an installer) replaced: the wheel's
    /// own script starts with `#!python` (binary distribution format, "scripts").
    Shebang { path: PathBuf, line: Arc<[u8]> },
}

/// A content-addressed tree: with the store directory, this is its store path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct TreeRef {
    /// The name part of the store path.
    pub name: String,
    #[serde(rename = "nar-hash")]
    pub nar_hash: Sha256,
    #[serde(rename = "nar-size")]
    pub nar_size: u64,
    /// Store paths (base names) the content refers to, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
}

/// Paths relative to the tree's root, `/`-separated bytes; the empty path is the root itself when
/// the tree is a single file (a loose `.py` pack).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    /// A tree that is one regular file.
    pub fn single_file(source: Source, executable: bool) -> Self {
        let mut tree = Tree::default();
        tree.entries.insert(Vec::new(), Entry::File { source, executable });
        tree
    }

    pub fn insert(&mut self, path: impl AsRef<[u8]>, entry: Entry) {
        self.entries.insert(path.as_ref().to_vec(), entry);
    }

    pub fn disk(&mut self, path: impl AsRef<[u8]>, from: impl Into<PathBuf>, executable: bool) {
        self.insert(path, Entry::File { source: Source::Disk(from.into()), executable });
    }

    pub fn bytes(&mut self, path: impl AsRef<[u8]>, bytes: impl Into<Arc<[u8]>>, executable: bool) {
        self.insert(path, Entry::File { source: Source::Bytes(bytes.into()), executable });
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
