//! The Python runtime as two trees of files: the base libraries (the ELF closure with the whole C
//! library) and the interpreter patched to use nothing but them.
//!
//! The base libraries have a store path of their own, so that the runtime refers to it by name and
//! neither has to refer to itself.
pub mod closure;
pub mod given;
pub mod ld_conf;
pub mod lock;
mod shelf;
pub mod stdlib;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::formats::elf::{self, Patch};
use crate::sys::error::{Error, Kind, Result};

use crate::capture::audit::Provided;
pub use crate::capture::python::interpreter::InterpreterFacts;
use closure::{Resolver, inspect};

/// One file of a tree that is not on disk yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeFile {
    Disk { path: PathBuf, executable: bool },
    Bytes { data: Arc<[u8]>, executable: bool },
    Symlink { target: String },
}

/// Relative path, with `/`, to file. Directories are implied by their content.
pub type Tree = BTreeMap<String, RuntimeFile>;

/// Loaded by the interpreter itself, so that wheels which ask for them with a DT_RUNPATH of their
/// own, which shuts out the interpreter's DT_RPATH, find them already there. Not libgomp: packages
/// bring their own under other names, and the first one loaded would serve them all.
const PRELOADED: [&str; 8] = [
    "libstdc++.so.6",
    "libz.so.1",
    "libgcc_s.so.1",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
];

/// Wanted by most wheels with native code.
const COMMON: [&str; 4] = ["libstdc++.so.6", "libz.so.1", "libgcc_s.so.1", "libgomp.so.1"];

/// The C library is one thing in many files; a part from the host beside a part from here crashes.
/// The empty ones are still asked for by wheels built against an old C library.
const GLIBC: [&str; 16] = [
    "libBrokenLocale.so.1",
    "libanl.so.1",
    "libc.so.6",
    "libc_malloc_debug.so.0",
    "libdl.so.2",
    "libm.so.6",
    "libmvec.so.1",
    "libnsl.so.1",
    "libnss_compat.so.2",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libthread_db.so.1",
    "libutil.so.1",
];

/// What the runtime of an environment consists of.
#[derive(Debug, Clone)]
pub struct RuntimePlan {
    pub facts: InterpreterFacts,
    /// The base libraries: `lib/<soname>`.
    pub base: Tree,
    /// Those that the configuration names besides, with what they need. All bytecode depends on the base libraries, and
    /// is compiled anew when they change; on these nothing does but the environment.
    pub further: Tree,
    /// The names the base libraries can be asked for by.
    pub sonames: BTreeSet<String>,
    /// Those of them, and libpython, that are loaded whenever the interpreter runs.
    pub loaded: BTreeSet<String>,
    /// The version of the captured C library.
    pub glibc: (u32, u32),
    /// What was wanted and is not on this machine.
    pub missing: Vec<String>,
    loader: String,
    libpython: BTreeMap<String, PathBuf>,
    /// Extension modules of the standard library.
    modules: Vec<(String, PathBuf)>,
}

impl RuntimePlan {
    /// Plans the runtime around an interpreter. `extra` names more libraries to take along with what
    /// they need, by SONAME or by path.
    pub fn new(facts: InterpreterFacts, extra: &[String]) -> Result<RuntimePlan> {
        let mut missing = Vec::new();
        let mut resolver = Resolver::for_program(&facts.executable)?;
        let modules = match &facts.lib_dynload {
            Some(dir) => stdlib::extension_modules(dir)?,
            None => Vec::new(),
        };
        for (_, path) in &modules {
            resolver.add(path)?;
        }
        for name in COMMON {
            if resolver.add_named(name).is_none() {
                missing.push(format!("{name}: most packages with native code need it"));
            }
        }
        let no_glibc = || {
            Error::new(
                Kind::Environment,
                format!("{} does not use the GNU C library", facts.executable.display()),
            )
            .hint("interpreters linked with musl cannot be captured: most wheels do not run on them")
        };
        let libc = add_c_library(&mut resolver)?.ok_or_else(no_glibc)?;
        let own = resolver.names();
        for library in extra {
            if resolver.add_named(library).is_none() {
                return Err(Error::new(Kind::Input, format!("library {library} was not found"))
                    .hint("give a path, or install the package that has it on this machine"));
            }
        }
        let found = resolver.finish();
        for lost in found.unresolved {
            missing.push(format!("{}: {} needs it", lost.library, lost.file.display()));
        }

        let mut plan = RuntimePlan {
            glibc: inspect(&libc)?.glibc_provided.ok_or_else(no_glibc)?,
            loader: found
                .found
                .keys()
                .find(|name| name.starts_with("ld-linux"))
                .cloned()
                .ok_or_else(no_glibc)?,
            facts,
            base: Tree::new(),
            further: Tree::new(),
            sonames: BTreeSet::new(),
            loaded: BTreeSet::new(),
            missing,
            libpython: BTreeMap::new(),
            modules,
        };
        let mut paths = BTreeMap::new();
        for (name, path) in found.found {
            let name = name.rsplit('/').next().unwrap_or_default().to_owned();
            if name.starts_with("libpython") {
                plan.libpython.insert(name.clone(), path.clone());
            } else {
                // One that stands in for a base library is one.
                let further = !own.contains(&name);
                plan.add_library(name.clone(), &path, further)?;
            }
            paths.insert(name, path);
        }
        plan.loaded = loaded_by(&plan.facts.executable, &paths)?;
        plan.missing.sort();
        Ok(plan)
    }

    fn add_library(&mut self, name: String, path: &Path, further: bool) -> Result<()> {
        let file = beside_the_others(path, name == self.loader)?;
        let tree = if further { &mut self.further } else { &mut self.base };
        tree.insert(format!("lib/{name}"), file);
        self.sonames.insert(name);
        Ok(())
    }

    /// What the audit of the packages has to know of the runtime.
    pub fn provided(&self) -> Provided {
        let names = self.sonames.iter().chain(self.libpython.keys()).cloned().collect();
        let linkable =
            self.base.keys().filter_map(|path| path.strip_prefix("lib/")).map(String::from).collect();
        Provided { names, linkable, loaded: self.loaded.clone(), glibc: self.glibc }
    }

    /// The runtime's tree, once the store path of the base libraries is known. Also lists what of
    /// the interpreter's files was left out.
    pub fn runtime(&self, base: &str) -> Result<Runtime> {
        let facts = &self.facts;
        let (mut tree, mut left_out) = (Tree::new(), Vec::new());
        let python = format!("python{}", facts.short_version());
        // `python3.13t` and the like keep the directory they look for.
        let name = facts.stdlib.file_name().and_then(|n| n.to_str()).unwrap_or(&python);
        let lib = format!("{}/{name}", facts.platlibdir);

        stdlib::standard_library(&facts.stdlib, &lib, &mut tree, &mut left_out)?;
        match &facts.include {
            Some(include) => {
                let arch = facts.multiarch.as_deref();
                stdlib::headers(include, arch, &mut tree, &mut left_out)?;
            }
            None => left_out.push("include: Python.h is not installed on this machine".into()),
        }

        let base_lib = format!("{base}/lib");
        let program = self.program(base, format!("$ORIGIN/../lib:{base_lib}"));
        let library = Patch { rpath: Some(base_lib), ..Patch::default() };
        let mut add = |at: String, path: &Path, patch: &Patch, executable| -> Result<()> {
            tree.insert(at, RuntimeFile::Bytes { data: patched(path, patch)?, executable });
            Ok(())
        };
        add(format!("bin/{python}"), &facts.executable, &program, true)?;
        for (name, path) in &self.libpython {
            add(format!("lib/{name}"), path, &library, false)?;
        }
        for (name, path) in &self.modules {
            add(format!("{lib}/lib-dynload/{name}"), path, &library, false)?;
        }
        for link in ["python", "python3"] {
            let target = python.clone();
            tree.insert(format!("bin/{link}"), RuntimeFile::Symlink { target });
        }
        Ok(Runtime { tree, left_out })
    }
}

impl RuntimePlan {
    fn program(&self, base: &str, rpath: String) -> Patch {
        let own = PRELOADED.iter().filter(|name| self.base.contains_key(&format!("lib/{name}")));
        Patch {
            interp: Some(format!("{base}/lib/{}", self.loader)),
            rpath: Some(rpath),
            add_needed: own.map(|name| (*name).to_owned()).collect(),
        }
    }

    /// The interpreter once more, as an environment has it that has further libraries, too.
    pub fn interpreter(&self, base: &str, runtime: &str, further: &str) -> Result<Tree> {
        let patch = self.program(base, format!("{runtime}/lib:{base}/lib:{further}/lib"));
        let data = patched(&self.facts.executable, &patch)?;
        let file = RuntimeFile::Bytes { data, executable: true };
        Ok(Tree::from([("bin/python".to_owned(), file)]))
    }
}

/// Adds the C library that a program loads, all of it; none where that is not GNU's.
pub fn add_c_library(resolver: &mut Resolver) -> Result<Option<PathBuf>> {
    let Some(libc) = resolver.add_named("libc.so.6") else { return Ok(None) };
    let beside = libc.parent().unwrap_or(Path::new("/"));
    for name in GLIBC {
        let path = beside.join(name);
        if path.is_file() {
            resolver.add_file(name, &path)?;
        }
    }
    Ok(Some(libc))
}

/// A library as it ships, in a folder with all that it needs. A directory of this machine written into it would lead out
/// of the closure, and a DT_RUNPATH hides the program's DT_RPATH.
pub fn beside_the_others(path: &Path, executable: bool) -> Result<RuntimeFile> {
    let info = inspect(path)?;
    if info.rpath.is_empty() && info.runpath.is_empty() {
        return Ok(RuntimeFile::Disk { path: path.to_path_buf(), executable });
    }
    let patch = Patch { rpath: Some("$ORIGIN".into()), ..Patch::default() };
    Ok(RuntimeFile::Bytes { data: patched(path, &patch)?, executable: false })
}

/// What the patched interpreter loads before it runs any code.
fn loaded_by(program: &Path, paths: &BTreeMap<String, PathBuf>) -> Result<BTreeSet<String>> {
    let mut queue = inspect(program)?.needed;
    queue.extend(PRELOADED.map(str::to_owned));
    let mut loaded = BTreeSet::new();
    while let Some(name) = queue.pop() {
        if let Some(path) = paths.get(&name)
            && loaded.insert(name)
        {
            queue.extend(inspect(path)?.needed);
        }
    }
    Ok(loaded)
}

/// The second tree.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub tree: Tree,
    pub left_out: Vec<String>,
}

pub fn patched(path: &Path, patch: &Patch) -> Result<Arc<[u8]>> {
    let data = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let data = elf::patch(&data, patch).map_err(|e| {
        Error::new(Kind::Environment, format!("cannot patch {}", path.display())).caused_by(e)
    })?;
    Ok(data.into())
}

impl RuntimeFile {
    pub fn on_disk(path: PathBuf, found: &Metadata) -> RuntimeFile {
        RuntimeFile::Disk { path, executable: found.permissions().mode() & 0o111 != 0 }
    }
}

/// Writes a tree to disk under `dest`, which is made.
pub fn materialise(tree: &Tree, dest: &Path) -> Result<()> {
    for (name, file) in tree {
        let path = dest.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("make", parent, e))?;
        }
        let write = |e| Error::io("write", &path, e);
        let executable = match file {
            RuntimeFile::Symlink { target } => {
                std::os::unix::fs::symlink(target, &path).map_err(write)?;
                continue;
            }
            RuntimeFile::Disk { path: from, executable } => {
                std::fs::copy(from, &path).map_err(|e| Error::io("copy", from, e))?;
                *executable
            }
            RuntimeFile::Bytes { data, executable } => {
                std::fs::write(&path, data).map_err(write)?;
                *executable
            }
        };
        let mode = if executable { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).map_err(write)?;
    }
    Ok(())
}
