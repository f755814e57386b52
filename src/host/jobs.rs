//! What a host says of the jobs that its gateway owns: the agent asks the gateway, page by page where an answer is long.
use crate::host::gateway_units::Gateway;
use crate::host::layout::Service;
use crate::host::state::ServiceState;
use crate::protocol::control::{JobsAnswer, JobsAsk, Request};
use crate::protocol::jobs::{JobDetail, JobRow, JobState, JobsOrder};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Jobs of a page of an export; the gateway ends one earlier where their bodies are large.
const PAGE: u64 = 500;
/// Jobs of each kind that are looked at to see what has changed.
const LOOKED_AT: u64 = 500;

/// A gateway that owns the jobs of its service.
pub struct Owner {
    gateway: Gateway,
    service: Service,
}

impl Owner {
    pub fn of(service: &Service) -> Result<Owner> {
        let name = &service.name;
        let served = ServiceState::load(&service.state(), name)?;
        if served.serving.is_none() {
            return Err(Error::new(Kind::Input, format!("nothing of {name} is served here"))
                .hint("deploy it: stillframe deploy"));
        }
        let gateway = Gateway::new(service);
        if gateway.ask(&Request::Status)?.waiting_jobs.is_none() {
            return Err(not_owned(name));
        }
        Ok(Owner { gateway, service: service.clone() })
    }

    pub fn ask(&self, ask: JobsAsk) -> Result<JobsAnswer> {
        self.gateway.ask(&Request::Jobs { ask })?.jobs.ok_or_else(|| self.other())
    }

    fn other(&self) -> Error {
        Error::new(Kind::Host, format!("the gateway of {} answered something else", self.service.name))
            .hint("it may be of another version: deploy once with this stillframe")
    }

    /// Every job that is kept, oldest first; of those that were accepted at `since` or later. Says how many.
    pub fn export(&self, since: Option<u64>, mut each: impl FnMut(JobDetail) -> Result<()>) -> Result<u64> {
        let (mut after, mut count) = (0, 0);
        loop {
            let JobsAnswer::Export { jobs, next } =
                self.ask(JobsAsk::Export { after, limit: PAGE, since })?
            else {
                return Err(self.other());
            };
            for job in jobs {
                each(job)?;
                count += 1;
            }
            match next {
                // A page that does not go on would be asked for again and again.
                Some(next) if next > after => after = next,
                _ => return Ok(count),
            }
        }
    }

    /// What has changed since the last look, oldest first; the first look has the newest `limit` jobs.
    pub fn changes(&self, watch: &mut Watch) -> Result<Vec<JobRow>> {
        let rows = |states: Vec<JobState>, order, limit| {
            let ask = JobsAsk::List { states, owner: watch.owner.clone(), order, offset: 0, limit };
            match self.ask(ask)? {
                JobsAnswer::List { jobs, .. } => Ok(jobs),
                _ => Err(self.other()),
            }
        };
        let mut found = rows(vec![JobState::Queued], JobsOrder::Accepted, LOOKED_AT)?;
        found.extend(rows(vec![JobState::Dispatched, JobState::Running], JobsOrder::Accepted, LOOKED_AT)?);
        found.extend(rows(JobState::OVER.to_vec(), JobsOrder::Ended, LOOKED_AT)?);
        let first = match watch.began {
            Some(_) => None,
            None => Some(rows(Vec::new(), JobsOrder::Accepted, watch.limit)?),
        };
        Ok(watch.look(found, first))
    }

    /// A consistent copy of the database, as a file that is open and has no name any more.
    pub fn backup(&self) -> Result<(File, u64)> {
        let database = self.service.jobs();
        let folder = database.parent().unwrap_or(Path::new("/"));
        tidy(folder);
        // The gateway may write nowhere else.
        let to = folder.join(format!("{COPY}{}", std::process::id()));
        let answer = self.ask(JobsAsk::Backup { to: to.clone() });
        let opened = answer.and_then(|_| open(&to));
        // Whoever has it open reads it on.
        let removed = files::remove(&to);
        let opened = opened?;
        removed?;
        Ok(opened)
    }
}

fn not_owned(name: &str) -> Error {
    let text = format!(
        "the instances of {name} have a queue and a history each, which end with them: there are no jobs of the \
         service to show"
    );
    Error::new(Kind::Input, text)
        .hint("write `queue = \"gateway\"` under [service.jobs] in stillframe.toml, then stillframe deploy")
}

/// Of a copy's name; the process that asked for it follows.
const COPY: &str = "copy-for-";

/// Removes copies that an agent did not live to remove.
fn tidy(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process =
            name.strip_prefix(COPY).and_then(|rest| rest.split(['.', '-']).next()?.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            // It only takes room; the next backup tries again.
            let _ = files::remove(&entry.path());
        }
    }
}

/// The folder is the gateway's, which is not root: what lies there may be no file at all.
fn open(path: &Path) -> Result<(File, u64)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags.bits() as i32).open(path);
    let file = file.map_err(|e| Error::io("open", path, e))?;
    let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if !meta.is_file() {
        return Err(Error::new(Kind::Host, format!("{} is no file", path.display())));
    }
    Ok((file, meta.len()))
}

/// What was seen of the jobs that are followed.
#[derive(Debug, Default)]
pub struct Watch {
    pub owner: Option<String>,
    pub limit: u64,
    /// When it was first looked, in milliseconds since 1970.
    began: Option<u64>,
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    state: JobState,
    instance: Option<String>,
    tries: usize,
}

impl Watch {
    pub fn new(owner: Option<String>, limit: u64) -> Watch {
        Watch { owner, limit, ..Watch::default() }
    }

    fn look(&mut self, found: Vec<JobRow>, first: Option<Vec<JobRow>>) -> Vec<JobRow> {
        let began = *self.began.get_or_insert_with(clock::now_ms);
        let mut news = Vec::new();
        let mut now = BTreeMap::new();
        for row in &found {
            let seen = Seen { state: row.state, instance: row.instance.clone(), tries: row.tries.len() };
            // What ended before anybody looked is history, also where it moves up because others are forgotten.
            let old =
                row.state.is_over() && row.ended.unwrap_or(0) < began && !self.seen.contains_key(&row.id);
            if self.seen.get(&row.id) != Some(&seen) && !old {
                news.push(row.clone());
            }
            now.insert(row.id.clone(), seen);
        }
        // Too many may wait for all of them to be looked at.
        self.seen.retain(|id, seen| !seen.state.is_over() && !now.contains_key(id));
        self.seen.extend(now);
        let mut news = first.unwrap_or(news);
        news.sort_by_key(|row| row.ended.or(row.started).unwrap_or(row.accepted));
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, state: JobState, at: u64) -> JobRow {
        JobRow {
            id: id.into(),
            seq: at,
            state,
            priority: 0,
            number: 0.0,
            owner: "o".into(),
            client: None,
            workflow: None,
            accepted: at,
            started: (state != JobState::Queued).then_some(at),
            ended: state.is_over().then_some(at),
            instance: None,
            generation: None,
            tries: Vec::new(),
            reason: None,
            position: None,
            waiting_for: None,
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let far = clock::now_ms() + 1_000_000;
        let mut watch = Watch::new(None, 10);
        let ids = |rows: Vec<JobRow>| rows.into_iter().map(|r| (r.id, r.state)).collect::<Vec<_>>();
        let told = |watch: &mut Watch, rows: &[JobRow]| ids(watch.look(rows.to_vec(), None));
        let (a, b) = (row("a", JobState::Queued, 1), row("b", JobState::Succeeded, 2));
        let first = watch.look(vec![a.clone(), b.clone()], Some(vec![b.clone(), a.clone()]));
        assert_eq!(ids(first), [("a".into(), JobState::Queued), ("b".into(), JobState::Succeeded)]);
        assert_eq!(told(&mut watch, &[a.clone(), b.clone()]), []);
        let running = row("a", JobState::Running, 3);
        assert_eq!(told(&mut watch, &[running.clone(), b]), [("a".into(), JobState::Running)]);
        // One that moved up ended long ago; one that came and went between two looks is news.
        let (old, new) = (row("old", JobState::Failed, 1), row("new", JobState::Failed, far));
        assert_eq!(
            told(&mut watch, &[running.clone(), old, new.clone()]),
            [("new".into(), JobState::Failed)]
        );
        // It is out of sight for a look.
        assert_eq!(told(&mut watch, std::slice::from_ref(&new)), []);
        assert_eq!(told(&mut watch, &[running, new]), []);
        let done = row("a", JobState::Succeeded, far);
        assert_eq!(told(&mut watch, &[done]), [("a".into(), JobState::Succeeded)]);
    }

    #[test]
    fn a_copy_whose_agent_is_gone_goes() {
        let dir = tempfile::tempdir().unwrap();
        let own = format!("{COPY}{}", std::process::id());
        for name in ["jobs.sqlite", "copy-for-4294967295", "copy-for-4294967295-journal", own.as_str()] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        tidy(dir.path());
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [own.as_str(), "jobs.sqlite"]);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("jobs.sqlite"), &link).unwrap();
        assert!(open(&link).is_err() && open(dir.path()).is_err());
        assert_eq!(open(&dir.path().join("jobs.sqlite")).unwrap().1, 0);
    }
}
