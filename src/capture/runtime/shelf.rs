//! The libraries of a closure in a store, and which of them an interpreter's `ld.so` would find. Read through
//! the store, because its paths need not lie where their names say.
use crate::capture::audit::Provided;
use crate::formats::elf::{self, ElfInfo};
use crate::formats::nix::nar::{self, Visitor};
use crate::formats::nix::store_path::StorePath;
use crate::store::Store;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// A library larger than this would not be the C library's, or Python's.
const LARGEST: u64 = 64 << 20;
const MOST_LINKS: usize = 40;

#[derive(Debug)]
enum Kept {
    Folder,
    Link(String),
    Object(Box<ElfInfo>),
}

/// By absolute path.
#[derive(Debug, Default)]
pub struct Shelf(BTreeMap<String, Kept>);

struct Filler<'a> {
    top: String,
    shelf: &'a mut BTreeMap<String, Kept>,
}

impl Filler<'_> {
    fn put(&mut self, path: &[Vec<u8>], kept: Kept) {
        let inner: String = path.iter().map(|part| format!("/{}", String::from_utf8_lossy(part))).collect();
        self.shelf.insert(format!("{}{inner}", self.top), kept);
    }
}

impl Visitor for Filler<'_> {
    type Error = io::Error;

    fn directory(&mut self, path: &[Vec<u8>]) -> io::Result<()> {
        self.put(path, Kept::Folder);
        Ok(())
    }

    fn symlink(&mut self, path: &[Vec<u8>], target: &[u8]) -> io::Result<()> {
        self.put(path, Kept::Link(String::from_utf8_lossy(target).into_owned()));
        Ok(())
    }

    fn file(&mut self, path: &[Vec<u8>], _: bool, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.take(4).read_to_end(&mut bytes)?;
        if elf::looks_like_elf(&bytes) && size <= LARGEST {
            content.read_to_end(&mut bytes)?;
            // One that cannot be read cannot be loaded.
            if let Ok(info) = elf::parse(&bytes) {
                self.put(path, Kept::Object(Box::new(info)));
            }
        }
        io::copy(content, &mut io::sink()).map(drop)
    }
}

impl Shelf {
    pub fn of(root: &StorePath, store: &mut Store) -> Result<Shelf> {
        let mut shelf = Shelf::default();
        for path in store.closure(std::slice::from_ref(root))?.keys() {
            check_interrupt()?;
            let mut filler = Filler { top: path.to_absolute(&store.store_dir), shelf: &mut shelf.0 };
            store.nar(path, |mut input| {
                nar::read(&mut input, &mut filler).map_err(|e| {
                    Error::new(Kind::Store, format!("cannot read {path} from the store")).caused_by(e)
                })
            })?;
        }
        Ok(shelf)
    }

    /// The path without links, if it leads to something here.
    fn resolve(&self, path: &str) -> Option<String> {
        let mut left: Vec<String> = path.split('/').rev().map(String::from).collect();
        let mut done = String::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => done.truncate(done.rfind('/')?),
                part => {
                    let next = format!("{done}/{part}");
                    if let Some(Kept::Link(target)) = self.0.get(&next) {
                        links += 1;
                        if links > MOST_LINKS {
                            return None;
                        }
                        if target.starts_with('/') {
                            done.clear();
                        }
                        left.extend(target.split('/').rev().map(String::from));
                    } else {
                        done = next;
                    }
                }
            }
        }
        self.0.contains_key(&done).then_some(done)
    }

    fn object(&self, path: &str) -> Option<(String, &ElfInfo)> {
        let real = self.resolve(path)?;
        match self.0.get(&real)? {
            Kept::Object(info) => Some((real, info)),
            _ => None,
        }
    }

    /// What an interpreter brings to the libraries that it loads.
    pub fn provided(&self, interpreter: &str) -> Provided {
        let mut provided = Provided::default();
        let Some((program, info)) = self.object(interpreter) else { return provided };
        // Its own ld.so looks beside itself last; one of the host would look there.
        let linker = info.interp.as_ref().and_then(|interp| self.resolve(interp));
        let own = linker.as_deref().and_then(parent).map(str::to_owned);
        let inherited: Vec<String> = match info.runpath.is_empty() {
            true => info.rpath.iter().map(|entry| expand(entry, &program)).collect(),
            // A DT_RUNPATH is the program's alone.
            false => Vec::new(),
        };
        let mut queue = vec![(program, info)];
        while let Some((path, info)) = queue.pop() {
            let entries = if info.runpath.is_empty() { &info.rpath } else { &info.runpath };
            let mut dirs: Vec<String> = entries.iter().map(|entry| expand(entry, &path)).collect();
            if info.runpath.is_empty() {
                dirs.extend(inherited.iter().cloned());
            }
            dirs.extend(own.iter().cloned());
            for name in &info.needed {
                let found = dirs.iter().find_map(|dir| self.object(&format!("{dir}/{name}")));
                if let Some((path, info)) = found
                    && provided.loaded.insert(name.clone())
                {
                    provided.loaded.extend(info.soname.clone());
                    provided.glibc = provided.glibc.max(info.glibc_provided.unwrap_or_default());
                    queue.push((path, info));
                }
            }
        }
        provided.names = provided.loaded.clone();
        for dir in inherited.iter().chain(&own) {
            provided.names.extend(self.libraries(dir));
        }
        provided
    }

    /// The names by which a folder's libraries can be asked for.
    fn libraries(&self, dir: &str) -> BTreeSet<String> {
        let Some(real) = self.resolve(dir) else { return BTreeSet::new() };
        let inside = format!("{real}/");
        let files = self.0.range(inside.clone()..).take_while(|(path, _)| path.starts_with(&inside));
        let names = files.filter_map(|(path, _)| Some((path.strip_prefix(&inside)?, self.object(path)?.1)));
        names
            .filter(|(name, _)| !name.contains('/') && name.contains(".so"))
            .flat_map(|(name, info)| [Some(name.to_string()), info.soname.clone()])
            .flatten()
            .collect()
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(dir, _)| dir)
}

fn expand(entry: &str, object: &str) -> String {
    let origin = parent(object).unwrap_or_default();
    entry.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(needed: &[&str], rpath: &[&str], runpath: &[&str], interp: Option<&str>) -> Kept {
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Kept::Object(Box::new(ElfInfo {
            needed: list(needed),
            rpath: list(rpath),
            runpath: list(runpath),
            interp: interp.map(String::from),
            ..ElfInfo::default()
        }))
    }

    /// As nixpkgs has it: folders of libraries, links between them, the interpreter behind a link.
    fn shelf(rpath: &[&str], runpath: &[&str]) -> Shelf {
        let mut shelf = Shelf::default();
        let mut put = |path: &str, kept: Kept| shelf.0.insert(path.into(), kept);
        for folder in ["/s/env", "/s/python/lib", "/s/glibc/lib", "/s/zlib/lib"] {
            put(folder, Kept::Folder);
        }
        put("/s/env/bin", Kept::Link("../python/bin".into()));
        put("/s/python/bin/python3", Kept::Link("python3.11".into()));
        put(
            "/s/python/bin/python3.11",
            object(&["libz.so.1", "libc.so.6"], rpath, runpath, Some("/s/glibc/lib/ld.so.2")),
        );
        put("/s/python/lib/libpython.so", object(&[], &[], &[], None));
        put("/s/glibc/lib/ld.so.2", object(&[], &[], &[], None));
        put("/s/glibc/lib/libc.so.6", object(&[], &[], &[], None));
        put("/s/glibc/lib/libm.so.6", object(&[], &[], &[], None));
        put("/s/zlib/lib/libz.so.1", object(&["libgone.so"], &[], &[], None));
        put("/s/zlib/lib/libother.so.1", object(&[], &[], &[], None));
        shelf
    }

    #[test]
    fn only_what_is_inherited_serves_others() {
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        let dirs = ["/s/zlib/lib", "$ORIGIN/../lib"];
        let with = shelf(&dirs, &[]).provided("/s/env/bin/python3");
        assert_eq!(names(&with.loaded), "libc.so.6 libz.so.1");
        assert_eq!(names(&with.names), "ld.so.2 libc.so.6 libm.so.6 libother.so.1 libpython.so libz.so.1");
        let alone = shelf(&[], &dirs).provided("/s/env/bin/python3");
        assert_eq!(names(&alone.loaded), "libc.so.6 libz.so.1");
        assert_eq!(names(&alone.names), "ld.so.2 libc.so.6 libm.so.6 libz.so.1");
        assert_eq!(shelf(&[], &[]).provided("/s/env/bin/none"), Provided::default());
    }
}
