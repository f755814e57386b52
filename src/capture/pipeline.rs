//! The whole capture, in order: environment, Python, scan, runtime, distributions, audit, lock.
use crate::capture::audit::{self, AuditReport, Unmet};
use crate::capture::comfy::model_paths;
use crate::capture::comfy::{Notes, ScanOptions, scan};
use crate::capture::files::left_out::LeftOut;
use crate::capture::files::paths::open_regular;
use crate::capture::index::lookup::{Ask, IndexReport};
use crate::capture::model::inventory::{Finding, GitState, ModelFolder, OutsidePath, Scan, Severity};
use crate::capture::model::lock::{
    CacheLock, GitLock, LOCK_VERSION, Lock, MainLock, NestedLock, PackLock, RuntimeLock, TreeRef, WeightLock,
};
use crate::capture::python::find::{self, PythonLocation};
use crate::capture::python::interpreter::InterpreterFacts;
use crate::capture::python::schemes;
use crate::capture::python::{self, Context, Python};
use crate::capture::runtime::given::Given;
use crate::capture::runtime::{RuntimeFile, RuntimePlan, ld_conf};
use crate::capture::trees::Trees;
use crate::capture::trees::memo::{Memo, stat_digest};
use crate::capture::trees::nar::path_of;
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::formats::elf::looks_like_elf;
use crate::formats::nix::store_path::{StoreDir, StorePathName};
use crate::sys::error::Result;
use crate::sys::progress::{Progress, check_interrupt};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub store_dir: StoreDir,
    pub interpreter: Option<PathBuf>,
    /// In place of a captured runtime.
    pub given: Option<Given>,
    pub libraries: Vec<String>,
    pub real_files: Vec<String>,
    pub exclude: Vec<String>,
    /// Files that the configuration names as secret.
    pub private: Vec<PathBuf>,
    /// The environment's cache, when it is not `.cache` in the environment.
    pub environment_cache: Option<PathBuf>,
    /// Cache folder of this program.
    pub cache: PathBuf,
    /// Ask no index: everything is captured.
    pub offline: bool,
}

/// A capture: the lock, and what a person should know.
#[derive(Debug)]
pub struct Captured {
    pub lock: Lock,
    pub scan: Scan,
    pub python: PythonLocation,
    /// What PYTHONUSERBASE is where the environment's interpreter looks there.
    pub user_base: Option<PathBuf>,
    pub findings: Vec<Finding>,
    pub audit: AuditReport,
    pub index: Option<IndexReport>,
    pub disabled: Vec<String>,
}

fn git_lock(state: &GitState) -> GitLock {
    GitLock { remote: state.remote.clone(), commit: state.commit.clone(), dirty: state.dirty }
}

/// What the lock has besides the Python side.
struct Entries {
    main: MainLock,
    packs: Vec<PackLock>,
    cache: Vec<CacheLock>,
}

struct Run<'a> {
    options: &'a Options,
    memo: &'a Memo,
    trees: &'a Trees,
    started: SystemTime,
    left_out: LeftOut,
}

/// Captures the environment at `root`.
pub fn capture(
    root: &Path,
    options: &Options,
    memo: &Memo,
    trees: &Trees,
    progress: &dyn Progress,
) -> Result<Captured> {
    let started = SystemTime::now();
    let root = &find::check(root)?;
    let left_out = LeftOut::of(root, &options.exclude, &options.private);
    let run = Run { options, memo, trees, started, left_out };
    progress.stage("finding the interpreter", None);
    let (location, mut findings) =
        find::find_python(root, options.interpreter.as_deref(), &|name| std::env::var_os(name))?;
    let facts = run.facts(root, &location)?;
    progress.stage("reading the environment", None);
    let mut python_folders: Vec<PathBuf> = location.venv.iter().cloned().collect();
    python_folders.push(facts.base_prefix.clone());
    let scan_options = ScanOptions {
        started_at: started,
        cache: options.environment_cache.clone(),
        python: python_folders,
        exclude: options.exclude.clone(),
        left_out: run.left_out.clone(),
    };
    let reuse =
        |key: &str, digest: &str| -> Option<GitState> { memo.get(&format!("git:{key}"), Some(digest)) };
    let mut scan = scan(root, &scan_options, &reuse)?;
    for read in &scan.git_reads {
        memo.put(&format!("git:{}", read.key), Some(&read.digest), &read.state);
    }
    findings.append(&mut scan.findings);
    check_interrupt()?;
    progress.stage("capturing runtime, packs and cache", None);
    // Side by side: each has stretches where one core waits for the index or for the store.
    let mut index = None;
    let (runtime, (distributions, entries)) = rayon::join(
        || run.runtime(&facts),
        || {
            rayon::join(
                || run.distributions(root, &location, &facts, progress, &mut index, &mut findings),
                || run.entries(&scan),
            )
        },
    );
    let (runtime, provided, mut about_runtime) = runtime?;
    let mut python = distributions?;
    let entries = entries?;
    findings.append(&mut about_runtime);
    findings.append(&mut python.findings);
    scan.outside.append(&mut python.outside);
    check_interrupt()?;
    let lock = Lock {
        version: LOCK_VERSION,
        system: format!("{}-linux", facts.machine),
        main: entries.main,
        runtime,
        unowned: python.unowned,
        packs: entries.packs,
        sources: python.sources,
        cache: entries.cache,
        distributions: python.distributions,
    };
    progress.stage("auditing libraries", None);
    let audit = run.audit(std::mem::take(&mut python.objects), &scan, &facts, provided, &mut findings)?;
    let disabled = scan.packs.iter().filter(|p| !p.enabled).map(|p| p.name.clone()).collect();
    findings.sort_by(|a, b| {
        (std::cmp::Reverse(a.severity), &a.topic, &a.path, &a.message).cmp(&(
            std::cmp::Reverse(b.severity),
            &b.topic,
            &b.path,
            &b.message,
        ))
    });
    findings.dedup();
    let user_base = python.user_base;
    Ok(Captured { lock, scan, python: location, user_base, findings, audit, index, disabled })
}

#[derive(Serialize, Deserialize)]
struct KeptRuntime {
    lock: RuntimeLock,
    provided: audit::Provided,
    findings: Vec<Finding>,
    paths: Vec<PathBuf>,
}

impl Run<'_> {
    /// Asking the interpreter costs a process: the answer is kept while its files stay the same. Not that of
    /// a script (pyenv's shim), which may start another one at any time.
    fn facts(&self, root: &Path, location: &PythonLocation) -> Result<InterpreterFacts> {
        if !is_program(&location.executable) {
            return InterpreterFacts::of_in(&location.executable, root);
        }
        let paths: Vec<PathBuf> = [location.executable.clone()]
            .into_iter()
            .chain(location.venv.iter().map(|v| v.join("pyvenv.cfg")))
            .collect();
        // Another question has another answer.
        let digest =
            stat_digest(InterpreterFacts::QUESTION, paths.iter().map(PathBuf::as_path), self.started);
        let kept = self.memo.get::<InterpreterFacts>("interpreter", digest.as_deref());
        if let Some(facts) = kept.filter(InterpreterFacts::still_holds) {
            self.memo.put("interpreter", digest.as_deref(), &facts);
            return Ok(facts);
        }
        let facts = InterpreterFacts::of(&location.executable)?;
        self.memo.put("interpreter", digest.as_deref(), &facts);
        Ok(facts)
    }

    fn runtime(&self, facts: &InterpreterFacts) -> Result<(RuntimeLock, audit::Provided, Vec<Finding>)> {
        if let Some(given) = &self.options.given {
            return given_runtime(given, facts, self.options);
        }
        let version = format!("{}.{}.{}", facts.version.0, facts.version.1, facts.version.2);
        // Another interpreter may be of the same version.
        let salt = format!("{:?}{facts:?}", self.options.libraries);
        let digest = |paths: &[PathBuf]| stat_digest(&salt, paths.iter().map(PathBuf::as_path), self.started);
        // Which paths count is itself part of the entry, so it is looked up under a fixed digest.
        if let Some(paths) = self.memo.get::<Vec<PathBuf>>("runtime-paths", Some(&salt)) {
            let now = digest(&paths);
            if let Some(kept) = self.memo.get::<KeptRuntime>("runtime", now.as_deref())
                && kept
                    .lock
                    .libraries
                    .iter()
                    .chain(&kept.lock.tree)
                    .all(|t| self.trees.known(t, &self.options.store_dir))
            {
                self.memo.put("runtime-paths", Some(&salt), &paths);
                self.memo.put("runtime", now.as_deref(), &kept);
                return Ok((kept.lock, kept.provided, kept.findings));
            }
        }
        let plan = RuntimePlan::new(facts.clone(), &self.options.libraries)?;
        let provided = plan.provided();
        let mut own: Vec<Finding> = plan
            .missing
            .iter()
            .map(|text| Finding {
                severity: Severity::Warning,
                topic: "runtime".into(),
                path: facts.executable.display().to_string(),
                message: format!("not on this machine: {text}"),
            })
            .collect();
        let store = &self.options.store_dir;
        let mut paths = vec![facts.executable.clone(), facts.stdlib.clone()];
        let base = convert(&plan.base, &mut paths);
        let libraries = self.trees.add("python-base-libraries", base, Vec::new(), store)?;
        let base_path = path_of(&libraries, store)?;
        let runtime = plan.runtime(&base_path.to_absolute(store))?;
        own.extend(runtime.left_out.iter().map(|text| Finding {
            severity: Severity::Info,
            topic: "runtime".into(),
            path: facts.stdlib.display().to_string(),
            message: format!("left out: {text}"),
        }));
        paths.extend(facts.lib_dynload.clone());
        if let Some(dir) = &facts.lib_dynload
            && let Ok(entries) = std::fs::read_dir(dir)
        {
            paths.extend(entries.flatten().map(|e| e.path()));
        }
        let tree = convert(&runtime.tree, &mut paths);
        let name = format!("python-runtime-{version}");
        let tree = self.trees.add(&name, tree, vec![base_path.to_string()], store)?;
        let lock = RuntimeLock { version, store_path: None, libraries: Some(libraries), tree: Some(tree) };
        // Folders too: a new module changes its folder's time.
        let folders: Vec<PathBuf> = paths.iter().filter_map(|p| p.parent().map(Path::to_path_buf)).collect();
        paths.extend(folders);
        paths.sort();
        paths.dedup();
        let now = digest(&paths);
        let kept = KeptRuntime { lock, provided, findings: own, paths };
        self.memo.put("runtime-paths", Some(&salt), &kept.paths);
        self.memo.put("runtime", now.as_deref(), &kept);
        Ok((kept.lock, kept.provided, kept.findings))
    }

    /// The tree's reference from the index when nothing changed, else hashed now.
    fn hashed(&self, key: &str, name: &str, digest: Option<&str>, tree: &Tree) -> Result<TreeRef> {
        check_interrupt()?;
        let store = &self.options.store_dir;
        if let Some(kept) = self.memo.get::<TreeRef>(key, digest)
            && self.trees.known(&kept, store)
        {
            self.memo.put(key, digest, &kept);
            return Ok(kept);
        }
        let name = StorePathName::sanitize(name).to_string();
        let hashed = self.trees.add(&name, tree.clone(), Vec::new(), store)?;
        self.memo.put(key, digest, &hashed);
        Ok(hashed)
    }

    /// The main program, the packs and the cache.
    fn entries(&self, scan: &Scan) -> Result<Entries> {
        let digest = scan.main.stat_digest.as_deref();
        let main = MainLock {
            version: scan.main.version.clone(),
            flags: scan.main.flags.clone(),
            tree: self.hashed("main", "comfyui", digest, &scan.main.tree)?,
            git: scan.main.git.as_ref().map(git_lock),
        };
        let packs: Vec<PackLock> = scan
            .packs
            .par_iter()
            .filter(|p| p.enabled)
            .map(|pack| {
                let digest = pack.stat_digest.as_deref();
                let tree = self.hashed(
                    &format!("pack:{}", pack.name),
                    &format!("pack-{}", pack.name),
                    digest,
                    &pack.tree,
                )?;
                let weights = pack
                    .weights
                    .iter()
                    .map(|w| {
                        let file = w.path.rsplit('/').next().unwrap_or("weight");
                        let key = format!("weight:{}/{}", pack.name, w.path);
                        Ok(WeightLock {
                            path: w.path.clone(),
                            tree: self.hashed(&key, file, digest, &w.tree)?,
                        })
                    })
                    .collect::<Result<_>>()?;
                Ok(PackLock {
                    name: pack.name.clone(),
                    kind: pack.kind,
                    tree,
                    git: pack.git.as_ref().map(git_lock),
                    weights,
                    nested: pack
                        .nested
                        .iter()
                        .map(|nested| NestedLock { path: nested.path.clone(), git: git_lock(&nested.git) })
                        .collect(),
                })
            })
            .collect::<Result<_>>()?;
        let cache: Vec<CacheLock> = scan
            .cache
            .par_iter()
            .map(|entry| {
                let name = entry.path.rsplit('/').next().unwrap_or("cache");
                let key = format!("cache:{}", entry.path);
                let tree = self.hashed(&key, name, entry.stat_digest.as_deref(), &entry.tree)?;
                Ok(CacheLock { path: entry.path.clone(), tree })
            })
            .collect::<Result<_>>()?;
        Ok(Entries { main, packs, cache })
    }

    /// Every installed distribution with its provenance.
    fn distributions(
        &self,
        root: &Path,
        location: &PythonLocation,
        facts: &InterpreterFacts,
        progress: &dyn Progress,
        index: &mut Option<IndexReport>,
        findings: &mut Vec<Finding>,
    ) -> Result<Python> {
        let options = self.options;
        let (schemes, user) = schemes::of(location, facts, &|name| std::env::var_os(name));
        let (all, behind) = python::installed(&schemes, findings);
        let prefix = location.venv.as_ref().unwrap_or(&facts.base_prefix);
        let ask = if options.offline { Ask::offline() } else { Ask::of(root, prefix, &schemes, facts)? };
        findings.extend(ask.findings());
        let models = model_paths::model_folders(root, &model_paths::extra_paths(root, &mut Notes::default()));
        let sites: Vec<PathBuf> = schemes.iter().map(|scheme| scheme.site.clone()).collect();
        let context = Context {
            store: &options.store_dir,
            memo: self.memo,
            trees: self.trees,
            progress,
            real_files: &options.real_files,
            environment: root,
            models: &models,
            left_out: &self.left_out,
            started: self.started,
            venv: location.venv.as_deref(),
            sites: &sites,
            behind: &behind,
            index: ask.key(),
        };
        let mut python = python::pin_all(&context, &all, |fresh| {
            ask.candidates(fresh, &options.cache, progress, index, findings)
        })?;
        // BASE/lib/pythonX.Y/site-packages.
        python.user_base = user.as_ref().and_then(|site| site.ancestors().nth(3)).map(Path::to_path_buf);
        python.outside.extend(user.map(|site| OutsidePath {
            from: "site-packages of the user".into(),
            to: site.display().to_string(),
            captured: true,
        }));
        Ok(python)
    }

    /// Every ELF file that ships against what ships beside it.
    fn audit(
        &self,
        objects: Vec<(String, PathBuf)>,
        scan: &Scan,
        facts: &InterpreterFacts,
        provided: audit::Provided,
        findings: &mut Vec<Finding>,
    ) -> Result<AuditReport> {
        let mut files: Vec<(String, PathBuf)> = objects;
        for pack in scan.packs.iter().filter(|p| p.enabled) {
            files.extend(audit::of_tree(&pack.tree, &format!("custom_nodes/{}/", pack.name)));
        }
        for entry in &scan.cache {
            files.extend(audit::of_tree(&entry.tree, &format!(".cache/{}/", entry.path)));
        }
        // By its place: a name of its own could be one of site-packages.
        files.extend(audit::of_tree(&scan.main.tree, &format!("{}/", scan.root.display())));
        files.sort();
        files.dedup_by(|a, b| a.0 == b.0);
        let digest = stat_digest(&format!("{provided:?}"), files.iter().map(|f| f.1.as_path()), self.started);
        let report = match self.memo.get::<AuditReport>("audit", digest.as_deref()) {
            Some(report) => report,
            None => audit::audit(files.into_iter(), &provided)?,
        };
        self.memo.put("audit", digest.as_deref(), &report);
        let mut add = |severity, path: &str, message: String| {
            findings.push(Finding { severity, topic: "audit".into(), path: path.into(), message });
        };
        let mut host = ld_conf::system_directories(Path::new("/"));
        // Conda's own libraries: its interpreter finds them beside itself.
        host.insert(0, facts.base_prefix.join("lib"));
        for Unmet { file, library } in &report.unmet {
            let there = host.iter().map(|dir| dir.join(library)).find(|path| path.exists());
            match there.map(|path| match &self.options.given {
                Some(given) => format!("the Python runtime {} must bring it", given.path),
                None => format!("add {} to [python] libraries", path.display()),
            }) {
                Some(advice) => add(
                    Severity::Problem,
                    file,
                    format!("needs {library}, which nothing in the snapshot has; {advice}"),
                ),
                // It does not load here either: optional parts of large wheels are like that.
                None => add(
                    Severity::Info,
                    file,
                    format!("needs {library}, which neither the snapshot nor this machine has"),
                ),
            }
        }
        for hidden in &report.hidden {
            add(
                Severity::Warning,
                &hidden.file,
                format!("its RUNPATH hides the snapshot's {}; the host's would be used", hidden.library),
            );
        }
        for (path, message) in in_words(&report) {
            add(Severity::Info, path, message);
        }
        for conflict in &report.conflicts {
            let path = if conflict.starts_with("CUDA") { "CUDA" } else { "GLIBC" };
            add(Severity::Warning, path, conflict.clone());
        }
        if let Some((floor, file)) = &report.glibc_floor
            && *floor > provided.glibc
        {
            add(
                Severity::Problem,
                file,
                format!(
                    "needs GLIBC {}.{}, the captured C library is {}.{}",
                    floor.0, floor.1, provided.glibc.0, provided.glibc.1
                ),
            );
        }
        Ok(report)
    }
}

/// What is no fault here, and may be one on a host.
fn in_words(report: &AuditReport) -> Vec<(&'static str, String)> {
    fn some<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
        const SHOWN: usize = 3;
        let more = all.len().saturating_sub(SHOWN);
        let shown = all.take(SHOWN).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    }
    let mut out = Vec::new();
    let programs = &report.host_programs;
    if let Some(first) = programs.first() {
        let files = some(programs.iter().map(|p| p.file.as_str()));
        let message = format!("start through the host's own dynamic linker ({}): {files}", first.interp);
        out.push(("programs", message));
    }
    if !report.passed_over.is_empty() {
        let files = some(report.passed_over.iter().map(String::as_str));
        out.push(("libraries", format!("damaged, or for another machine, and not audited: {files}")));
    }
    out
}

fn is_program(path: &Path) -> bool {
    let mut magic = Vec::new();
    let file = open_regular(path).map(|file| file.take(4).read_to_end(&mut magic));
    file.is_ok_and(|read| read.is_ok()) && looks_like_elf(&magic)
}

/// Nothing of this machine's interpreter ships then, so nothing of it counts.
fn given_runtime(
    given: &Given,
    facts: &InterpreterFacts,
    options: &Options,
) -> Result<(RuntimeLock, audit::Provided, Vec<Finding>)> {
    given.fits(facts)?;
    let (major, minor, micro) = given.facts.version;
    let lock = RuntimeLock {
        version: format!("{major}.{minor}.{micro}"),
        store_path: Some(given.path.clone()),
        libraries: None,
        tree: None,
    };
    let unused = options.libraries.iter().map(|library| Finding {
        severity: Severity::Warning,
        topic: "runtime".into(),
        path: library.clone(),
        message: format!("does not ship: the Python runtime {} brings its own libraries", given.path),
    });
    Ok((lock, given.provided.clone(), unused.collect()))
}

/// The runtime plan's trees in the capture's own form.
fn convert(from: &crate::capture::runtime::Tree, paths: &mut Vec<PathBuf>) -> Tree {
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

/// Bytes and files of a list, for reports.
pub fn total(folders: &[ModelFolder]) -> (u64, u64) {
    folders.iter().fold((0, 0), |(f, b), m| (f + m.files, b + m.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_fault_on_a_host_is_said_in_two_lines() {
        assert!(in_words(&AuditReport::default()).is_empty());
        let program = |file: &str| audit::HostProgram { file: file.into(), interp: "/lib64/ld.so".into() };
        let report = AuditReport {
            host_programs: ["a/x", "a/y", "b/z", "c/w"].map(program).to_vec(),
            passed_over: vec!["d/arm.so".into()],
            ..AuditReport::default()
        };
        let wanted = [
            (
                "programs",
                "start through the host's own dynamic linker (/lib64/ld.so): a/x, a/y, b/z and 1 more",
            ),
            ("libraries", "damaged, or for another machine, and not audited: d/arm.so"),
        ];
        assert_eq!(in_words(&report), wanted.map(|(path, text)| (path, text.to_string())));
    }
}
