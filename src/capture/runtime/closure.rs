//! Which file ld.so would load for every NEEDED of a set of objects, found by reading alone:
//! `ldd` runs the program it is asked about.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::ld_conf::system_directories;
use crate::formats::elf::{self, ElfInfo};
use crate::sys::error::{Error, Kind, Result};

/// The libraries a set of objects loads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closure {
    /// Name asked for, to the real file; the roots are not in it.
    pub found: BTreeMap<String, PathBuf>,
    pub unresolved: Vec<Unresolved>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unresolved {
    pub file: PathBuf,
    pub library: String,
}

/// Resolves names as ld.so does. The first object added is the program; whatever is added later
/// counts as loaded by it.
pub struct Resolver {
    /// Searched last: the linker's configured and built-in directories.
    system: Vec<PathBuf>,
    machine: Option<u16>,
    loaded: Vec<Loaded>,
    by_name: BTreeMap<String, usize>,
    by_file: HashMap<PathBuf, usize>,
    unresolved: Vec<Unresolved>,
}

struct Loaded {
    /// The path it was found at, whose directory is `$ORIGIN`.
    path: PathBuf,
    real: PathBuf,
    info: ElfInfo,
    loader: Option<usize>,
}

/// Reads an object's headers.
pub fn inspect(path: &Path) -> Result<ElfInfo> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    elf::read(&mut BufReader::with_capacity(4096, file)).map_err(|e| {
        Error::new(Kind::Environment, format!("cannot read {} as ELF", path.display())).caused_by(e)
    })
}

impl Resolver {
    pub fn new(system: Vec<PathBuf>) -> Resolver {
        Resolver {
            system,
            machine: None,
            loaded: Vec::new(),
            by_name: BTreeMap::new(),
            by_file: HashMap::new(),
            unresolved: Vec::new(),
        }
    }

    /// A resolver for `program`, already added, which searches where its own ld.so does.
    pub fn for_program(program: &Path) -> Result<Resolver> {
        let info = inspect(program)?;
        let interp = info.interp.as_ref().ok_or_else(|| {
            Error::new(Kind::Environment, format!("{} is statically linked", program.display()))
                .hint("extension modules cannot be loaded by a static interpreter")
        })?;
        let interp = PathBuf::from(interp);
        let mut system = system_directories(Path::new("/"));
        // A linker outside the system's directories (a Nix store, a scratch root) has its libc
        // beside it and knows nothing of /etc/ld.so.conf.
        let real = std::fs::canonicalize(&interp).map_err(|e| Error::io("resolve", &interp, e))?;
        if let Some(own) = real.parent() {
            let own = own.to_path_buf();
            let usual = system.iter().any(|d| std::fs::canonicalize(d).is_ok_and(|d| d == own));
            if !usual {
                system.insert(0, own);
            }
        }
        let mut resolver = Resolver::new(system);
        resolver.add(program)?;
        let name = interp.file_name().map(|n| n.to_string_lossy().into_owned());
        if let Some(name) = name {
            let info = inspect(&real)?;
            let name = info.soname.clone().unwrap_or(name);
            resolver.load(interp, real, info, Some(0), &name);
        }
        Ok(resolver)
    }

    /// Adds an object and everything it needs.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let real = std::fs::canonicalize(path).map_err(|e| Error::io("resolve", path, e))?;
        if self.by_file.contains_key(&real) {
            return Ok(());
        }
        let info = inspect(&real)?;
        self.machine.get_or_insert(info.machine);
        let loader = (!self.loaded.is_empty()).then_some(0);
        let index = self.push(path.to_path_buf(), real, info, loader);
        self.walk(index);
        Ok(())
    }

    /// Finds a library by name as the program's `dlopen` would; adds it and what it needs.
    pub fn add_named(&mut self, name: &str) -> Option<PathBuf> {
        if let Some(index) = self.by_name.get(name) {
            return Some(self.loaded[*index].real.clone());
        }
        let (path, real, info) = self.search(name, 0)?;
        // Asked for by path, it is known by its own name.
        let name = name.rsplit('/').next().unwrap_or(name);
        let name = info.soname.clone().unwrap_or_else(|| name.to_owned());
        let index = self.load(path, real.clone(), info, Some(0), &name);
        self.walk(index);
        Some(real)
    }

    /// Adds a library whose file is known, under the name it will be asked for by.
    pub fn add_file(&mut self, name: &str, path: &Path) -> Result<()> {
        if self.by_name.contains_key(name) {
            return Ok(());
        }
        let real = std::fs::canonicalize(path).map_err(|e| Error::io("resolve", path, e))?;
        let info = inspect(&real)?;
        let index = self.load(path.to_path_buf(), real, info, Some(0), name);
        self.walk(index);
        Ok(())
    }

    /// The names that have been asked for so far.
    pub fn names(&self) -> BTreeSet<String> {
        self.by_name.keys().map(|name| name.rsplit('/').next().unwrap_or_default().to_owned()).collect()
    }

    pub fn finish(mut self) -> Closure {
        self.unresolved.sort();
        self.unresolved.dedup();
        let found = self
            .by_name
            .iter()
            .map(|(name, index)| (name.clone(), self.loaded[*index].real.clone()))
            .collect();
        Closure { found, unresolved: self.unresolved }
    }

    fn push(&mut self, path: PathBuf, real: PathBuf, info: ElfInfo, loader: Option<usize>) -> usize {
        let index = self.loaded.len();
        self.by_file.insert(real.clone(), index);
        self.loaded.push(Loaded { path, real, info, loader });
        index
    }

    fn load(
        &mut self,
        path: PathBuf,
        real: PathBuf,
        info: ElfInfo,
        loader: Option<usize>,
        name: &str,
    ) -> usize {
        let index = match self.by_file.get(&real) {
            Some(index) => *index,
            None => self.push(path, real, info, loader),
        };
        self.by_name.insert(name.to_owned(), index);
        // A later request by SONAME finds the same object.
        if let Some(soname) = self.loaded[index].info.soname.clone() {
            self.by_name.entry(soname).or_insert(index);
        }
        index
    }

    /// Breadth first, as ld.so does: the first object that asks for a name decides where it is from.
    fn walk(&mut self, root: usize) {
        let mut queue = VecDeque::from([root]);
        while let Some(index) = queue.pop_front() {
            for name in self.loaded[index].info.needed.clone() {
                if self.by_name.contains_key(&name) {
                    continue;
                }
                match self.search(&name, index) {
                    Some((path, real, info)) => {
                        let known = self.by_file.contains_key(&real);
                        let child = self.load(path, real, info, Some(index), &name);
                        if !known {
                            queue.push_back(child);
                        }
                    }
                    None => self
                        .unresolved
                        .push(Unresolved { file: self.loaded[index].real.clone(), library: name }),
                }
            }
        }
    }

    fn search(&self, name: &str, from: usize) -> Option<(PathBuf, PathBuf, ElfInfo)> {
        if name.contains('/') {
            return self.candidate(&expand(name, &self.loaded[from])?);
        }
        let mut dirs = Vec::new();
        if self.loaded[from].info.runpath.is_empty() {
            // DT_RPATH of the object, of what loaded it, and so on up, then of the program. An
            // object's DT_RPATH counts for nothing when it has a DT_RUNPATH.
            let mut chain = Some(from);
            while let Some(object) = chain.map(|i| &self.loaded[i]) {
                if object.info.runpath.is_empty() {
                    dirs.extend(object.info.rpath.iter().filter_map(|p| expand(p, object)));
                }
                chain = object.loader;
            }
        } else {
            let object = &self.loaded[from];
            dirs.extend(object.info.runpath.iter().filter_map(|p| expand(p, object)));
        }
        dirs.iter().chain(&self.system).find_map(|dir| self.candidate(&dir.join(name)))
    }

    /// An object of another machine, or a text file, is passed over as ld.so does.
    fn candidate(&self, path: &Path) -> Option<(PathBuf, PathBuf, ElfInfo)> {
        let real = std::fs::canonicalize(path).ok()?;
        let info = inspect(&real).ok()?;
        let fits = info.class64 && self.machine.is_none_or(|m| m == info.machine);
        fits.then(|| (path.to_path_buf(), real, info))
    }
}

/// `$ORIGIN` is the directory the object was found in, not that of the file a link leads to; for
/// the program it is that of the real file, as the kernel reports it.
fn expand(entry: &str, object: &Loaded) -> Option<PathBuf> {
    let path = if object.loader.is_none() { &object.real } else { &object.path };
    let origin = path.parent()?.to_str()?;
    let lib = if Path::new("/lib64").exists() { "lib64" } else { "lib" };
    let mut text = entry.to_owned();
    for (from, to) in [("ORIGIN", origin), ("LIB", lib), ("PLATFORM", std::env::consts::ARCH)] {
        text = text.replace(&format!("${{{from}}}"), to).replace(&format!("${from}"), to);
    }
    Some(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_of_this_program_is_found() {
        let me = std::env::current_exe().expect("own path");
        let closure = Resolver::for_program(&me).expect("resolver").finish();
        assert!(closure.unresolved.is_empty(), "{closure:?}");
        assert!(closure.found.contains_key("libc.so.6"));
        assert!(closure.found.keys().any(|name| name.starts_with("ld-linux")));
    }

    #[test]
    fn rpath_is_inherited_and_runpath_is_not() {
        let me = std::env::current_exe().expect("own path");
        let Some(libz) = Resolver::for_program(&me).expect("resolver").add_named("libz.so.1") else {
            return;
        };
        let dir = tempfile::tempdir().expect("temp dir");
        let root = std::fs::canonicalize(dir.path()).expect("real path");
        let libs = root.join("libs");
        std::fs::create_dir_all(&libs).expect("mkdir");
        let patch = |from: &Path, to: &Path, rpath: Option<&str>, needed: &str| {
            let patch =
                elf::Patch { interp: None, rpath: rpath.map(str::to_owned), add_needed: vec![needed.into()] };
            let data = std::fs::read(from).expect("read");
            std::fs::write(to, elf::patch(&data, &patch).expect("patched")).expect("write");
        };
        let program = root.join("program");
        patch(&me, &program, Some("$ORIGIN/libs"), "libfirst.so");
        patch(&libz, &libs.join("libfirst.so"), None, "libsecond.so");
        patch(&libz, &libs.join("libsecond.so"), None, "libnowhere.so");
        let closure = Resolver::for_program(&program).expect("resolver").finish();
        assert_eq!(closure.found.get("libsecond.so"), Some(&libs.join("libsecond.so")));
        let missing = Unresolved { file: libs.join("libsecond.so"), library: "libnowhere.so".into() };
        assert_eq!(closure.unresolved, [missing]);
    }
}
