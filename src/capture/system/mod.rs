//! What ships of the workstation's own system because the configuration names it: programs with their shared libraries,
//! and files and folders.
//!
//! A program is a tree of its own, `bin/NAME`, patched to be loaded by the dynamic linker and with the libraries of
//! another tree. That has the whole C library too, in whatever runtime the service's Python is: programs bring their
//! own, and nothing of the two is ever in one process. Programs in folders that ship are patched alike.
mod files;
mod libraries;
mod programs;

use crate::capture::files::left_out::LeftOut;
use crate::capture::files::paths::{finding, show_in};
use crate::capture::model::inventory::OutsidePath;
use crate::capture::model::lock::{ProgramLock, SystemFileLock};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::runtime::lock::convert;
use crate::capture::runtime::patched;
use crate::capture::system::files::{Reading, SystemTree, outermost};
use crate::capture::system::libraries::{Groups, Libraries, Native};
use crate::capture::system::programs::{Form, Program, with_first_line};
use crate::capture::trees::Trees;
use crate::capture::trees::memo::{Memo, stat_digest};
use crate::capture::trees::nar::path_of;
use crate::capture::trees::tree::{Entry, Source, Tree, TreeRef};
use crate::formats::elf::Patch;
use crate::formats::nix::store_path::{StoreDir, StorePath, StorePathName};
use crate::sys::error::Result;
use crate::sys::progress::check_interrupt;
use std::path::PathBuf;
use std::time::SystemTime;

/// What is asked for, and where the trees go.
pub struct Locking<'a> {
    pub memo: &'a Memo,
    pub trees: &'a Trees,
    pub store: &'a StoreDir,
    pub started: SystemTime,
    pub programs: &'a [String],
    pub files: &'a [String],
    pub left_out: &'a LeftOut,
    /// The folders of models, canonical.
    pub models: &'a [PathBuf],
}

#[derive(Debug, Default)]
pub struct Locked {
    pub programs: Vec<ProgramLock>,
    pub libraries: Vec<TreeRef>,
    pub files: Vec<SystemFileLock>,
    pub findings: Vec<Finding>,
    pub outside: Vec<OutsidePath>,
}

/// A tree of libraries in the store.
struct Home {
    path: StorePath,
    /// Its `lib`.
    folder: String,
}

impl Locking<'_> {
    pub fn lock(&self) -> Result<Locked> {
        let programs = programs::find(self.programs)?;
        let reading = Reading { left_out: self.left_out, models: self.models, started: self.started };
        let mut files = Vec::new();
        for at in outermost(self.files) {
            check_interrupt()?;
            files.push(reading.read(&at)?);
        }
        let mut groups = Groups::default();
        let of_programs = programs.iter().filter_map(|program| match &program.form {
            Form::Native(native) => Some(native),
            _ => None,
        });
        let natives = of_programs.chain(files.iter().flat_map(|files| files.natives.values()));
        natives.for_each(|native| groups.join(&native.libraries));
        let mut out = Locked::default();
        let mut homes = Vec::new();
        for (at, group) in groups.0.iter().enumerate() {
            homes.push(self.home(at, group, &mut out)?);
        }
        let homes = Homes { groups, homes };
        self.programs(&programs, &homes, &mut out)?;
        for tree in files {
            check_interrupt()?;
            self.files(tree, &homes, &mut out)?;
        }
        Ok(out)
    }

    /// The tree of one set of libraries.
    fn home(&self, at: usize, group: &Libraries, out: &mut Locked) -> Result<Home> {
        let names: Vec<&String> = group.keys().collect();
        let digest = stat_digest(&format!("{names:?}"), group.values().map(PathBuf::as_path), self.started);
        let make = || Ok(convert(&libraries::tree(group)?, &mut Vec::new()));
        let key = format!("program-libraries:{at}");
        let tree = self.kept(&key, "program-libraries", digest.as_deref(), Vec::new(), make)?;
        let path = path_of(&tree, self.store)?;
        let folder = format!("{}/lib", path.to_absolute(self.store));
        out.libraries.push(tree);
        Ok(Home { path, folder })
    }

    fn programs(&self, programs: &[Program], homes: &Homes, out: &mut Locked) -> Result<()> {
        let mut ready: Vec<(&Program, StorePath)> = Vec::new();
        let scripts = |program: &&Program| matches!(program.form, Form::Script(_));
        // A script names the program that runs it.
        for program in programs.iter().filter(|p| !scripts(p)).chain(programs.iter().filter(scripts)) {
            check_interrupt()?;
            let tree = self.program(program, homes, &ready, out)?;
            ready.push((program, path_of(&tree, self.store)?));
            out.programs.push(ProgramLock { name: program.name.clone(), tree });
            out.outside.push(OutsidePath {
                from: format!("program {}", program.name),
                to: program.file.display().to_string(),
                captured: true,
            });
        }
        out.programs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    fn program(
        &self,
        program: &Program,
        homes: &Homes,
        ready: &[(&Program, StorePath)],
        out: &mut Locked,
    ) -> Result<TreeRef> {
        let at = format!("bin/{}", program.name);
        let (mut references, mut line) = (Vec::new(), None);
        let shown = program.found.display().to_string();
        match &program.form {
            Form::Native(native) => {
                out.findings.extend(missing(native, &shown));
                references.extend(homes.of(native).map(|home| home.path.to_string()));
            }
            Form::Static => {}
            Form::Script(interpreter) if interpreter.is_everywhere() => {}
            Form::Script(interpreter) => match ready.iter().find(|(other, _)| interpreter.is(other)) {
                Some((other, path)) => {
                    let place = format!("{}/bin/{}", path.to_absolute(self.store), other.name);
                    line = Some(interpreter.line(&place));
                    references.push(path.to_string());
                }
                None => {
                    let text = format!(
                        "a script that {} runs, which a host need not have: name that in [service] programs, too, and \
                         what it reads in system-files",
                        interpreter.program
                    );
                    out.findings.push(finding(Severity::Problem, Topic::Audit, &shown, text));
                }
            },
        }
        let key = format!("program:{}", program.name);
        let digest = stat_digest(
            &format!("{references:?}{line:?}"),
            std::iter::once(program.file.as_path()),
            self.started,
        );
        let make = || {
            let mut tree = Tree::default();
            match (&program.form, &line) {
                (Form::Native(native), _) => tree.insert(&at, loaded_from(native, homes)?),
                (_, Some(line)) => tree.bytes(&at, with_first_line(&program.file, line)?, true),
                (_, None) => tree.disk(&at, &program.file, true),
            }
            Ok(tree)
        };
        let name = format!("program-{}", program.name);
        self.kept(&key, &name, digest.as_deref(), references.clone(), make)
    }

    fn files(&self, found: SystemTree, homes: &Homes, out: &mut Locked) -> Result<()> {
        let SystemTree { at, mut tree, digest, natives, findings, outside } = found;
        out.findings.extend(findings);
        out.outside.push(OutsidePath { from: "system-files".into(), to: at.clone(), captured: true });
        out.outside.extend(outside);
        let mut references = Vec::new();
        for (path, native) in &natives {
            out.findings.extend(missing(native, &show_in(&at, path)));
            references.extend(homes.of(native).map(|home| home.path.to_string()));
        }
        references.sort();
        references.dedup();
        let digest = digest.map(|digest| format!("{digest}{references:?}"));
        let make = || {
            for (path, native) in &natives {
                tree.insert(path, loaded_from(native, homes)?);
            }
            Ok(tree)
        };
        let key = format!("system-files:{at}");
        let name = format!("system{}", at.replace('/', "-"));
        let tree = self.kept(&key, &name, digest.as_deref(), references.clone(), make)?;
        out.files.push(SystemFileLock { at, tree });
        Ok(())
    }

    /// The tree of the last run where nothing has changed since.
    fn kept(
        &self,
        key: &str,
        name: &str,
        digest: Option<&str>,
        references: Vec<String>,
        make: impl FnOnce() -> Result<Tree>,
    ) -> Result<TreeRef> {
        let tree = match self.trees.remembered(self.memo, key, digest, self.store) {
            Some(kept) => kept,
            None => {
                let name = StorePathName::sanitize(name).to_string();
                self.trees.add(&name, make()?, references, self.store)?
            }
        };
        self.memo.put(key, digest, &tree);
        Ok(tree)
    }
}

/// Which tree has the libraries of which program.
struct Homes {
    groups: Groups,
    homes: Vec<Home>,
}

impl Homes {
    fn of(&self, native: &Native) -> Option<&Home> {
        self.homes.get(self.groups.of(&native.libraries)?)
    }
}

/// A program that finds its linker and its libraries in their tree.
fn loaded_from(native: &Native, homes: &Homes) -> Result<Entry> {
    let Some(Home { folder, .. }) = homes.of(native) else {
        return Ok(Entry::File { source: Source::Disk(native.file.clone()), executable: true });
    };
    let patch = Patch {
        interp: Some(format!("{folder}/{}", native.loader)),
        rpath: Some(folder.clone()),
        add_needed: Vec::new(),
    };
    Ok(Entry::File { source: Source::Bytes(patched(&native.file, &patch)?), executable: true })
}

fn missing(native: &Native, shown: &str) -> Vec<Finding> {
    let line = |lost: &String| {
        let text = format!("needs {lost}, which is not on this machine: the program does not start");
        finding(Severity::Problem, Topic::Audit, shown, text)
    };
    native.missing.iter().map(line).collect()
}
