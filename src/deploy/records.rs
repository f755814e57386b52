//! This workstation's own record of its deployments: what each host said, also of hosts that were never
//! reached and so know nothing of it. What happened on a host is in that host's history.
use crate::deploy::events::{Ended, Event, Observer};
use crate::deploy::host_result::HostResult;
use crate::protocol::messages::{AttemptKind, Status};
use crate::protocol::version;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::process::Life;
use crate::sys::progress::check_interrupt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Instant;

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub version: u32,
    pub deployment: String,
    pub kind: AttemptKind,
    pub service: String,
    pub by: String,
    /// Milliseconds since 1970.
    pub began: u64,
    pub ended: Option<u64>,
    pub snapshot: Option<String>,
    pub label: Option<String>,
    pub hosts: Vec<HostResult>,
    /// Whose it is while it is under way.
    #[serde(default)]
    pub process: Option<Life>,
}

/// What a whole deployment came to, for an exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Succeeded,
    /// Every host serves what it served before.
    Failed,
    /// Some hosts succeeded and stay so, the others serve what they served before.
    Partly,
    /// A host serves the new generation though it should have gone back.
    NotReverted,
    /// A host goes on by itself, and nobody knows where to.
    Unknown,
    /// The user stopped it.
    Interrupted,
}

impl Finished {
    /// The worst that is true: what must be looked at comes first.
    pub fn of(hosts: &[HostResult], interrupted: bool) -> Finished {
        let any = |is: &dyn Fn(&HostResult) -> bool| hosts.iter().any(is);
        if any(&|h| h.status == Status::Unknown) {
            Finished::Unknown
        } else if any(&|h| h.status != Status::Succeeded && h.changed == Some(true)) {
            Finished::NotReverted
        } else if !any(&|h| h.status != Status::Succeeded) {
            Finished::Succeeded
        } else if interrupted && any(&|h| h.status == Status::Cancelled) {
            Finished::Interrupted
        } else if any(&|h| h.status == Status::Succeeded) {
            Finished::Partly
        } else {
            Finished::Failed
        }
    }

    /// Of a dry run, in which so many hosts failed.
    pub fn dry(failed: usize, interrupted: bool) -> Finished {
        match failed {
            0 => Finished::Succeeded,
            _ if interrupted => Finished::Interrupted,
            _ => Finished::Failed,
        }
    }
}

/// An id that no other deployment has, and that sorts by time.
pub fn new_id() -> String {
    let seed = format!("{:?} {}", std::time::SystemTime::now(), std::process::id());
    let digest = Sha256::digest(seed.as_bytes());
    let now = clock::now_ms();
    let time: String = clock::rfc3339(now / 1000).chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{}{:03}Z-{:02x}{:02x}", time.trim_end_matches('Z'), now % 1000, digest[0], digest[1])
}

pub fn folder(state: &Path) -> PathBuf {
    state.join("deployments")
}

impl Deployment {
    pub fn new(id: &str, kind: AttemptKind, service: &str, by: &str) -> Deployment {
        Deployment {
            version: VERSION,
            deployment: id.into(),
            kind,
            service: service.into(),
            by: by.into(),
            began: clock::now_ms(),
            ended: None,
            snapshot: None,
            label: None,
            hosts: Vec::new(),
            process: Some(Life::own()),
        }
    }

    pub fn save(&self, state: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::new(Kind::Io, "cannot write the deployment's record").caused_by(e))?;
        files::write_atomic(&folder(state).join(format!("{}.json", self.deployment)), &bytes)
    }

    /// Its end: the record with what each host said, and the last event.
    pub fn end(
        mut self,
        hosts: Vec<HostResult>,
        state: &Path,
        started: Instant,
        observer: &dyn Observer,
    ) -> Result<Finished> {
        (self.ended, self.process) = (Some(clock::now_ms()), None);
        self.hosts = hosts;
        self.hosts.sort_by(|a, b| a.host.cmp(&b.host));
        self.save(state)?;
        let failed = self.hosts.iter().filter(|h| h.status != Status::Succeeded).count();
        let finished = Finished::of(&self.hosts, check_interrupt().is_err());
        observer.event(&Event::Result(Ended::Deployment {
            deployment: self.deployment,
            failed,
            seconds: started.elapsed().as_secs_f64(),
            hosts: self.hosts,
        }));
        Ok(finished)
    }
}

/// The newest records of a service, newest first: those of all projects are in one folder.
pub fn newest(state: &Path, service: &str, count: usize) -> Vec<Deployment> {
    let Ok(entries) = std::fs::read_dir(folder(state)) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    // What cannot be read, or is of another version, is passed over: the hosts have records of their own.
    let read = |path: &PathBuf| {
        let record: Deployment = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (version::check(record.version, VERSION).is_ok() && record.service == service).then_some(record)
    };
    files.iter().rev().filter_map(read).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_deployment_came_to_is_the_worst_of_its_hosts() {
        let error = Error::new(Kind::Host, "m");
        let host = |status, changed| HostResult { status, changed, ..HostResult::failed("a", &error, true) };
        let of = |hosts: &[(Status, Option<bool>)], interrupted| {
            let hosts: Vec<HostResult> = hosts.iter().map(|(s, c)| host(*s, *c)).collect();
            Finished::of(&hosts, interrupted)
        };
        let (good, failed) = ((Status::Succeeded, Some(true)), (Status::Failed, Some(false)));
        let (stuck, unknown) = ((Status::Failed, Some(true)), (Status::Unknown, None));
        let cancelled = (Status::Cancelled, Some(false));
        assert_eq!(of(&[good, good], false), Finished::Succeeded);
        // It came too late.
        assert_eq!(of(&[good], true), Finished::Succeeded);
        assert_eq!(of(&[failed, cancelled], false), Finished::Failed);
        assert_eq!(of(&[failed, cancelled], true), Finished::Interrupted);
        assert_eq!(of(&[good, failed], false), Finished::Partly);
        assert_eq!(of(&[good, failed, stuck, cancelled], true), Finished::NotReverted);
        assert_eq!(of(&[stuck, unknown, good], true), Finished::Unknown);
        assert_eq!(Finished::dry(1, true), Finished::Interrupted);
        assert_eq!(
            (Finished::dry(0, true), Finished::dry(1, false)),
            (Finished::Succeeded, Finished::Failed)
        );
    }

    #[test]
    fn records_are_kept_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        for id in ["20260101T000000Z-aaaa", "20260102T000000Z-bbbb"] {
            Deployment::new(id, AttemptKind::Deploy, "demo", "a@b").save(dir.path()).unwrap();
        }
        Deployment::new("20260105T000000Z-eeee", AttemptKind::Deploy, "other", "a@b")
            .save(dir.path())
            .unwrap();
        std::fs::write(folder(dir.path()).join("20260103T000000Z-cccc.json"), "{").unwrap();
        let newer = Deployment::new("20260104T000000Z-dddd", AttemptKind::Deploy, "demo", "a@b");
        Deployment { version: 2, ..newer }.save(dir.path()).unwrap();
        let ids: Vec<String> = newest(dir.path(), "demo", 2).into_iter().map(|d| d.deployment).collect();
        assert_eq!(ids, ["20260102T000000Z-bbbb", "20260101T000000Z-aaaa"]);
        assert!(*new_id() < *"3" && new_id().len() == 24);
    }
}
