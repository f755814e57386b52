//! What is known to import: a cache, so that a check asks only for what has changed.
//!
//! That a distribution imports depends on its own files, on those of whatever it imports, and on what it looks for and
//! does not find. So an answer counts as long as each distribution that was loaded with it has the same content in the
//! same layout, and no distribution has come that was not there. Everything else that an import may depend on (the
//! interpreter, files that no distribution owns, variables, this machine's own libraries) is in `about`: where it
//! differs, nothing is known. Failures are never remembered.
use crate::capture::model::lock::Lock;
use crate::capture::model::used::Used;
use crate::formats::hex::hex;
use crate::snapshot::importer::{Answers, SCRIPT, variables};
use crate::snapshot::subject::Subject;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// What the dynamic linker knows of this machine's libraries (ldconfig(8)).
const LIBRARIES: &str = "/etc/ld.so.cache";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    about: String,
    /// Every distribution that was there.
    names: BTreeSet<String>,
    /// Of each that imported: content and layout of those that were loaded then.
    good: BTreeMap<String, Parts>,
    /// What their imports used of this machine.
    #[serde(default)]
    used: Used,
}

/// Distribution -> content and layout.
type Parts = BTreeMap<String, String>;

pub struct KnownGood {
    path: PathBuf,
    about: String,
    now: Parts,
    good: BTreeMap<String, Parts>,
    used: Used,
}

impl KnownGood {
    /// One file per environment, as the memo has. One that is damaged or of another version is as none.
    pub fn open(subject: &Subject, lock: &Lock) -> KnownGood {
        let name = hex(&Sha256::digest(subject.environment.as_os_str().as_bytes())[..8]);
        let path = subject.cache.join(format!("imports-{name}.json"));
        KnownGood::read(path, about(subject, lock), parts(lock))
    }

    fn read(path: PathBuf, about: String, now: Parts) -> KnownGood {
        let stored = std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Stored>(&b).ok());
        let stored = stored.filter(|s| s.version == VERSION && s.about == about);
        let stored = stored.filter(|s| now.keys().all(|name| s.names.contains(name)));
        let (mut good, used) = stored.map(|s| (s.good, s.used)).unwrap_or_default();
        let before = good.len();
        good.retain(|_, parts| parts.iter().all(|(name, part)| now.get(name) == Some(part)));
        // Whose each use was is not kept: with one gone that used something, all are looked at again.
        if used.unseen.is_some() || (good.len() != before && !used.is_empty()) {
            good.clear();
        }
        let used = if good.is_empty() { Used::default() } else { used };
        KnownGood { path, about, now, good, used }
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.good.keys().cloned().collect()
    }

    /// Takes what was found to import, and what that used; what all of them use. What was loaded and is no distribution of
    /// the lock cannot be known again.
    pub fn add(&mut self, answers: &Answers, used: Used) -> Used {
        let failed: BTreeSet<&String> = answers.failures.keys().map(|(name, _)| name).collect();
        for (name, loaded) in &answers.loaded {
            let all = loaded.iter().chain([name]);
            let parts = all.map(|name| Some((name.clone(), self.now.get(name)?.clone()))).collect();
            if let (Some(parts), false) = (parts, failed.contains(name)) {
                self.good.insert(name.clone(), parts);
            }
        }
        self.used.merge(used);
        self.used.clone()
    }

    pub fn save(self) -> Result<()> {
        let names = self.now.into_keys().collect();
        let stored = Stored { version: VERSION, about: self.about, names, good: self.good, used: self.used };
        let text = serde_json::to_vec(&stored)
            .map_err(|e| Error::new(Kind::Io, "cannot write what is known to import").caused_by(e))?;
        files::write_atomic(&self.path, &text)
    }
}

fn parts(lock: &Lock) -> Parts {
    let mut all = Parts::new();
    for d in &lock.distributions {
        let (references, scripts) = (d.tree.references.join(","), d.scripts.join(","));
        let part =
            format!("{} {} {} {references} {scripts};", d.tree.nar_hash.to_hex(), d.real_files, d.site);
        all.entry(d.name.clone()).or_default().push_str(&part);
    }
    all
}

/// A digest of what every import may depend on.
fn about(subject: &Subject, lock: &Lock) -> String {
    let mut sha = Sha256::new();
    let mut add = |bytes: &[u8]| {
        sha.update((bytes.len() as u64).to_le_bytes());
        sha.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(SCRIPT.as_bytes());
    add(lock.system.as_bytes());
    add(format!("{:?} {:?} {:?} {:?}", lock.runtime, lock.unowned, lock.library_links, lock.sources)
        .as_bytes());
    for (name, value) in variables(subject) {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    if let Ok(meta) = std::fs::metadata(Path::new(LIBRARIES)) {
        add(format!("{} {} {}", meta.len(), meta.mtime(), meta.mtime_nsec()).as_bytes());
    }
    hex(&sha.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::model::used::Use;
    use crate::snapshot::importer::Failure;

    fn parts(all: &[(&str, &str)]) -> Parts {
        all.iter().map(|(name, part)| (name.to_string(), part.to_string())).collect()
    }

    fn answers(loaded: &[(&str, &[&str])], failed: &[&str]) -> Answers {
        let failure = || Failure { module: "m".into(), error: String::new(), owners: vec![] };
        Answers {
            loaded: (loaded.iter())
                .map(|(name, with)| (name.to_string(), with.iter().map(|n| n.to_string()).collect()))
                .collect(),
            failures: failed.iter().map(|n| ((n.to_string(), "m".to_string()), failure())).collect(),
            ..Answers::default()
        }
    }

    #[test]
    fn what_imported_is_known_until_something_that_was_loaded_with_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imports.json");
        let open = |about: &str, now: &[(&str, &str)]| {
            let good = KnownGood::read(path.clone(), about.into(), parts(now));
            good.names().into_iter().collect::<Vec<_>>()
        };
        let all = [("alone", "1"), ("base", "1"), ("bad", "1"), ("on-base", "1"), ("stray", "1")];
        let mut known = KnownGood::read(path.clone(), "a".into(), parts(&all));
        assert!(known.names().is_empty());
        let loaded: [(&str, &[&str]); 5] = [
            ("alone", &["alone"]),
            ("base", &["base"]),
            ("bad", &["bad"]),
            ("on-base", &["base", "on-base"]),
            ("stray", &["of-no-lock"]),
        ];
        known.add(&answers(&loaded, &["bad"]), Used::default());
        known.save().unwrap();
        assert_eq!(open("a", &all), ["alone", "base", "on-base"]);
        let with = |name: &str, part: &'static str| {
            let mut now = all.to_vec();
            now.retain(|(n, _)| *n != name);
            if !part.is_empty() {
                now.push((all.iter().find(|(n, _)| *n == name).unwrap().0, part));
            }
            now
        };
        assert_eq!(open("a", &with("base", "2")), ["alone"]);
        assert_eq!(open("a", &with("on-base", "2")), ["alone", "base"]);
        assert_eq!(open("a", &with("base", "")), ["alone"]);
        assert_eq!(open("a", &with("stray", "")), ["alone", "base", "on-base"]);
        // What they used is known as long as all of them are.
        let mut known = KnownGood::read(path.clone(), "a".into(), parts(&all));
        let git = Used { programs: vec![Use { what: "git".into(), by: None }], ..Used::default() };
        assert_eq!(known.add(&answers(&[], &[]), git.clone()), git);
        known.save().unwrap();
        let again = |now: &[(&str, &str)]| KnownGood::read(path.clone(), "a".into(), parts(now)).used;
        assert_eq!((again(&all), again(&with("base", "2"))), (git, Used::default()));
        // One that was looked for in vain may be there now.
        let mut more = all.to_vec();
        more.push(("new", "1"));
        assert!(open("a", &more).is_empty());
        assert!(open("b", &all).is_empty());
        std::fs::write(&path, "{").unwrap();
        assert!(open("a", &all).is_empty());
    }
}
