//! The formats of Nix, byte for byte against real Nix, the machine's and a later one: generated trees and
//! derivations go through its tools and through ours, and nothing may differ.
#[path = "../common/mod.rs"]
mod common;
mod derivations;
mod malformed;

use common::{Deaf, Scratch, line, newer, stdout};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use stillframe::capture::trees::nar::{hash_tree, write_tree};
use stillframe::capture::trees::tree::{Entry, Source, Tree};
use stillframe::formats::nix::base32;
use stillframe::formats::nix::hash::Sha256;
use stillframe::formats::nix::nar::{self, NarWriter, Visitor};
use stillframe::formats::nix::store_path::{Mode, StoreDir, fixed_output_path, source_path};

/// One of the Nixes.
struct Nix {
    /// The words before a command that run it there.
    enter: fn(&Scratch) -> Vec<String>,
    /// Every case starts real tools.
    cases: u32,
}

const INSTALLED: Nix = Nix { enter: |_| Vec::new(), cases: 24 };
/// Each command is in a root of its own, which takes a while to enter.
const NEWER: Nix = Nix { enter: newer, cases: 10 };

impl Nix {
    fn run<I: AsRef<OsStr>>(
        &self,
        scratch: &Scratch,
        program: &str,
        args: impl IntoIterator<Item = I>,
    ) -> Command {
        let mut words: Vec<OsString> = (self.enter)(scratch).into_iter().map(OsString::from).collect();
        words.push(program.into());
        words.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
        let program = words.remove(0);
        scratch.nix(program.to_str().expect("text"), words)
    }

    /// A property of generated values.
    fn holds<S: Strategy>(&self, values: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
        let config = ProptestConfig {
            cases: self.cases,
            failure_persistence: None,
            max_shrink_iters: 200,
            ..ProptestConfig::default()
        };
        TestRunner::new(config).run(&values, property).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn the_later_nix_is_another() {
    let version = |nix: &Nix| {
        let scratch = Scratch::new();
        let told = line(&mut nix.run(&scratch, "nix-store", ["--version"]));
        told.rsplit(' ').next().map(str::to_owned).expect("a version")
    };
    let (installed, newer) = (version(&INSTALLED), version(&NEWER));
    assert!(newer.starts_with("2.26."), "{newer}");
    assert_ne!(installed, newer);
}

/// Each of the functions becomes a test on either Nix.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod installed {
            $(#[test] fn $name() { super::$name(&crate::INSTALLED); })*
        }
        mod newer {
            $(#[test] fn $name() { super::$name(&crate::NEWER); })*
        }
    };
}
use on_both;

on_both! {
    a_tree_is_the_same_archive_hash_and_store_path
    a_changed_archive_is_taken_only_if_nix_takes_it
    fixed_output_paths
    hashes_as_text
}

// --- trees

#[derive(Debug, Clone)]
enum Node {
    /// `size` bytes that come from `seed`: a failure prints short.
    File {
        executable: bool,
        seed: u8,
        size: usize,
    },
    Link(Vec<u8>),
    Folder(BTreeMap<Vec<u8>, Node>),
}

fn content(seed: u8, size: usize) -> Vec<u8> {
    (0..size).map(|i| (i as u8).wrapping_mul(31) ^ seed ^ (i >> 8) as u8).collect()
}

/// Names whose order as bytes is not their order as text, or that something might treat specially.
const TRAPS: &[&[u8]] = &[
    b"a",
    b"a.b",
    b"a-b",
    b"A",
    b"ab",
    b"a b",
    b"a\nb",
    b"a~",
    b"...",
    b".a",
    b"-",
    b"~",
    b" ",
    b"\\",
    b"\"",
    b"\x01",
    b"\x7f",
    b"caf\xc3\xa9",
    b"caf\xe9",
    b"\xff",
    b"\xff\xfe",
    b"a~nix~case~hack~1",
    b"node",
    b")",
];

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no part of a name", |b| *b != 0 && *b != b'/');
    prop_oneof![
        6 => select(TRAPS).prop_map(<[u8]>::to_vec),
        3 => vec(byte.clone(), 1..10),
        1 => vec(byte, 250..=255),
    ]
    .prop_filter("a name of its own", |n| n != b"." && n != b"..")
}

fn tree() -> impl Strategy<Value = Node> {
    let size = prop_oneof![
        8 => 0..40usize,
        2 => 1000..9000usize,
        1 => select(&[65_535usize, 65_536, 65_537][..]),
        1 => 200_000..600_000usize,
    ];
    let target = prop_oneof![
        9 => vec(1..=255u8, 1..40),
        1 => vec(1..=255u8, 4090..=4095),
    ];
    let leaf = prop_oneof![
        5 => (any::<bool>(), any::<u8>(), size)
            .prop_map(|(executable, seed, size)| Node::File { executable, seed, size }),
        2 => target.prop_map(Node::Link),
        1 => Just(Node::Folder(BTreeMap::new())),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| btree_map(name(), inner, 0..8).prop_map(Node::Folder))
}

/// Puts a node on disk, and into a tree that takes half of its files from there.
fn lay(node: &Node, at: &Path, key: &[u8], tree: &mut Tree) {
    match node {
        Node::File { executable, seed, size } => {
            let bytes = content(*seed, *size);
            fs::write(at, &bytes).expect("a file");
            // Nix looks at the owner's bit alone.
            let modes = if *executable { [0o755, 0o744] } else { [0o644, 0o655] };
            fs::set_permissions(at, Permissions::from_mode(modes[usize::from(seed % 2)])).expect("chmod");
            let source = match seed % 2 {
                0 => Source::Disk(at.to_path_buf()),
                _ => Source::Bytes(bytes.into()),
            };
            tree.insert(key, Entry::File { source, executable: *executable });
        }
        Node::Link(target) => {
            symlink(OsStr::from_bytes(target), at).expect("a link");
            tree.insert(key, Entry::Symlink(target.clone()));
        }
        Node::Folder(below) => {
            fs::create_dir(at).expect("a folder");
            // A folder with something in it is implied; saying it again must change nothing.
            if below.len() != 1 {
                tree.insert(key, Entry::Directory);
            }
            for (name, node) in below {
                let key = if key.is_empty() { name.clone() } else { [key, b"/", name].concat() };
                lay(node, &at.join(OsStr::from_bytes(name)), &key, tree);
            }
        }
    }
}

/// Prints what a reader tells.
struct Replay {
    nar: NarWriter<Vec<u8>>,
    open: usize,
}

impl Replay {
    fn new() -> Self {
        Replay { nar: NarWriter::new(Vec::new()).expect("a buffer"), open: 0 }
    }

    /// The name, in the folder it belongs to.
    fn enter<'a>(&mut self, path: &'a [Vec<u8>]) -> io::Result<&'a [u8]> {
        while self.open > path.len() {
            self.nar.end_directory()?;
            self.open -= 1;
        }
        Ok(path.last().map_or(b"", Vec::as_slice))
    }

    fn finish(mut self) -> Vec<u8> {
        self.enter(&[]).expect("a buffer");
        self.nar.finish().expect("a buffer")
    }
}

impl Visitor for Replay {
    type Error = io::Error;

    fn directory(&mut self, path: &[Vec<u8>]) -> io::Result<()> {
        let name = self.enter(path)?;
        self.nar.directory(name)?;
        self.open += 1;
        Ok(())
    }

    fn symlink(&mut self, path: &[Vec<u8>], target: &[u8]) -> io::Result<()> {
        let name = self.enter(path)?;
        self.nar.symlink(name, target)
    }

    fn file(&mut self, path: &[Vec<u8>], exec: bool, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let name = self.enter(path)?;
        self.nar.file(name, exec, size, |out| io::copy(content, out).map(drop))
    }
}

fn store_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,30}"
}

fn nar_of(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_tree(tree, &mut bytes).expect("a NAR");
    bytes
}

/// Whether `nix-store --restore` takes an archive.
fn restores(at: &Nix, bytes: &[u8]) -> bool {
    let scratch = Scratch::new();
    let mut command = at.run(&scratch, "nix-store", ["--restore", "out"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start nix-store: {e}; tests/lib/setup.sh brings it"));
    // It may have refused, and closed, already.
    let _ = child.stdin.take().expect("a pipe").write_all(bytes);
    child.wait().expect("it ends").success()
}

fn a_tree_is_the_same_archive_hash_and_store_path(nix: &Nix) {
    nix.holds((tree(), store_name()), |(node, name)| {
        let scratch = Scratch::new();
        let at = scratch.join("in").join(&name);
        fs::create_dir(scratch.join("in")).expect("a folder");
        let mut tree = Tree::default();
        lay(&node, &at, b"", &mut tree);
        let at = at.to_str().expect("text");

        let dump = stdout(&mut nix.run(&scratch, "nix-store", ["--dump", at]));
        prop_assert!(nar_of(&tree) == dump, "the archives differ");
        let (hash, size) = hash_tree(&tree).expect("a hash");
        prop_assert_eq!(size, dump.len() as u64);
        prop_assert_eq!(hash.to_hex(), line(&mut nix.run(&scratch, "nix-hash", ["--type", "sha256", at])));
        let store = StoreDir::default();
        let ours = source_path(&store, &name, &hash, &BTreeSet::new()).expect("a path");
        prop_assert_eq!(ours.to_absolute(&store), line(&mut nix.run(&scratch, "nix-store", ["--add", at])));

        // And back: the reader stops where the archive does.
        let mut input = Cursor::new([&dump[..], b"the next"].concat());
        let mut replay = Replay::new();
        nar::read(&mut input, &mut replay).expect("an archive");
        prop_assert_eq!(input.position(), dump.len() as u64);
        prop_assert!(replay.finish() == dump, "it was read as another tree");
        let mut input = Cursor::new(&dump);
        nar::read(&mut input, &mut Deaf).expect("an archive");
        prop_assert_eq!(input.position(), dump.len() as u64);
        Ok(())
    });
}

/// What we read, Nix takes; an archive cut short, nobody does.
fn a_changed_archive_is_taken_only_if_nix_takes_it(nix: &Nix) {
    let changes = vec((any::<prop::sample::Index>(), 1..=255u8), 6);
    nix.holds((tree(), changes, any::<prop::sample::Index>()), |(node, changes, cut)| {
        let scratch = Scratch::new();
        let mut tree = Tree::default();
        lay(&node, &scratch.join("in"), b"", &mut tree);
        let bytes = nar_of(&tree);
        for (index, value) in changes {
            let mut bytes = bytes.clone();
            // Never the high bytes of a length: Nix allocates what it is told.
            let at = index.index(bytes.len()) & !7 | usize::from(value & 1);
            bytes[at] = value;
            if nar::read(&mut &bytes[..], &mut Deaf).is_ok() {
                prop_assert!(restores(nix, &bytes), "byte {at} became {value}: read by us, refused by Nix");
            }
        }
        let short = &bytes[..cut.index(bytes.len())];
        let error = nar::read(&mut &short[..], &mut Deaf).expect_err("it is cut");
        prop_assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        Ok(())
    });
}

fn fixed_output_paths(nix: &Nix) {
    nix.holds((vec(any::<u8>(), 0..100), any::<[u8; 32]>(), store_name()), |(bytes, hash, name)| {
        let scratch = Scratch::new();
        let store = StoreDir::default();
        let file = scratch.join(&name);
        fs::write(&file, &bytes).expect("a file");
        let (archive, _) = hash_tree(&Tree::single_file(Source::Disk(file.clone()), false)).expect("a hash");
        let file = file.to_str().expect("text");
        for (mode, flag, added) in
            [(Mode::Flat, None, Sha256::of(&bytes)), (Mode::Recursive, Some("--recursive"), archive)]
        {
            let path = |hash: Sha256| {
                fixed_output_path(&store, &name, mode, &hash).expect("a path").to_absolute(&store)
            };
            let args = ["--print-fixed-path"].into_iter().chain(flag);
            let hex = Sha256(hash).to_hex();
            let printed = line(&mut nix.run(&scratch, "nix-store", args.chain(["sha256", &hex, &name])));
            prop_assert_eq!(path(Sha256(hash)), printed);
            let args = ["--add-fixed"].into_iter().chain(flag).chain(["sha256", file]);
            prop_assert_eq!(path(added), line(&mut nix.run(&scratch, "nix-store", args)));
        }
        Ok(())
    });
}

fn hashes_as_text(nix: &Nix) {
    nix.holds(any::<[u8; 32]>(), |bytes| {
        let scratch = Scratch::new();
        let hash = Sha256(bytes);
        let (hex, base32) = (hash.to_hex(), hash.to_base32());
        let tool =
            |to: &str, text: &str| line(&mut nix.run(&scratch, "nix-hash", ["--type", "sha256", to, text]));
        prop_assert_eq!(&tool("--to-base32", &hex), &base32);
        prop_assert_eq!(&tool("--to-base16", &base32), &hex);
        let sri =
            ["--extra-experimental-features", "nix-command", "hash", "to-sri", "--type", "sha256", &hex];
        prop_assert_eq!(line(&mut nix.run(&scratch, "nix", sri)), hash.to_string());
        for text in
            [hash.to_string(), hex.to_uppercase(), format!("sha256:{hex}"), format!("sha256:{base32}")]
        {
            prop_assert_eq!(Sha256::parse(&text).expect("a hash"), hash);
        }
        // The other sizes that base-32 is used for: store paths and SHA-1, MD5.
        for (kind, size) in [("sha1", 20), ("md5", 16)] {
            let part = &bytes[..size];
            let text =
                line(&mut nix.run(&scratch, "nix-hash", ["--type", kind, "--to-base32", &hex[..size * 2]]));
            prop_assert_eq!(&base32::encode(part), &text);
            prop_assert_eq!(base32::decode(&text, size).expect("base-32"), part);
        }
        Ok(())
    });
}
