//! The register of snapshots on this workstation: `snapshots/ID/` holds the record, both locks and the
//! GC roots. The record says how a snapshot came about (time, user, label, findings); none of that is
//! in the closure, so it changes no store path.
use crate::capture::model::lock::Lock;
pub use crate::capture::model::probe::ProbeResult;
use crate::capture::model::report::Finding;
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::protocol::launch;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

pub const RECORD_VERSION: u32 = 2;

/// Version 2 has topics that version 1 did not know, and else only what may be left out.
const OLDEST_RECORD: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    pub version: u32,
    /// The first characters of the store path's hash.
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Absolute store path of the snapshot.
    pub snapshot: String,
    pub derivation: String,
    pub environment: PathBuf,
    pub created: String,
    /// Milliseconds since 1970 at which the same content was last taken; 0 in records of older versions.
    #[serde(default)]
    pub taken_ms: u64,
    pub user: String,
    pub host: String,
    pub stillframe: String,
    pub service: String,
    pub closure_paths: u64,
    pub closure_bytes: u64,
    /// Every output of the graph with its NAR hash: what `verify` compares.
    pub outputs: Vec<OutputRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeResult>,
    pub findings: Vec<Finding>,
    /// Trees that were copied, not linked: the closure does not refer to them, and `verify`, `diff` and a bill of
    /// materials read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copied: Vec<String>,
    /// What hosts must have.
    #[serde(default)]
    pub requires: Requires,
}

/// What a snapshot asks of a host that serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Requires {
    /// `x86_64-linux`; empty in records of an older version.
    pub system: String,
    /// The version of the C library that it brings: the GPU driver's libraries may not need a newer one.
    pub glibc: Option<(u32, u32)>,
    /// The newest major version of CUDA in it.
    pub cuda: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OutputRecord {
    pub label: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derivation: Option<String>,
}

impl Record {
    /// When it was last taken.
    pub fn taken(&self) -> String {
        if self.taken_ms == 0 { self.created.clone() } else { clock::rfc3339(self.taken_ms / 1000) }
    }

    /// One of the store paths that it names.
    pub fn store_path(&self, text: &str, store_dir: &StoreDir) -> Result<StorePath> {
        StorePath::from_absolute(store_dir, text)
            .map_err(|e| Error::new(Kind::Input, format!("the record of {} is damaged: {e}", self.id)))
    }

    /// How its service is started, in a store that is at its place.
    pub fn launch_file(&self) -> PathBuf {
        Path::new(&self.snapshot).join(launch::file_of(&self.service))
    }
}

/// A host that serves a snapshot; written by a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Served {
    pub host: String,
    pub service: String,
}

#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    pub fn new(state: &Path) -> Self {
        Registry { dir: state.join("snapshots") }
    }

    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// The symlinks that keep a snapshot from Nix's garbage collector, and what they point at.
    pub fn roots(&self, record: &Record) -> Vec<(PathBuf, String)> {
        let dir = self.folder(&record.id).join("roots");
        let own = [("snapshot", &record.snapshot), ("derivation", &record.derivation)];
        let own = own.map(|(name, path)| (dir.join(name), path.clone()));
        let copied = record.copied.iter().filter_map(|path| {
            let name = Path::new(path).file_name()?;
            Some((dir.join(name), path.clone()))
        });
        own.into_iter().chain(copied).collect()
    }

    pub fn save(&self, record: &Record, lock: &str, pylock: &str) -> Result<()> {
        let dir = self.folder(&record.id);
        files::write_atomic(&dir.join("stillframe.lock"), lock.as_bytes())?;
        files::write_atomic(&dir.join("pylock.toml"), pylock.as_bytes())?;
        // Last: a folder without a record is not a snapshot yet.
        self.write(record)
    }

    /// The record of a snapshot whose lock is as it was.
    pub fn write(&self, record: &Record) -> Result<()> {
        let json = serde_json::to_vec_pretty(&Record { version: RECORD_VERSION, ..record.clone() })
            .map_err(|e| Error::new(Kind::Io, "cannot write the record").caused_by(e))?;
        files::write_atomic(&self.folder(&record.id).join("record.json"), &json)
    }

    fn read(&self, path: &Path) -> Result<Record> {
        let bytes = files::read(path)?;
        let broken = |e: serde_json::Error| {
            Error::new(Kind::Input, format!("{} is not a snapshot record: {e}", path.display()))
                .hint("take the snapshot again; the same environment gives the same record")
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(broken)?;
        let version = value["version"].as_u64().unwrap_or(0);
        if !(u64::from(OLDEST_RECORD)..=u64::from(RECORD_VERSION)).contains(&version) {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "{} has record version {version}, this stillframe reads {OLDEST_RECORD} to {RECORD_VERSION}",
                    path.display()
                ),
            )
            .hint("use the stillframe that wrote it"));
        }
        serde_json::from_value(value).map_err(broken)
    }

    /// The record of one id, if it was taken: whatever is wrong with others is no concern of it.
    pub fn get(&self, id: &str) -> Result<Option<Record>> {
        let path = self.folder(id).join("record.json");
        if path.exists() { self.read(&path).map(Some) } else { Ok(None) }
    }

    /// All records, the one that was taken last at the end.
    pub fn list(&self) -> Result<Vec<Record>> {
        let mut records: Vec<Record> = self.each()?.into_iter().collect::<Result<_>>()?;
        records.sort_by_cached_key(|r: &Record| (r.taken(), r.taken_ms, r.id.clone()));
        Ok(records)
    }

    /// Every record, or why it cannot be read.
    fn each(&self) -> Result<Vec<Result<Record>>> {
        let mut records = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            // No snapshot was ever taken here.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(records),
            Err(e) => return Err(Error::io("list", &self.dir, e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &self.dir, e))?;
            let path = entry.path().join("record.json");
            if path.exists() {
                records.push(self.read(&path));
            }
        }
        Ok(records)
    }

    /// Takes a label away from the snapshots that had it before `record`; their ids.
    pub fn move_label(&self, record: &Record) -> Result<Vec<String>> {
        let Some(label) = &record.label else { return Ok(Vec::new()) };
        // A record that cannot be read keeps no snapshot from being named; whoever asks for it is told.
        let mut others: Vec<Record> = self.each()?.into_iter().flatten().collect();
        others.retain(|other| other.id != record.id && other.label.as_ref() == Some(label));
        others.sort_by(|a, b| a.id.cmp(&b.id));
        let moved = others.iter().map(|other| other.id.clone()).collect();
        others.into_iter().try_for_each(|other| self.write(&Record { label: None, ..other }))?;
        Ok(moved)
    }

    /// Whether a label can be given: a word that no id, no `latest` and no store path can be taken for.
    pub fn check_label(&self, label: &str) -> Result<()> {
        let wrong = |why: String| {
            Err(Error::new(Kind::Input, format!("{label:?} is no label: {why}"))
                .hint("use 1 to 64 letters, digits, '.', '_', '+' and '-'; the first is a letter or a digit"))
        };
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
        if label == "latest" {
            return wrong("it is the word for the newest snapshot".into());
        }
        if !(1..=64).contains(&label.chars().count())
            || !label.starts_with(char::is_alphanumeric)
            || !label.chars().all(fits)
        {
            return wrong("it would not be a word".into());
        }
        match self.get(label)? {
            Some(_) => wrong("a snapshot has that id".into()),
            None => Ok(()),
        }
    }

    /// Finds one by id or store path, label, a unique prefix of the id, or `latest`; in this order.
    pub fn find(&self, wanted: Option<&str>) -> Result<Record> {
        let mut records = self.list()?;
        let none = || {
            Error::new(Kind::Input, "there is no snapshot yet").hint("take one with `stillframe snapshot`")
        };
        let Some(wanted) = wanted.filter(|w| *w != "latest") else {
            return records.pop().ok_or_else(none);
        };
        if records.is_empty() {
            return Err(none());
        }
        let own = records.iter().find(|r| r.id == wanted || r.snapshot == wanted);
        // Where a move was interrupted two have a label: it is the one's that was taken last.
        let labelled = || records.iter().rfind(|r| r.label.as_deref() == Some(wanted));
        let matches: Vec<&Record> = match own.or_else(labelled) {
            Some(one) => vec![one],
            None => records.iter().filter(|r| r.id.starts_with(wanted)).collect(),
        };
        match matches.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Error::new(Kind::Input, format!("no snapshot is called {wanted:?}"))
                .hint("`stillframe snapshots list` shows those there are")),
            many => Err(Error::new(
                Kind::Input,
                format!(
                    "{wanted:?} fits {} snapshots: {}",
                    many.len(),
                    many.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().join(", ")
                ),
            )
            .hint("give more of the id")),
        }
    }

    pub fn lock(&self, record: &Record) -> Result<Lock> {
        let path = self.folder(&record.id).join("stillframe.lock");
        Lock::from_toml(&files::read_text(&path)?, &path.display().to_string())
    }

    pub fn served_by(&self, record: &Record) -> Result<Vec<Served>> {
        let path = self.folder(&record.id).join("served.json");
        if !path.exists() {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&files::read(&path)?)
            .map_err(|e| Error::new(Kind::Input, format!("{} is malformed: {e}", path.display())))
    }

    /// Notes what a host serves from now on; `None`: nothing that was taken here.
    pub fn note_served(&self, host: &str, service: &str, snapshot: Option<&str>) -> Result<()> {
        let here = Served { host: host.into(), service: service.into() };
        for record in self.list()? {
            let was = self.served_by(&record)?;
            let mut now: Vec<Served> = was.iter().filter(|s| **s != here).cloned().collect();
            if snapshot == Some(record.snapshot.as_str()) {
                now.push(here.clone());
            }
            if now != was {
                let bytes = serde_json::to_vec_pretty(&now)
                    .map_err(|e| Error::new(Kind::Io, "cannot write who serves a snapshot").caused_by(e))?;
                files::write_atomic(&self.folder(&record.id).join("served.json"), &bytes)?;
            }
        }
        Ok(())
    }

    /// Forgets a snapshot: its roots first, so that a crash leaves a record without roots, which
    /// `remove` removes again, and never roots without a record.
    pub fn remove(&self, record: &Record, force: bool) -> Result<()> {
        let served = self.served_by(record)?;
        if !served.is_empty() && !force {
            let hosts: Vec<_> = served.iter().map(|s| format!("{} ({})", s.host, s.service)).collect();
            return Err(Error::new(
                Kind::Input,
                format!("snapshot {} is served by {}", record.id, hosts.join(", ")),
            )
            .hint("--force removes it from this workstation all the same"));
        }
        for (link, _) in self.roots(record) {
            match fs::remove_file(&link) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("remove", &link, e)),
            }
        }
        let dir = self.folder(&record.id);
        fs::remove_dir_all(&dir).map_err(|e| Error::io("remove", &dir, e))?;
        files::sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, label: Option<&str>, created: &str) -> Record {
        Record {
            version: RECORD_VERSION,
            id: id.into(),
            label: label.map(String::from),
            snapshot: format!("/nix/store/{id}-comfyui-snapshot"),
            derivation: format!("/nix/store/{id}-comfyui-snapshot.drv"),
            environment: "/env".into(),
            created: created.into(),
            taken_ms: 0,
            user: "u".into(),
            host: "h".into(),
            stillframe: "0".into(),
            service: "comfyui".into(),
            closure_paths: 1,
            closure_bytes: 1,
            outputs: vec![],
            probe: None,
            findings: vec![],
            copied: vec![],
            requires: Requires::default(),
        }
    }

    #[test]
    fn a_host_serves_one_snapshot_of_a_service() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path());
        let (one, two) = (record("one1", None, "1"), record("two2", None, "2"));
        registry.save(&one, "", "").unwrap();
        registry.save(&two, "", "").unwrap();
        let hosts =
            |r: &Record| registry.served_by(r).unwrap().into_iter().map(|s| s.host).collect::<Vec<_>>();
        registry.note_served("a", "s", Some(&one.snapshot)).unwrap();
        registry.note_served("b", "s", Some(&one.snapshot)).unwrap();
        registry.note_served("a", "s", Some(&two.snapshot)).unwrap();
        assert_eq!((hosts(&one), hosts(&two)), (vec!["b".to_string()], vec!["a".to_string()]));
        registry.note_served("b", "s", None).unwrap();
        assert_eq!(hosts(&one), Vec::<String>::new());
    }

    #[test]
    fn records_are_found_by_prefix_label_and_latest() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path());
        assert_eq!(registry.find(None).unwrap_err().to_string(), "there is no snapshot yet");
        for (id, label, created) in [("abc1", Some("blue"), "2026-01-01"), ("abd2", None, "2026-01-02")] {
            registry.save(&record(id, label, created), "", "").unwrap();
        }
        assert_eq!(registry.find(None).unwrap().id, "abd2");
        assert_eq!(registry.find(Some("blue")).unwrap().id, "abc1");
        assert_eq!(registry.find(Some("abc")).unwrap().id, "abc1");
        assert_eq!(registry.find(Some("ab")).unwrap_err().to_string(), "\"ab\" fits 2 snapshots: abc1, abd2");
        assert_eq!(registry.find(Some("x")).unwrap_err().to_string(), "no snapshot is called \"x\"");
    }

    #[test]
    fn a_label_names_one_snapshot_and_an_id_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path());
        // As older versions took them: a label that is another's id, and one twice.
        for (id, label, created) in [
            ("abc1", Some("blue"), "2026-01-01"),
            ("abd2", Some("abc1"), "2026-01-02"),
            ("abe3", Some("blue"), "2026-01-03"),
        ] {
            registry.save(&record(id, label, created), "", "").unwrap();
        }
        assert_eq!(registry.find(Some("abc1")).unwrap().id, "abc1");
        assert_eq!(registry.find(Some("blue")).unwrap().id, "abe3");
        let newest = record("abf4", Some("blue"), "2026-01-04");
        registry.save(&newest, "", "").unwrap();
        assert_eq!(registry.move_label(&newest).unwrap(), ["abc1", "abe3"]);
        assert_eq!(registry.move_label(&newest).unwrap(), Vec::<String>::new());
        let labels: Vec<_> = registry.list().unwrap().into_iter().map(|r| r.label).collect();
        assert_eq!(labels, [None, Some("abc1".to_string()), None, Some("blue".to_string())]);
    }

    #[test]
    fn a_record_of_version_1_is_read_and_becomes_one_of_this() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path());
        registry.save(&record("abc1", None, "1"), "", "").unwrap();
        let path = registry.folder("abc1").join("record.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"version\": 2", "\"version\": 1")).unwrap();
        let old = registry.get("abc1").unwrap().unwrap();
        assert_eq!(old.version, 1);
        registry.write(&old).unwrap();
        assert_eq!(registry.get("abc1").unwrap().unwrap().version, RECORD_VERSION);
        // One that cannot be read keeps no other from getting a label.
        registry.save(&record("abd2", Some("blue"), "1"), "", "").unwrap();
        fs::write(&path, "{").unwrap();
        let newest = record("abe3", Some("blue"), "2");
        registry.save(&newest, "", "").unwrap();
        assert_eq!(registry.move_label(&newest).unwrap(), ["abd2"]);
    }

    #[test]
    fn what_a_label_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path());
        registry.save(&record("abc1", None, "1"), "", "").unwrap();
        for good in ["blue", "2026-11-29", "v1.2+cu121", "\u{e9}t\u{e9}_3", &"a".repeat(64)] {
            registry.check_label(good).unwrap();
        }
        for bad in [
            "",
            "a b",
            "a\nb",
            "a\u{1b}[2J",
            "-x",
            "/nix/store/x",
            "a/b",
            "..",
            "abc1",
            "latest",
            &"a".repeat(65),
        ] {
            let error = registry.check_label(bad).unwrap_err();
            assert!(error.kind == Kind::Input && error.message.contains("is no label"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_served_snapshot_is_not_removed_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path());
        let one = record("abc1", None, "2026-01-01");
        registry.save(&one, "", "").unwrap();
        fs::write(registry.folder("abc1").join("served.json"), r#"[{"host":"gpu1","service":"s"}]"#).unwrap();
        assert_eq!(
            registry.remove(&one, false).unwrap_err().to_string(),
            "snapshot abc1 is served by gpu1 (s)"
        );
        registry.remove(&one, true).unwrap();
        assert!(registry.list().unwrap().is_empty());
    }

    #[test]
    fn a_newer_record_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path());
        let path = registry.folder("x").join("record.json");
        files::write_atomic(&path, br#"{"version": 9}"#).unwrap();
        assert_eq!(
            registry.list().unwrap_err().to_string(),
            format!("{} has record version 9, this stillframe reads 1 to 2", path.display())
        );
    }
}
