//! Trees side by side, wherever they lie: what is in each, and which entry is the first that differs.
use crate::capture::trees::nar::write_tree;
use crate::capture::trees::tree::Tree;
use crate::formats::nix::nar::{self, Hashing, Visitor};
use crate::formats::nix::store_path::StorePath;
use crate::store::Store;
use crate::sys::error::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// The first entry in which a path differs from a tree that it should hold.
pub fn difference_from(store: &mut Store, path: &StorePath, tree: &Tree) -> Result<Option<String>> {
    let pipe = |e| Error::new(Kind::Io, "cannot make a pipe").caused_by(e);
    let (mut reader, mut writer) = io::pipe().map_err(pipe)?;
    let wanted = std::thread::scope(|scope| {
        let writing = scope.spawn(move || write_tree(tree, &mut writer));
        let read = list(&mut reader, path);
        drop(reader);
        let written =
            writing.join().unwrap_or_else(|_| Err(Error::new(Kind::Io, "a thread ended unexpectedly")));
        written.and(read)
    })?;
    let first = differences(&listing(store, path)?, &wanted).into_iter().next();
    Ok(first.map(|(name, sides)| format!("{name}: {sides}")))
}

type Listing = BTreeMap<Vec<u8>, String>;

fn listing(store: &mut Store, path: &StorePath) -> Result<Listing> {
    store.nar(path, |input| list(input, path))
}

/// One line for each entry of an archive: enough to say which differs, without holding the files.
fn list(mut input: &mut dyn Read, path: &StorePath) -> Result<Listing> {
    struct List(Listing);
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
    nar::read(&mut input, &mut list)
        .map_err(|e| Error::new(Kind::Store, format!("cannot read {path} from the store")).caused_by(e))?;
    Ok(list.0)
}

/// The first bytes, at most `most`, of the file of a store path that `wanted` takes, wherever the store lies. They are
/// held in memory.
pub fn find(
    store: &mut Store,
    path: &StorePath,
    most: u64,
    wanted: &dyn Fn(&[Vec<u8>]) -> bool,
) -> Result<Option<Vec<u8>>> {
    struct Pick<'a> {
        wanted: &'a dyn Fn(&[Vec<u8>]) -> bool,
        most: u64,
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
            if (self.wanted)(path) {
                let mut bytes = Vec::new();
                content.take(self.most).read_to_end(&mut bytes)?;
                self.found = Some(bytes);
            }
            io::copy(content, &mut io::sink()).map(drop)
        }
    }
    let mut pick = Pick { wanted, most, found: None };
    store.nar(path, |mut input| {
        nar::read(&mut input, &mut pick)
            .map_err(|e| Error::new(Kind::Store, format!("cannot read {path} from the store")).caused_by(e))
    })?;
    Ok(pick.found)
}

/// One file of a store path, whole. It must be small.
pub fn file(store: &mut Store, path: &StorePath, name: &str) -> Result<Vec<u8>> {
    find(store, path, u64::MAX, &|parts| parts.join(&b'/') == name.as_bytes())?
        .ok_or_else(|| Error::new(Kind::Store, format!("{path} has no file {name}")))
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
fn differences(a: &Listing, b: &Listing) -> Vec<(String, String)> {
    let names: BTreeSet<&Vec<u8>> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| {
            let show = |side: &Listing| side.get(name).cloned().unwrap_or_else(|| "not there".into());
            (String::from_utf8_lossy(name).into_owned(), format!("{} / {}", show(a), show(b)))
        })
        .collect()
}
