//! The whole capture, in order: environment, Python, scan, runtime, distributions, audit, lock.
use crate::capture::audit::report::Bring;
use crate::capture::audit::{self, AuditReport};
use crate::capture::comfy;
use crate::capture::comfy::context::{Notes, ScanOptions};
use crate::capture::comfy::model_paths;
use crate::capture::files::clean::Clean;
use crate::capture::files::left_out::LeftOut;
use crate::capture::files::own_path::{Own, OwnKind, OwnPaths};
use crate::capture::files::paths::open_regular;
use crate::capture::index::lookup::{Ask, IndexReport};
use crate::capture::index::provenance::Want;
use crate::capture::model::inventory::{GitState, ModelFolder, OutsidePath, Scan};
use crate::capture::model::lock::{LOCK_VERSION, Lock};
use crate::capture::model::report::Finding;
use crate::capture::python;
use crate::capture::python::context::{Context, Python};
use crate::capture::python::find::{self, PythonLocation};
use crate::capture::python::installed::Scheme;
use crate::capture::python::interpreter::InterpreterFacts;
use crate::capture::python::python_path;
use crate::capture::python::schemes;
use crate::capture::runtime::given::Given;
use crate::capture::runtime::ld_conf;
use crate::capture::runtime::lock::{Locked, Locking};
use crate::capture::system;
use crate::capture::trees::Trees;
use crate::capture::trees::memo::{Memo, stat_digest};
use crate::capture::trees::nar::path_of;
use crate::capture::trees::tree::{Entry, Tree, TreeRef};
use crate::formats::credentials::redacted;
use crate::formats::elf::looks_like_elf;
use crate::formats::nix::store_path::StoreDir;
use crate::sys::error::Result;
use crate::sys::places::Place;
use crate::sys::progress::{Amount, Progress, check_interrupt};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub store_dir: StoreDir,
    pub interpreter: Option<PathBuf>,
    /// In place of a captured runtime.
    pub given: Option<Given>,
    pub libraries: Vec<String>,
    /// Programs of this machine that ship, by name or path.
    pub programs: Vec<String>,
    /// Files and folders of this machine's system that ship.
    pub system_files: Vec<String>,
    pub real_files: Vec<String>,
    pub exclude: Vec<String>,
    /// What ships though it looks like a secret.
    pub allow_secrets: Vec<String>,
    /// Values of files that do not ship, by file.
    pub redact: BTreeMap<String, Vec<String>>,
    /// Files in which an instance finds its own places.
    pub own_paths: Vec<String>,
    /// The environment as it was named, which may be by a link.
    pub named: PathBuf,
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
    /// The virtual environment, if it is one.
    pub venv: Option<PathBuf>,
    /// What PYTHONUSERBASE is where the environment's interpreter looks there.
    pub user_base: Option<PathBuf>,
    /// Where its distributions are, in the order of `sys.path`.
    pub sites: Vec<PathBuf>,
    /// The folders of PYTHONPATH that are captured.
    pub python_path: Vec<PathBuf>,
    pub findings: Vec<Finding>,
    pub audit: AuditReport,
    pub index: Option<IndexReport>,
    pub disabled: Vec<String>,
    /// What the interpreter says of itself.
    pub facts: InterpreterFacts,
    /// Names of the libraries that ship with it.
    pub provided: BTreeSet<String>,
}

impl Captured {
    /// What PYTHONPATH must be for the environment's interpreter to find all that is captured, behind what the service's
    /// own (`own`) names; none where nothing of it is captured.
    pub fn search_path(&self, own: Option<&String>) -> Option<String> {
        let captured = self.python_path.iter().map(|path| path.display().to_string());
        let all: Vec<String> = own.cloned().into_iter().chain(captured).collect();
        (!self.python_path.is_empty()).then(|| all.join(":"))
    }
}

/// Each file of this entry of the memo says itself whether it counts; the digest is of the detector.
const CLEAN: &str = "without credentials";
const CLEAN_DIGEST: &str = "2";

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
    let left_out =
        LeftOut::of(root, &options.exclude, &options.private).allowing(root, &options.allow_secrets);
    let left_out = left_out.redacting(root, &options.redact);
    let mut run = Run { options, memo, trees, started, left_out };
    progress.stage("finding the interpreter", Amount::Unknown);
    let (location, mut findings) =
        find::find_python(root, options.interpreter.as_deref(), &|name| std::env::var_os(name))?;
    let facts = run.facts(root, &location)?;
    progress.stage("reading the environment", Amount::Unknown);
    let (python_path, mut about_path) = python_path::read(std::env::var_os("PYTHONPATH").as_deref(), root);
    let sites = schemes::of(&facts, &location.executable, &python_path);
    let places: Vec<PathBuf> = sites.iter().map(|scheme| scheme.site.clone()).collect();
    findings.extend(find::compare(&facts, &places)?);
    findings.append(&mut about_path);
    let own = Arc::new(run.own_paths(root, &facts, &places));
    // Whether a file is worth a word depends on it.
    let clean_digest = format!("{CLEAN_DIGEST}\n{}", own.fingerprint());
    let clean = Clean::new(memo.get(CLEAN, Some(&clean_digest)).unwrap_or_default(), started);
    run.left_out = std::mem::take(&mut run.left_out).remembering(clean.clone()).knowing(own.clone());
    let run = run;
    let mut scan = run.scan(root, &facts)?;
    findings.append(&mut scan.findings);
    check_interrupt()?;
    progress.stage("capturing runtime, packs and cache", Amount::Unknown);
    // Side by side: each has stretches where one core waits for the index or for the store.
    let mut index = None;
    let ((runtime, system), (distributions, entries)) = rayon::join(
        || (run.runtime().lock(&facts), run.system(root)),
        || {
            rayon::join(
                || run.distributions(root, &sites, &facts, progress, &mut index, &mut findings),
                || comfy::lock::Locking { memo, trees, store: &options.store_dir }.entries(&scan),
            )
        },
    );
    let Locked { lock: runtime, provided, findings: mut about_runtime } = runtime?;
    let mut python = distributions?;
    let (entries, mut system) = (entries?, system?);
    findings.append(&mut about_runtime);
    findings.append(&mut system.findings);
    findings.append(&mut python.findings);
    findings.extend(own.idle());
    scan.outside.append(&mut python.outside);
    scan.outside.append(&mut system.outside);
    let user = facts.user_site.as_ref().filter(|user| places.contains(user));
    let outside = |from: &str, to: &Path| OutsidePath {
        from: from.into(),
        to: to.display().to_string(),
        captured: true,
    };
    scan.outside.extend(user.map(|site| outside("site-packages of the user", site)));
    scan.outside.extend(python_path.iter().map(|site| outside("PYTHONPATH", site)));
    let user_base = user.and(facts.user_base.clone());
    check_interrupt()?;
    let mut lock = Lock {
        version: LOCK_VERSION,
        system: format!("{}-linux", facts.machine),
        main: entries.main,
        runtime,
        unowned: python.unowned,
        library_links: None,
        packs: entries.packs,
        sources: python.sources,
        cache: entries.cache,
        programs: system.programs,
        program_libraries: system.libraries,
        system_files: system.files,
        distributions: python.distributions,
    };
    progress.stage("auditing libraries", Amount::Unknown);
    let names = provided.names.clone();
    let audit = run.audit(std::mem::take(&mut python.objects), &scan, &facts, provided, &mut findings)?;
    lock.library_links = run.library_links(&audit, &lock)?;
    let disabled = scan.packs.iter().filter(|p| !p.enabled).map(|p| p.name.clone()).collect();
    // Messages quote what others wrote.
    findings.iter_mut().for_each(|finding| finding.message = redacted(&finding.message));
    findings.sort_by(|a, b| {
        let severity = std::cmp::Reverse(a.severity).cmp(&std::cmp::Reverse(b.severity));
        severity.then_with(|| (&a.topic, &a.path, &a.message).cmp(&(&b.topic, &b.path, &b.message)))
    });
    findings.dedup();
    memo.put(CLEAN, Some(&clean_digest), &clean.seen());
    let venv = facts.venv().map(Path::to_path_buf);
    Ok(Captured {
        lock,
        scan,
        python: location,
        venv,
        user_base,
        sites: places,
        python_path,
        findings,
        audit,
        index,
        disabled,
        facts,
        provided: names,
    })
}

impl Run<'_> {
    /// The environment's folders, for texts that name them.
    fn own_paths(&self, root: &Path, facts: &InterpreterFacts, sites: &[PathBuf]) -> OwnPaths {
        let own = |folder: &Path, kind: OwnKind| Own { folder: folder.to_path_buf(), kind };
        let mut folders =
            vec![own(root, OwnKind::Environment), own(&self.options.named, OwnKind::Environment)];
        // A pack may lie elsewhere, behind a link.
        let packs = std::fs::read_dir(root.join("custom_nodes")).into_iter().flatten().flatten();
        for pack in packs.filter(|pack| pack.path().is_symlink()) {
            if let (Ok(real), Ok(name)) = (pack.path().canonicalize(), pack.file_name().into_string()) {
                folders.push(own(&real, OwnKind::At(Place::Base, format!("custom_nodes/{name}"))));
            }
        }
        folders.extend(facts.venv().map(|venv| own(venv, OwnKind::Python)));
        let site = format!("lib/python{}.{}/site-packages", facts.version.0, facts.version.1);
        folders.extend(sites.iter().map(|folder| own(folder, OwnKind::At(Place::Python, site.clone()))));
        OwnPaths::of(&folders, std::env::var_os("HOME").as_deref(), &self.options.own_paths)
    }

    /// The environment but its distributions; what git says of an unchanged repository is remembered.
    fn scan(&self, root: &Path, facts: &InterpreterFacts) -> Result<Scan> {
        let python = vec![facts.prefix.clone(), facts.base_prefix.clone()];
        let options = ScanOptions {
            started_at: self.started,
            cache: self.options.environment_cache.clone(),
            python,
            exclude: self.options.exclude.clone(),
            left_out: self.left_out.clone(),
        };
        let reuse = |key: &str, digest: &str| -> Option<GitState> {
            self.memo.get(&format!("git:{key}"), Some(digest))
        };
        let scan = comfy::scan(root, &options, &reuse)?;
        for read in &scan.git_reads {
            self.memo.put(&format!("git:{}", read.key), Some(&read.digest), &read.state);
        }
        Ok(scan)
    }

    /// Asking the interpreter costs a process: the answer is kept while its files stay the same. Not that of
    /// a script (pyenv's shim), which may start another one at any time.
    fn facts(&self, root: &Path, location: &PythonLocation) -> Result<InterpreterFacts> {
        if !is_program(&location.executable) {
            return InterpreterFacts::of_in(&location.executable, root);
        }
        // Where Python looks for it.
        let configs = location.executable.ancestors().skip(1).take(2).map(|folder| folder.join("pyvenv.cfg"));
        let paths: Vec<PathBuf> = std::iter::once(location.executable.clone()).chain(configs).collect();
        // Another question has another answer.
        let variables = InterpreterFacts::VARIABLES.map(std::env::var_os);
        let salt = format!("{}{variables:?}", InterpreterFacts::QUESTION);
        let digest = stat_digest(&salt, paths.iter().map(PathBuf::as_path), self.started);
        let kept = self.memo.get::<InterpreterFacts>("interpreter", digest.as_deref());
        if let Some(facts) = kept.filter(InterpreterFacts::still_holds) {
            self.memo.put("interpreter", digest.as_deref(), &facts);
            return Ok(facts);
        }
        let facts = InterpreterFacts::of(&location.executable)?;
        self.memo.put("interpreter", digest.as_deref(), &facts);
        Ok(facts)
    }

    /// Every installed distribution with its provenance.
    fn distributions(
        &self,
        root: &Path,
        schemes: &[Scheme],
        facts: &InterpreterFacts,
        progress: &dyn Progress,
        index: &mut Option<IndexReport>,
        findings: &mut Vec<Finding>,
    ) -> Result<Python> {
        let options = self.options;
        let (all, behind, leftovers) = python::installed(schemes, &self.left_out, findings);
        let sites: Vec<PathBuf> = schemes.iter().map(|scheme| scheme.site.clone()).collect();
        let ask = match options.offline {
            true => Ask::offline(),
            false => Ask::of(root, &facts.prefix, &sites, &facts.stdlib)?,
        };
        findings.extend(ask.findings());
        let models = models(root);
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
            venv: facts.venv(),
            sites: &sites,
            behind: &behind,
            leftovers: &leftovers,
            index: ask.key(),
        };
        python::pin_all(&context, &all, |fresh| {
            let wants: Vec<Want> = fresh.iter().map(|one| one.want(facts)).collect();
            ask.candidates(&wants, &options.cache, progress, index, findings)
        })
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
            let label = format!("custom_nodes/{}/", pack.name);
            // A line of its own tells of an interpreter of the pack's own: it needs more than libraries.
            let own = |name: &str| {
                let inner = name.strip_prefix(&label).unwrap_or(name).as_bytes();
                pack.pythons.iter().any(|python| python.is(inner))
            };
            files.extend(audit::of_tree(&pack.tree, &label).into_iter().filter(|(name, _)| !own(name)));
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
        let mut host = ld_conf::system_directories(Path::new("/"));
        // Conda's own libraries: its interpreter finds them beside itself.
        host.insert(0, facts.base_prefix.join("lib"));
        let here = |library: &str| host.iter().map(|dir| dir.join(library)).find(|path| path.exists());
        let bring = match &self.options.given {
            Some(given) => Bring::Runtime(&given.path),
            None => Bring::Libraries(&self.options.libraries),
        };
        findings.extend(audit::report::findings(&report, &provided, &bring, here));
        Ok(report)
    }

    /// What brings base libraries within reach of objects that look for them in folders of their own alone. A runtime
    /// that was given has its libraries where only it knows.
    fn library_links(&self, audit: &AuditReport, lock: &Lock) -> Result<Option<TreeRef>> {
        let Some(libraries) = lock.runtime.libraries.as_ref().filter(|_| !audit.links.is_empty()) else {
            return Ok(None);
        };
        let base = path_of(libraries, &self.options.store_dir)?;
        let mut tree = Tree::default();
        for at in &audit.links {
            let name = at.rsplit('/').next().unwrap_or_default();
            let target = format!("{}/lib/{name}", base.to_absolute(&self.options.store_dir));
            tree.insert(at, Entry::Symlink(target.into_bytes()));
        }
        let store = &self.options.store_dir;
        self.trees.add("python-library-links", tree, vec![base.to_string()], store).map(Some)
    }

    /// What of this machine's own ships.
    fn system(&self, root: &Path) -> Result<system::Locked> {
        let locking = system::Locking {
            memo: self.memo,
            trees: self.trees,
            store: &self.options.store_dir,
            started: self.started,
            programs: &self.options.programs,
            files: &self.options.system_files,
            left_out: &self.left_out,
            models: &models(root),
        };
        locking.lock()
    }

    fn runtime(&self) -> Locking<'_> {
        Locking {
            memo: self.memo,
            trees: self.trees,
            store: &self.options.store_dir,
            started: self.started,
            libraries: &self.options.libraries,
            given: self.options.given.as_ref(),
        }
    }
}

/// The folders of models, wherever they are.
fn models(root: &Path) -> Vec<PathBuf> {
    model_paths::model_folders(root, &model_paths::extra_paths(root, &mut Notes::default()))
}

fn is_program(path: &Path) -> bool {
    let mut magic = Vec::new();
    let file = open_regular(path).map(|file| file.take(4).read_to_end(&mut magic));
    file.is_ok_and(|read| read.is_ok()) && looks_like_elf(&magic)
}

/// Bytes and files of a list, for reports.
pub fn total(folders: &[ModelFolder]) -> (u64, u64) {
    folders.iter().fold((0, 0), |(f, b), m| (f + m.files, b + m.bytes))
}
