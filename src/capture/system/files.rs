//! Files and folders of the system that the configuration names, as trees: what links lead to is in them, secrets are not.
use crate::capture::files::collect::{Collected, Policy, collect};
use crate::capture::files::left_out::LeftOut;
use crate::capture::files::paths::{finding, show_in};
use crate::capture::model::inventory::OutsidePath;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::system::libraries::Native;
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::sys::error::{Error, Kind, Result};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// From here on the report says how much it is.
const LARGE: u64 = 1 << 30;

#[derive(Debug)]
pub struct SystemTree {
    /// Where a service sees it: the path as it is configured.
    pub at: String,
    pub tree: Tree,
    /// None: too fresh to be remembered.
    pub digest: Option<String>,
    /// Programs in it, by their place.
    pub natives: BTreeMap<Vec<u8>, Native>,
    pub findings: Vec<Finding>,
    /// What links in it lead to and is not captured.
    pub outside: Vec<OutsidePath>,
}

/// What decides besides the paths.
pub struct Reading<'a> {
    pub left_out: &'a LeftOut,
    /// The folders of models, canonical.
    pub models: &'a [PathBuf],
    pub started: SystemTime,
}

/// The outermost of the paths, sorted: what is below another is in it.
pub fn outermost(wanted: &[String]) -> Vec<String> {
    let mut paths: Vec<String> = wanted
        .iter()
        .map(|path| Path::new(path).components().collect::<PathBuf>().to_string_lossy().into_owned())
        .filter(|path| !path.is_empty())
        .collect();
    paths.sort();
    paths.dedup();
    let below = |path: &String, other: &String| path != other && Path::new(path).starts_with(other);
    let all = paths.clone();
    paths.retain(|path| !all.iter().any(|other| below(path, other)));
    paths
}

impl Reading<'_> {
    pub fn read(&self, at: &str) -> Result<SystemTree> {
        let refused = |why: &str| Error::new(Kind::Input, format!("{at} of [service] system-files {why}"));
        let change = "install what brings it, or take it out of the list";
        let real = Path::new(at)
            .canonicalize()
            .map_err(|e| refused("cannot be opened").caused_by(e).hint(change))?;
        if self.models.iter().any(|models| real.starts_with(models)) {
            return Err(refused("is in a folder of models, which are the host's").hint(change));
        }
        let policy = Policy {
            label: at,
            models: self.models,
            left_out: self.left_out,
            split_weights: false,
            config_secrets: true,
            leave_out: &|_, _| false,
        };
        let mut collected = collect(&real, &policy);
        if collected.tree.is_empty() {
            let why = collected.findings.first().map(|f| format!(": {}: {}", f.path, f.message));
            let text = format!("has nothing that can ship{}", why.unwrap_or_default());
            return Err(refused(&text).hint("take it out of the list"));
        }
        if collected.size >= LARGE {
            let gib = collected.size as f64 / LARGE as f64;
            let text =
                format!("{gib:.1} GiB of the system ship: name a smaller part of it if that is enough");
            collected.findings.push(finding(Severity::Info, Topic::Outside, at, text));
        }
        let digest = collected.stat_digest(self.started);
        let Collected { mut tree, mut findings, outside, .. } = collected;
        once(&mut tree);
        let natives = natives(&tree, at, &mut findings);
        // All of it lies outside of the environment: what ships is no news.
        let outside = outside.into_iter().filter(|path| !path.captured).collect();
        Ok(SystemTree { at: at.into(), tree, digest, natives, findings, outside })
    }
}

/// A file that several links lead to ships once; the others link to the first. (Of git's programs a hundred are one.)
fn once(tree: &mut Tree) {
    let mut first: HashMap<(PathBuf, bool), Vec<u8>> = HashMap::new();
    for (path, entry) in &mut tree.entries {
        let Entry::File { source: Source::Disk(file), executable } = entry else { continue };
        match first.get(&(file.clone(), *executable)) {
            Some(other) => *entry = Entry::Symlink(link(path, other)),
            None => drop(first.insert((file.clone(), *executable), path.clone())),
        }
    }
}

/// The relative link from one place of a tree to another.
fn link(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut up = b"../".repeat(from.iter().filter(|b| **b == b'/').count());
    up.extend(to);
    up
}

/// Those of a tree's programs that a dynamic linker loads.
fn natives(tree: &Tree, at: &str, findings: &mut Vec<Finding>) -> BTreeMap<Vec<u8>, Native> {
    let program = |(path, entry): (&Vec<u8>, &Entry)| match entry {
        Entry::File { source: Source::Disk(file), executable: true } => Some((path.clone(), file.clone())),
        _ => None,
    };
    let programs: Vec<(Vec<u8>, PathBuf)> =
        tree.entries.iter().filter_map(program).filter(|(_, file)| is_elf(file)).collect();
    let read: Vec<_> = programs.par_iter().map(|(path, file)| (path, Native::of(file))).collect();
    let mut found = BTreeMap::new();
    for (path, native) in read {
        match native {
            Ok(Some(native)) => drop(found.insert(path.clone(), native)),
            Ok(None) => {}
            Err(e) => {
                let text = format!(
                    "a program whose libraries cannot be found here: it ships as it is: {}",
                    e.full()
                );
                findings.push(finding(Severity::Warning, Topic::Audit, show_in(at, path), text));
            }
        }
    }
    found
}

fn is_elf(file: &Path) -> bool {
    use crate::capture::files::paths::open_regular;
    use std::io::Read;
    let mut head = Vec::new();
    let read = open_regular(file).and_then(|file| file.take(4).read_to_end(&mut head));
    read.is_ok() && crate::formats::elf::looks_like_elf(&head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn reading() -> (LeftOut, SystemTime) {
        (LeftOut::default(), SystemTime::now())
    }

    fn read(at: &Path) -> Result<SystemTree> {
        let (left_out, started) = reading();
        Reading { left_out: &left_out, models: &[], started }.read(&at.display().to_string())
    }

    #[test]
    fn what_is_below_another_is_in_it() {
        let paths = ["/etc/fonts/", "/usr/share/fonts", "/etc/fonts/conf.d", "/etc/fontsy", "/etc/fonts"];
        let paths = paths.map(String::from);
        assert_eq!(outermost(&paths), ["/etc/fonts", "/etc/fontsy", "/usr/share/fonts"]);
    }

    #[test]
    fn a_folder_is_captured_with_what_its_links_lead_to_and_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["certs/more", "shared", "empty"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("shared/authority.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        symlink(at("shared/authority.crt"), at("certs/1234.0")).unwrap();
        symlink(at("shared/authority.crt"), at("certs/more/authority.pem")).unwrap();
        fs::write(at("certs/own.key"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
        fs::copy("/bin/cat", at("certs/more/tool")).unwrap();
        fs::set_permissions(at("certs/more/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        let found = read(&at("certs")).unwrap();
        let names: Vec<String> =
            found.tree.entries.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(names, ["1234.0", "more/authority.pem", "more/tool"]);
        assert_eq!(
            found.tree.entries[b"more/authority.pem".as_slice()],
            Entry::Symlink(b"../1234.0".to_vec())
        );
        assert!(found.natives.contains_key(b"more/tool".as_slice()), "{:?}", found.natives);
        let told: Vec<(Topic, &str)> = found.findings.iter().map(|f| (f.topic, f.path.as_str())).collect();
        let key = at("certs/own.key").display().to_string();
        assert_eq!(told, [(Topic::Secret, key.as_str())]);
        assert_eq!(found.outside, []);
    }

    #[test]
    fn what_cannot_ship_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        fs::write(dir.path().join("keys/a.key"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
        let said = |name: &str| read(&dir.path().join(name)).unwrap_err().full();
        assert!(said("gone").contains("cannot be opened"));
        assert!(said("keys").contains("has nothing that can ship"), "{}", said("keys"));
        let models = [dir.path().canonicalize().unwrap()];
        let (left_out, started) = reading();
        let reading = Reading { left_out: &left_out, models: &models, started };
        let error = reading.read(&dir.path().join("keys").display().to_string()).unwrap_err();
        assert!(error.message.contains("folder of models"));
    }
}
