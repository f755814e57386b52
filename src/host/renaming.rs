//! `stillframe-agent rename`: gives a stopped service another name. Nothing of it runs, so this moves folders and writes
//! links and state anew.
//!
//! What is to become of it is written first, beside the services (`Layout::renaming`), and each step can be done twice: what
//! was cut off is finished by the next rename, the next conversation, or the next start of the host.
use crate::host::activating;
use crate::host::journal::{self, Journal};
use crate::host::layout::{Layout, Service};
use crate::host::lease;
use crate::host::lookup;
use crate::host::roots;
use crate::host::state::ServiceState;
use crate::protocol::messages::{Attempt, AttemptKind, Holder, Outcome, Status};
use crate::protocol::version;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use crate::sys::files::{self, FileLock};
use crate::sys::say::say;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// What is under way; its name says of which service.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    version: u32,
    from: String,
    to: String,
}

/// Renames do not meet: one could take the name that another gives.
fn lock(layout: &Layout) -> Result<FileLock> {
    FileLock::acquire(&layout.renaming_lock(), "", |_| {})
}

/// Whether the service had the name already; `attempt` says who asks, and for which project.
pub fn rename(layout: &Layout, from: &str, to: &str, attempt: &Attempt) -> Result<bool> {
    let (service, target) = (layout.service(from), layout.service(to));
    {
        let _lock = lock(layout)?;
        finish_all(layout)?;
    }
    let known = |name: &str| layout.known().iter().any(|known| known == name);
    if !known(from) {
        return if known(to) { Ok(false) } else { Err(never(from)) };
    }
    let holder = Holder { since: clock::now_ms(), ..Holder::of(attempt) };
    let _lease = lease::take(&service, &holder)?.map_err(|other| {
        let text = format!("a {} of {from} is under way, begun by {}", other.kind.name(), other.by);
        Error::new(Kind::Busy, text).hint("rename it when that has ended")
    })?;
    let mut state = ServiceState::load(&service.state(), from)?;
    activating::end_pending(&service, &mut state)?;
    lookup::allowed(&service, &state, attempt)?;
    if state.serving.is_some() {
        return Err(Error::new(Kind::Input, format!("{from} serves")).hint("stop it first: stillframe stop"));
    }
    let _lock = lock(layout)?;
    free(&target)?;
    let (mut journal, _) = Journal::begin(&service, attempt.clone())?;
    journal.event(Status::Queued, &format!("{from} is to be called {to}"), None)?;
    let begun = Begun { version: VERSION, from: from.into(), to: to.into() };
    let bytes = serde_json::to_vec(&begun)
        .map_err(|e| Error::new(Kind::Io, "cannot write what is renamed").caused_by(e))?;
    fault::around(from, "rename/begin", || files::write_atomic(&layout.renaming(from), &bytes))?;
    finish(&service, &target)?;
    Ok(true)
}

fn never(name: &str) -> Error {
    Error::new(Kind::Input, format!("{name} was never deployed here"))
}

/// Whether nothing of another service, or of one that was removed, is in the way.
fn free(target: &Service) -> Result<()> {
    let moved = moves(target).into_iter().map(|(place, _)| place);
    let there =
        moved.chain([target.home.clone(), target.profile()]).find(|place| place.symlink_metadata().is_ok());
    let Some(there) = there else { return Ok(()) };
    Err(Error::new(Kind::Input, format!("{} is there already", there.display()))
        .hint(format!("choose another name, or move that away: a service {} is or was here", target.name)))
}

/// What is the service's own on disk, with what it is below.
fn moves(service: &Service) -> Vec<(PathBuf, PathBuf)> {
    let folders = [service.data_folder(), service.gateway_state()];
    let lib = |folder: &String| {
        ["/var/lib", "/var/lib/private"].map(|lib| (Path::new(lib).join(folder), PathBuf::from(lib)))
    };
    folders.iter().flat_map(lib).collect()
}

/// What is under way, or was cut off.
fn begun(layout: &Layout) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(layout.services()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".renaming-"))
    };
    paths.filter(is_one).collect()
}

/// Finishes what was cut off.
fn finish_all(layout: &Layout) -> Result<()> {
    for path in begun(layout) {
        let begun: Begun = serde_json::from_slice(&files::read(&path)?)
            .map_err(|e| Error::new(Kind::Io, format!("{} says nothing: {e}", path.display())))?;
        version::check(begun.version, VERSION)
            .map_err(|e| Error::new(Kind::Io, format!("{} is of {e}", path.display())))?;
        say(format_args!("{}: is called {} from now on", begun.from, begun.to));
        finish(&layout.service(&begun.from), &layout.service(&begun.to))?;
    }
    Ok(())
}

/// The same where one may be under way: it is waited for.
pub fn settle(layout: &Layout) -> Result<()> {
    if begun(layout).is_empty() {
        return Ok(());
    }
    let _lock = lock(layout)?;
    finish_all(layout)
}

fn finish(service: &Service, target: &Service) -> Result<()> {
    let (from, to) = (service.name.as_str(), target.name.as_str());
    for ((old, _), (new, _)) in moves(service).into_iter().zip(moves(target)) {
        fault::around(from, "rename/move", || shift(&old, &new))?;
    }
    fault::around(from, "rename/home", || shift(&service.home, &target.home))?;
    let mut state = ServiceState::load(&target.state(), to)?;
    state.service = to.into();
    for generation in state.generations.values_mut() {
        generation.wanted.spec.service = to.into();
    }
    fault::around(from, "rename/state", || state.save(&target.state()))?;
    // The new roots before the old ones go: a collector may run at any moment.
    for (number, generation) in &state.generations {
        activating::link(target, *number, generation)?;
    }
    roots::prune(service, &ServiceState::new(from))?;
    files::remove(&service.profile())?;
    service.remove_folders()?;
    end_record(target, &state)?;
    // The lease came along, and its holder's process is this one.
    files::remove(&target.lease())?;
    files::remove(&target.layout.renaming(from))?;
    files::sync_dir(&target.layout.services())
}

/// Moves a folder, or the link that systemd makes to one; what is not there has moved.
fn shift(old: &Path, new: &Path) -> Result<()> {
    if let Ok(link) = std::fs::read_link(old) {
        // A dynamic user's: `private/stillframe-data/NAME`, relative.
        let name = new.file_name().unwrap_or_default();
        files::replace_link(new, &link.with_file_name(name))?;
        return files::remove(old);
    }
    match std::fs::rename(old, new) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("rename", old, e)),
    }
    files::sync_dir(new.parent().unwrap_or(Path::new("/")))
}

/// The record moved along, and may have no end yet.
fn end_record(target: &Service, state: &ServiceState) -> Result<()> {
    let Some(number) = journal::numbers(target).pop() else { return Ok(()) };
    let record = journal::read(target, number)?;
    if record.attempt.kind != AttemptKind::Rename || record.outcome().is_some() {
        return Ok(());
    }
    let outcome = Outcome::unchanged(Status::Succeeded, state.serving);
    Journal::reopen(target, number)?.end(&outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::state::{Generation, Place};
    use crate::protocol::messages::Stopped;
    use crate::protocol::spec::{Spec, Wanted};
    use std::fs;

    fn layout(dir: &Path) -> Layout {
        Layout { nix: dir.join("nix"), run: dir.join("run"), ..Layout::new(&dir.join("state")) }
    }

    fn put(layout: &Layout, name: &str, serving: Option<u64>) -> ServiceState {
        let wanted = Wanted {
            snapshot: "/nix/store/a".into(),
            agent: "/nix/store/b".into(),
            launch: "demo".into(),
            classes: Default::default(),
            offered: Default::default(),
            spec: Spec::example(name),
        };
        let instances = vec![Place { slot: 0, port: None }];
        let generation =
            Generation { wanted, created: 0, attempt: 1, instances, before: None, after_stop: None };
        let stopped = serving.is_none().then(|| Stopped { generation: 1, by: "a@b".into(), since: 1 });
        let state = ServiceState {
            serving,
            stopped,
            next_generation: 2,
            generations: [(1, generation)].into(),
            ..ServiceState::new(name)
        };
        let service = layout.service(name);
        state.save(&service.state()).unwrap();
        activating::link(&service, 1, &state.generations[&1]).unwrap();
        state
    }

    fn attempt() -> Attempt {
        Attempt::asked("d1", AttemptKind::Rename, "one-of-tests", "a@b", &[])
    }

    #[test]
    fn a_stopped_service_has_another_name_wherever_it_was_cut_off() {
        for cut in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let layout = layout(dir.path());
            put(&layout, "one-of-tests", None);
            let (old, new) = (layout.service("one-of-tests"), layout.service("two-of-tests"));
            if cut == 0 {
                assert!(rename(&layout, &old.name, &new.name, &attempt()).unwrap());
            } else {
                let begun = Begun { version: VERSION, from: old.name.clone(), to: new.name.clone() };
                let (mut journal, _) = Journal::begin(&old, attempt()).unwrap();
                journal.event(Status::Queued, "", None).unwrap();
                files::write_atomic(&layout.renaming(&old.name), &serde_json::to_vec(&begun).unwrap())
                    .unwrap();
                if cut == 2 {
                    shift(&old.home, &new.home).unwrap();
                }
                settle(&layout).unwrap();
            }
            assert_eq!(layout.known(), ["two-of-tests"], "{cut}");
            let state = ServiceState::load(&new.state(), &new.name).unwrap();
            assert_eq!((state.service.as_str(), state.current()), ("two-of-tests", Some(1)));
            assert_eq!(state.generations[&1].wanted.spec.service, "two-of-tests");
            assert!(new.snapshot_root(1).is_symlink() && !old.snapshot_root(1).is_symlink(), "{cut}");
            assert!(!old.home.exists() && !new.lease().exists() && !layout.renaming(&old.name).exists());
            let record = journal::newest(&new, 1).unwrap().remove(0);
            assert_eq!((record.attempt.kind, record.status()), (AttemptKind::Rename, Status::Succeeded));
            // It has the name already.
            assert!(!rename(&layout, &old.name, &new.name, &attempt()).unwrap());
        }
    }

    #[test]
    fn what_serves_or_is_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let why = |from: &str, to: &str| rename(&layout, from, to, &attempt()).unwrap_err().message;
        assert_eq!(why("one-of-tests", "x-of-tests"), "one-of-tests was never deployed here");
        let state = put(&layout, "one-of-tests", Some(1));
        assert_eq!(why("one-of-tests", "x-of-tests"), "one-of-tests serves");
        put(&layout, "two-of-tests", None);
        let home = layout.service("one-of-tests").home;
        assert_eq!(why("two-of-tests", "one-of-tests"), format!("{} is there already", home.display()));
        fs::create_dir_all(layout.service("x-of-tests").home).unwrap();
        assert!(why("two-of-tests", "x-of-tests").ends_with("is there already"));
        assert_eq!(ServiceState::load(&home.join("state.json"), "one-of-tests").unwrap(), state);
    }
}
