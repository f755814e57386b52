//! The runtime's part of the lock: known from the last run, captured anew, or given as a store path.
use crate::capture::audit::Provided;
use crate::capture::model::lock::RuntimeLock;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::interpreter::InterpreterFacts;
use crate::capture::runtime::given::Given;
use crate::capture::runtime::{RuntimeFile, RuntimePlan};
use crate::capture::trees::Trees;
use crate::capture::trees::memo::{Memo, stat_digest};
use crate::capture::trees::nar::path_of;
use crate::capture::trees::tree::{Entry, Source, Tree, TreeRef};
use crate::formats::nix::store_path::StoreDir;
use crate::sys::error::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the caller decides, and where the trees go.
pub struct Locking<'a> {
    pub memo: &'a Memo,
    pub trees: &'a Trees,
    pub store: &'a StoreDir,
    pub started: SystemTime,
    /// Further libraries, by path or soname.
    pub libraries: &'a [String],
    /// In place of a captured runtime.
    pub given: Option<&'a Given>,
}

/// What the lock says, what the audit may count on, and what a person should know.
#[derive(Serialize, Deserialize)]
pub struct Locked {
    pub lock: RuntimeLock,
    pub provided: Provided,
    pub findings: Vec<Finding>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    locked: Locked,
    /// The files it was made of, and their folders.
    paths: Vec<PathBuf>,
}

impl Locking<'_> {
    pub fn lock(&self, facts: &InterpreterFacts) -> Result<Locked> {
        if let Some(given) = self.given {
            return self.given(given, facts);
        }
        // Another interpreter may be of the same version.
        let salt = format!("{:?}{facts:?}", self.libraries);
        let digest = |paths: &[PathBuf]| stat_digest(&salt, paths.iter().map(PathBuf::as_path), self.started);
        // Which paths count is itself part of the entry, so it is looked up under a fixed digest.
        let before = self.memo.get::<Vec<PathBuf>>("runtime-paths", Some(&salt)).and_then(|paths| {
            let now = digest(&paths);
            let kept = self.memo.get::<Kept>("runtime", now.as_deref())?;
            self.is_there(&kept.locked.lock).then_some((kept, now))
        });
        let (kept, now) = match before {
            Some(before) => before,
            None => {
                let kept = self.capture(facts)?;
                let now = digest(&kept.paths);
                (kept, now)
            }
        };
        self.memo.put("runtime-paths", Some(&salt), &kept.paths);
        self.memo.put("runtime", now.as_deref(), &kept);
        Ok(kept.locked)
    }

    fn is_there(&self, lock: &RuntimeLock) -> bool {
        let mut trees = lock.libraries.iter().chain(&lock.tree).chain(&lock.further).chain(&lock.interpreter);
        trees.all(|tree: &TreeRef| self.trees.known(tree, self.store))
    }

    fn capture(&self, facts: &InterpreterFacts) -> Result<Kept> {
        let version = format!("{}.{}.{}", facts.version.0, facts.version.1, facts.version.2);
        let plan = RuntimePlan::new(facts.clone(), self.libraries)?;
        let provided = plan.provided();
        let note = |severity, path: &Path, message| Finding {
            severity,
            topic: Topic::Runtime,
            path: path.display().to_string(),
            message,
        };
        let missing = plan.missing.iter().map(|text| format!("not on this machine: {text}"));
        let mut findings: Vec<Finding> =
            missing.map(|text| note(Severity::Warning, &facts.executable, text)).collect();
        let mut paths = vec![facts.executable.clone(), facts.stdlib.clone()];
        let base = convert(&plan.base, &mut paths);
        let libraries = self.trees.add("python-base-libraries", base, Vec::new(), self.store)?;
        let base_path = path_of(&libraries, self.store)?;
        let runtime = plan.runtime(&base_path.to_absolute(self.store))?;
        let left_out = runtime.left_out.iter().map(|text| format!("left out: {text}"));
        findings.extend(left_out.map(|text| note(Severity::Info, &facts.stdlib, text)));
        paths.extend(facts.lib_dynload.clone());
        if let Some(dir) = &facts.lib_dynload
            && let Ok(entries) = std::fs::read_dir(dir)
        {
            paths.extend(entries.flatten().map(|e| e.path()));
        }
        let tree = convert(&runtime.tree, &mut paths);
        let name = format!("python-runtime-{version}");
        let tree = self.trees.add(&name, tree, vec![base_path.to_string()], self.store)?;
        let (mut further, mut interpreter) = (None, None);
        if !plan.further.is_empty() {
            let libraries = convert(&plan.further, &mut paths);
            let libraries = self.trees.add("python-libraries", libraries, Vec::new(), self.store)?;
            let all = [base_path, path_of(&tree, self.store)?, path_of(&libraries, self.store)?];
            let [base, runtime, own] = all.each_ref().map(|path| path.to_absolute(self.store));
            let program = convert(&plan.interpreter(&base, &runtime, &own)?, &mut paths);
            let references = all.iter().map(ToString::to_string).collect();
            interpreter = Some(self.trees.add("python-interpreter", program, references, self.store)?);
            further = Some(libraries);
        }
        let (libraries, tree) = (Some(libraries), Some(tree));
        let lock = RuntimeLock { version, store_path: None, libraries, tree, further, interpreter };
        // Folders too: a new module changes its folder's time.
        let folders: Vec<PathBuf> = paths.iter().filter_map(|p| p.parent().map(Path::to_path_buf)).collect();
        paths.extend(folders);
        paths.sort();
        paths.dedup();
        Ok(Kept { locked: Locked { lock, provided, findings }, paths })
    }

    /// Nothing of this machine's interpreter ships then, so nothing of it counts.
    fn given(&self, given: &Given, facts: &InterpreterFacts) -> Result<Locked> {
        given.fits(facts)?;
        let (major, minor, micro) = given.facts.version;
        let lock = RuntimeLock {
            version: format!("{major}.{minor}.{micro}"),
            store_path: Some(given.path.clone()),
            libraries: None,
            tree: None,
            further: None,
            interpreter: None,
        };
        let unused = self.libraries.iter().map(|library| Finding {
            severity: Severity::Warning,
            topic: Topic::Runtime,
            path: library.clone(),
            message: format!("does not ship: the Python runtime {} brings its own libraries", given.path),
        });
        Ok(Locked { lock, provided: given.provided.clone(), findings: unused.collect() })
    }
}

/// The runtime plan's trees in the capture's own form.
pub fn convert(from: &crate::capture::runtime::Tree, paths: &mut Vec<PathBuf>) -> Tree {
    let mut tree = Tree::default();
    for (name, file) in from {
        let entry = match file {
            RuntimeFile::Disk { path, executable } => {
                paths.push(path.clone());
                Entry::File { source: Source::Disk(path.clone()), executable: *executable }
            }
            RuntimeFile::Bytes { data, executable } => {
                Entry::File { source: Source::Bytes(data.clone()), executable: *executable }
            }
            RuntimeFile::Symlink { target } => Entry::Symlink(target.clone().into_bytes()),
        };
        tree.insert(name, entry);
    }
    tree
}
