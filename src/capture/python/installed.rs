//! The distributions installed in an environment, read from their metadata directories (PEP 376,
//! PEP 627): which files each owns, where an installer put them, and where they lie in the wheel's own
//! layout. Nothing is imported and nothing is run.
use crate::capture::files::paths::{self, lexical};
use crate::capture::index::provenance::Want;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::interpreter::InterpreterFacts;
use crate::formats::python::digest::Sha256Digest;
use crate::formats::python::direct_url::DirectUrl;
use crate::formats::python::entry_points::{EntryPoint, EntryPoints};
use crate::formats::python::metadata::Metadata;
use crate::formats::python::name::normalize;
use crate::formats::python::record::Record;
use crate::words::show;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest metadata file that is read: the RECORD of the largest wheels is a few megabytes.
pub const LONGEST: u64 = 64 << 20;

/// Where an installer puts each scheme of a wheel.
#[derive(Debug, Clone)]
pub struct Scheme {
    pub site: PathBuf,
    pub scripts: PathBuf,
    pub data: PathBuf,
    /// Headers of distribution NAME go to `headers/NAME`.
    pub headers: PathBuf,
    /// The real file that a script's `#!` line leads to.
    pub interpreter: PathBuf,
}

impl Scheme {
    /// Where a file of an installed RECORD lies. `pip install --target` installs into `lib/python` of a scratch folder first
    /// and moves all of it up afterwards, and its RECORD stays as it was.
    fn place(&self, row: &str) -> PathBuf {
        let flat = self.site == self.data;
        let row = row.strip_prefix("../../").filter(|_| flat).unwrap_or(row);
        lexical(&self.site.join(row))
    }
}

/// A file of a distribution, and what its installed RECORD says of it, which vouches for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub disk: PathBuf,
    pub stated: Option<Sha256Digest>,
}

/// A script that an installer writes.
#[derive(Debug, Clone)]
pub struct Script {
    pub point: EntryPoint,
    pub stated: Option<Sha256Digest>,
}

/// One installed distribution.
#[derive(Debug, Clone)]
pub struct Installed {
    pub name: String,
    pub version: String,
    pub scheme: Scheme,
    /// `numpy-1.26.4.dist-info`.
    pub info: String,
    pub wheel_tags: Vec<String>,
    /// The folder of its headers: installers differ in the spelling of the name.
    pub headers: String,
    /// The WHEEL file itself.
    pub wheel_file: Vec<u8>,
    pub build: Option<String>,
    pub direct_url: Option<DirectUrl>,
    /// The scripts of its entry points, by name.
    pub scripts: BTreeMap<String, Script>,
    /// By canonical path, from the installed RECORD.
    pub files: BTreeMap<String, Owned>,
    /// Why no wheel can vouch for it, when that is known already.
    pub reason: Option<String>,
    /// Its files are what its last build made.
    pub last_build: Option<LastBuild>,
}

/// What an editable install that builds at each import has in place of its hook.
#[derive(Debug, Clone, Default)]
pub struct LastBuild {
    /// The files of the hook, which do not ship.
    pub hooks: Vec<PathBuf>,
    /// Canonical folders that its files are in: the project and where it was built.
    pub roots: Vec<PathBuf>,
    /// A source that is newer than what was made of it.
    pub stale: Option<PathBuf>,
}

impl Installed {
    /// One of which nothing but its metadata is known yet; `info` is what its metadata is in, by its name in the site directory.
    pub fn new(metadata: Metadata, scheme: &Scheme, info: &str) -> Self {
        let name = normalize(&metadata.name);
        Installed {
            headers: name.clone(),
            name,
            version: metadata.version,
            scheme: scheme.clone(),
            info: info.to_string(),
            wheel_tags: Vec::new(),
            wheel_file: Vec::new(),
            build: None,
            direct_url: None,
            scripts: BTreeMap::new(),
            files: BTreeMap::new(),
            reason: None,
            last_build: None,
        }
    }

    /// The wheel to ask an index for, for this interpreter.
    pub fn want(&self, facts: &InterpreterFacts) -> Want {
        Want {
            name: self.name.clone(),
            version: self.version.clone(),
            wheel_tags: self.wheel_tags.clone(),
            wheel_file: self.wheel_file.clone(),
            python: format!("cp{}{}", facts.version.0, facts.version.1),
            machine: facts.machine.clone(),
            build: self.build.clone(),
            direct_url: self.direct_url.clone(),
        }
    }

    fn data_prefix(&self) -> String {
        let stem = self.info.rsplit_once('.').map_or(self.info.as_str(), |(stem, _)| stem);
        format!("{stem}.data")
    }

    /// Where a member of the wheel is in the canonical tree. What the wheel keeps for either library folder
    /// cannot be told from the rest once it is installed.
    pub fn member(name: &str) -> &str {
        let mut parts = name.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(first), Some("purelib" | "platlib"), Some(rest)) if first.ends_with(".data") => rest,
            _ => name,
        }
    }

    /// Where an installer puts a member of the wheel (binary distribution format, "The .data
    /// directory"). `None` for a scheme that does not exist.
    pub fn target(&self, canonical: &str) -> Option<PathBuf> {
        let mut parts = canonical.splitn(3, '/');
        if let (Some(first), Some(scheme), Some(rest)) = (parts.next(), parts.next(), parts.next())
            && first.ends_with(".data")
        {
            return match scheme {
                "purelib" | "platlib" => Some(self.scheme.site.join(rest)),
                "scripts" => Some(self.scheme.scripts.join(rest)),
                "data" => Some(self.scheme.data.join(rest)),
                "headers" => Some(self.scheme.headers.join(&self.headers).join(rest)),
                _ => None,
            };
        }
        Some(self.scheme.site.join(canonical))
    }

    /// The canonical path of an installed file, or `None` when an installer made it.
    fn canonical(&self, disk: &Path) -> Option<String> {
        let text = |p: &Path| p.to_str().map(String::from);
        let data = self.data_prefix();
        // In a folder of `pip install --target` the scripts lie below the modules.
        if let Ok(rest) = disk.strip_prefix(&self.scheme.site)
            && !disk.starts_with(&self.scheme.scripts)
        {
            return text(rest);
        }
        if let Ok(rest) = disk.strip_prefix(&self.scheme.scripts) {
            let rest = text(rest)?;
            return (!self.scripts.contains_key(&rest)).then(|| format!("{data}/scripts/{rest}"));
        }
        if let Ok(rest) = disk.strip_prefix(self.scheme.headers.join(&self.headers)) {
            return Some(format!("{data}/headers/{}", text(rest)?));
        }
        disk.strip_prefix(&self.scheme.data).ok().and_then(text).map(|r| format!("{data}/data/{r}"))
    }

    /// Takes a file that its metadata names, unless an installer made it.
    pub fn own(&mut self, disk: PathBuf, stated: Option<Sha256Digest>, findings: &mut Vec<Finding>) {
        if !disk.starts_with(&self.scheme.site) && !disk.starts_with(&self.scheme.data) {
            let message =
                format!("{}'s RECORD claims a file outside the environment; it is not captured", self.name);
            findings.push(finding(Severity::Problem, Topic::Outside, &disk, message));
            return;
        }
        match self.canonical(&disk) {
            Some(canonical) if !installer_file(&canonical) => {
                self.files.insert(canonical, Owned { disk, stated });
            }
            Some(_) => {}
            None => {
                let name = disk.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if let Some(script) = self.scripts.get_mut(name) {
                    script.stated = stated;
                }
            }
        }
    }
}

/// What an installer adds to a wheel's files: never part of the canonical tree.
pub fn installer_file(canonical: &str) -> bool {
    if canonical.split('/').any(|part| part == "__pycache__") {
        return true;
    }
    match canonical.split_once('/') {
        Some((info, file)) if info.ends_with(".dist-info") => {
            matches!(file, "INSTALLER" | "REQUESTED" | "direct_url.json" | "uv_cache.json" | "uv_build.json")
        }
        _ => false,
    }
}

pub fn finding(severity: Severity, topic: Topic, path: &Path, message: String) -> Finding {
    paths::finding(severity, topic, show(path.as_os_str().as_bytes()), message)
}

/// Names that are the interpreter's own: a script in its place would call itself for ever.
pub fn is_interpreter(name: &str) -> bool {
    name.strip_prefix("python").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

pub fn read_scripts(installed: &mut Installed, entry_points: &[u8], findings: &mut Vec<Finding>) {
    let (points, wrong) = EntryPoints::parse(entry_points);
    let mut wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    for (name, point) in points.scripts() {
        if is_interpreter(&name) {
            wrong.push(format!("entry_points.txt: {name:?} is the interpreter's own name"));
            continue;
        }
        installed.scripts.insert(name, Script { point, stated: None });
    }
    let path = PathBuf::from(&installed.info).join("entry_points.txt");
    for why in wrong {
        let message = format!("{}: {}; no script is made of it", installed.name, show(why.as_bytes()));
        findings.push(finding(Severity::Warning, Topic::Scripts, &path, message));
    }
}

/// Gives a distribution the files of its RECORD.
pub fn own_by_record(installed: &mut Installed, record: &Record, findings: &mut Vec<Finding>) {
    let places: Vec<PathBuf> = record.rows.iter().map(|row| installed.scheme.place(&row.path)).collect();
    // pip takes the name as it was asked for (`zope.proxy`), uv as it is normalized.
    let spelled = places.iter().find_map(|disk| {
        let folder = disk.strip_prefix(&installed.scheme.headers).ok()?.components().next()?;
        folder.as_os_str().to_str().filter(|folder| normalize(folder) == installed.name)
    });
    if let Some(spelled) = spelled {
        installed.headers = spelled.to_string();
    }
    let sources: HashSet<&str> =
        record.rows.iter().map(|row| row.path.as_str()).filter(|path| path.ends_with(".py")).collect();
    for (row, disk) in record.rows.iter().zip(places) {
        // virtualenv's seeds name bytecode that they leave out, in its old place beside the source.
        let bytecode = source_of(&row.path).is_some_and(|source| sources.contains(source.as_str()));
        if !bytecode || disk.exists() {
            installed.own(disk, row.sha256, findings);
        }
    }
}

/// `a/b.cpython-311.pyc` or `a/b.pyc` -> `a/b.py`.
fn source_of(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".pyc")?;
    let (folder, name) = stem.rsplit_once('/').map_or(("", stem), |(folder, name)| (folder, name));
    let name = name.split('.').next()?;
    Some(if folder.is_empty() { format!("{name}.py") } else { format!("{folder}/{name}.py") })
}
