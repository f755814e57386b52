//! The lease of a service: one deployment at a time. It names its holder, and is free as soon as the holder's
//! process is gone, however it went.
//!
//! First the process that talks with the workstation holds it; the activation, which outlives that
//! conversation, takes it over by the deployment's id. One that is started again after it was killed, or after
//! a full disk, takes the lease that nobody has.
use crate::host::cancel;
use crate::host::journal;
use crate::host::layout::Service;
use crate::host::reserve;
use crate::host::state::ServiceState;
use crate::protocol::messages::{Attempt, Holder};
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use crate::sys::files::{self, FileLock};
use crate::sys::process::Life;
use crate::sys::progress::check_interrupt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, Instant};

const LEASE_VERSION: u32 = 1;
/// Who holds a lease without a deployment, and changes the service all the same.
pub const REPAIR: &str = "repair";
pub const RETENTION: &str = "retention";
/// How long a start of the host waits for those who change a service before it leaves the service to them.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    version: u32,
    holder: Holder,
    life: Life,
    /// The activation has begun: the lease cannot be taken away any more, only cancelled.
    activating: bool,
}

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lease {
    service: Service,
    life: Life,
}

fn lock(service: &Service) -> Result<FileLock> {
    FileLock::acquire(&service.mutex(), "", |_| {})
}

/// Fails while an agent of another version holds it: to take it for free would be two deployments at once.
fn read(service: &Service) -> Result<Option<File>> {
    // It is written whole; what cannot be read was written by something else and holds nothing.
    let Ok(bytes) = std::fs::read(service.lease()) else { return Ok(None) };
    let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
    let Err(other) = version::check_document(&document, LEASE_VERSION) else {
        return Ok(serde_json::from_value(document).ok());
    };
    let life = Life::deserialize(&document["life"]);
    if life.is_ok_and(|life| life.goes_on()) {
        let text = format!("the lease of {} is held by another agent: {other}", service.name);
        return Err(
            Error::new(Kind::Busy, text).hint("wait for its end, or deploy with the newer stillframe")
        );
    }
    Ok(None)
}

fn write(service: &Service, holder: &Holder, activating: bool) -> Result<Life> {
    let life = Life::own();
    let file = File { version: LEASE_VERSION, holder: holder.clone(), life: life.clone(), activating };
    let bytes =
        serde_json::to_vec(&file).map_err(|e| Error::new(Kind::Io, "cannot write the lease").caused_by(e))?;
    let put = || files::write_atomic(&service.lease(), &bytes);
    // An activation brings about an end that must come; a conversation can end here.
    if activating {
        reserve::spend(&service.layout, put)?
    } else {
        put()?
    }
    Ok(life)
}

/// Takes the lease, or says who has it.
pub fn take(service: &Service, holder: &Holder) -> Result<std::result::Result<Lease, Holder>> {
    let _lock = lock(service)?;
    match read(service)? {
        Some(file) if file.life.goes_on() => Ok(Err(file.holder)),
        _ => Ok(Ok(Lease { life: write(service, holder, false)?, service: service.clone() })),
    }
}

/// Takes the lease for the activation of an attempt: over from another process of the same deployment, or where
/// nobody has it.
pub fn take_over(service: &Service, attempt: &Attempt) -> Result<Lease> {
    if fault::is_taken_out("lease") {
        return Ok(Lease { life: Life::own(), service: service.clone() });
    }
    let _lock = lock(service)?;
    let holder = match read(service)? {
        Some(file) if file.holder.deployment == attempt.deployment => file.holder,
        Some(file) if file.life.goes_on() => {
            let text = format!("the lease of {} belongs to {}", service.name, file.holder.by);
            return Err(Error::new(Kind::Busy, text).hint("deploy again"));
        }
        _ => Holder::of(attempt),
    };
    let life = match write(service, &holder, true) {
        // Where there is no space nobody else can take it either, and exactly one generation has to run.
        Err(e) if e.is_full() => Life::own(),
        written => written?,
    };
    Ok(Lease { life, service: service.clone() })
}

/// Who changes the service now: its activation has begun, or it is repaired.
fn changing(service: &Service) -> Result<Option<Holder>> {
    let changes =
        |file: &File| file.activating || [REPAIR, RETENTION].contains(&file.holder.deployment.as_str());
    Ok(read(service)?.filter(|file| file.life.goes_on() && changes(file)).map(|file| file.holder))
}

/// Does something while nobody changes the service, and nobody can begin to; does nothing, and says who it is, where
/// somebody does. A deployment that copies is in nobody's way.
pub fn unless_changing<T>(
    service: &Service,
    act: impl FnOnce() -> Result<T>,
) -> Result<std::result::Result<T, Holder>> {
    let _lock = lock(service)?;
    match changing(service)?.or_else(|| cut_off(service)) {
        Some(holder) => Ok(Err(holder)),
        None => act().map(Ok),
    }
}

/// Does what a start of the host does while nobody changes the service, and nobody can begin to. A deployment that copies
/// does not keep a host from coming back. Nothing is done where an activation goes on for long: it ends with one generation.
pub fn undisturbed<T>(service: &Service, act: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    let begun = Instant::now();
    loop {
        let lock = lock(service)?;
        if changing(service)?.is_none() {
            return act().map(Some);
        }
        drop(lock);
        if begun.elapsed() >= PATIENCE {
            return Ok(None);
        }
        check_interrupt()?;
        std::thread::sleep(LOOK);
    }
}

/// Who has it now, and whether an activation runs.
pub fn holder(service: &Service) -> Option<(Holder, bool)> {
    read(service).ok().flatten().filter(|f| f.life.goes_on()).map(|f| (f.holder, f.activating))
}

/// Who deploys, and whether an activation runs: the lease's holder, or else whoever began the activation that the
/// state says is not over. Such a one has no process for a moment, or none that can write how it ends.
pub fn under_way(service: &Service) -> Option<(Holder, bool)> {
    holder(service).or_else(|| Some((cut_off(service)?, true)))
}

/// Who began the activation that the state says is not over.
pub fn cut_off(service: &Service) -> Option<Holder> {
    let pending = ServiceState::load(&service.state(), &service.name).ok()?.pending?;
    Some(Holder::of(&journal::read(service, pending.attempt).ok()?.attempt))
}

/// Takes the lease away from a deployment that has not begun its activation.
pub fn break_it(service: &Service) -> Result<Option<Holder>> {
    let _lock = lock(service)?;
    let Some(file) = read(service)?.filter(|f| f.life.goes_on()) else {
        let Some(holder) = cut_off(service) else { return Ok(None) };
        let text = format!("an activation of {} was cut off, begun by {}", service.name, holder.by);
        let unit = service.activation_unit(holder.attempt);
        let why = match reserve::full(&service.layout) {
            Some(mount) => format!("free space on the file system at {mount}: it then ends by itself"),
            None => {
                format!("it is brought to its end by itself, or by the next deployment: journalctl -u {unit}")
            }
        };
        return Err(Error::new(Kind::Busy, text).hint(why));
    };
    if file.activating {
        return Err(Error::new(
            Kind::Busy,
            format!("an activation of {} is under way, begun by {}", service.name, file.holder.by),
        )
        .hint("stillframe cancel stops it and brings the old generation back"));
    }
    std::fs::remove_file(service.lease()).map_err(|e| Error::io("remove", service.lease(), e))?;
    // Its activation may be about to begin, and finds the lease free.
    cancel::request(service, &file.holder.deployment, "unlock")?;
    Ok(Some(file.holder))
}

impl Lease {
    /// Names the holder anew, once more of it is known.
    pub fn rename(&mut self, holder: &Holder) -> Result<()> {
        let _lock = lock(&self.service)?;
        if !self.is_ours() {
            return Err(Error::new(Kind::Busy, format!("the lease of {} was taken away", self.service.name)));
        }
        write(&self.service, holder, false).map(drop)
    }

    /// Takes it back after an activation of the same deployment, which may be about to let it go.
    pub fn take_back(&mut self, holder: &Holder) -> Result<std::result::Result<(), Holder>> {
        let _lock = lock(&self.service)?;
        match read(&self.service)? {
            Some(file) if file.life.goes_on() && file.holder.deployment != holder.deployment => {
                Ok(Err(file.holder))
            }
            _ => {
                self.life = write(&self.service, holder, false)?;
                Ok(Ok(()))
            }
        }
    }

    /// Whether nobody took it over or away.
    pub fn is_ours(&self) -> bool {
        read(&self.service).is_ok_and(|file| file.is_some_and(|f| f.life == self.life))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.service.home.exists() {
            // It went with the service; a lock would make the folder anew.
            return;
        }
        // What is not removed here is free all the same once this process has ended.
        if let Ok(_lock) = lock(&self.service)
            && self.is_ours()
        {
            let _ = std::fs::remove_file(self.service.lease());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::activating;
    use crate::host::layout::Layout;
    use crate::host::state::{Pending, Work};
    use crate::protocol::messages::{AttemptKind, RECORD_VERSION};

    fn holder_of(deployment: &str) -> Holder {
        Holder {
            deployment: deployment.into(),
            kind: AttemptKind::Deploy,
            by: "a@b".into(),
            since: 1,
            attempt: 1,
        }
    }

    #[test]
    fn one_holder_at_a_time_and_none_after_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        let one = take(&service, &holder_of("one")).unwrap().unwrap();
        assert_eq!(take(&service, &holder_of("two")).unwrap().unwrap_err(), holder_of("one"));
        assert_eq!(holder(&service), Some((holder_of("one"), false)));
        drop(one);
        assert_eq!(holder(&service), None);
        // One whose process was killed.
        let mut left = take(&service, &holder_of("three")).unwrap().unwrap();
        let mut file = read(&service).unwrap().unwrap();
        file.life.started += 1;
        files::write_atomic(&service.lease(), &serde_json::to_vec(&file).unwrap()).unwrap();
        left.life.started = 0;
        assert_eq!(holder(&service), None);
        drop(take(&service, &holder_of("four")).unwrap().unwrap());
    }

    fn attempt_of(deployment: &str) -> Attempt {
        let asked = Attempt::asked(deployment, AttemptKind::Deploy, "demo", "a@b", &[]);
        Attempt { version: RECORD_VERSION, attempt: 1, began: 1, ..asked }
    }

    /// Killed, or ended by a full disk, it let go of the lease or left that of a process that is gone.
    #[test]
    fn an_activation_that_is_started_again_takes_the_lease_that_nobody_has() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        std::fs::create_dir_all(&service.home).unwrap();
        let again = take_over(&service, &attempt_of("one")).unwrap();
        assert_eq!(holder(&service), Some((holder_of("one"), true)));
        let mut file = read(&service).unwrap().unwrap();
        (file.life.started, file.holder) = (1, holder_of("another"));
        files::write_atomic(&service.lease(), &serde_json::to_vec(&file).unwrap()).unwrap();
        drop(again);
        drop(take_over(&service, &attempt_of("one")).unwrap());
        assert_eq!(holder(&service), None);
    }

    /// Without a lease: its process ended because it could not write.
    #[test]
    fn an_activation_that_is_not_over_is_seen_by_all_who_ask() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        let (_, attempt) = journal::Journal::begin(&service, attempt_of("one")).unwrap();
        let pending =
            Pending { attempt: 1, generation: 2, previous: Some(1), kept: false, work: Work::Activation };
        let state = ServiceState { pending: Some(pending), ..ServiceState::new("demo") };
        state.save(&service.state()).unwrap();
        assert_eq!(holder(&service), None);
        assert_eq!(under_way(&service), Some((Holder::of(&attempt), true)));
        let error = break_it(&service).unwrap_err();
        assert_eq!(error.to_string(), "an activation of demo was cut off, begun by a@b");
        assert!(
            error
                .hint
                .unwrap()
                .contains("by the next deployment: journalctl -u stillframe-demo-activation-1")
        );
    }

    /// A boot process that is started again, because another service could not be brought back.
    #[test]
    fn a_start_of_the_host_meets_a_deployment() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        let conversation = take(&service, &holder_of("one")).unwrap().unwrap();
        let (_journal, attempt) = journal::Journal::begin(&service, attempt_of("one")).unwrap();
        ServiceState::new("demo").save(&service.state()).unwrap();
        // While it copies, the service can come back; its record is not ended, whether the lease has its number yet or not.
        for number in [0, attempt.attempt] {
            let mut lease = Lease { service: service.clone(), life: conversation.life.clone() };
            lease.rename(&Holder { attempt: number, ..holder_of("one") }).unwrap();
            std::mem::forget(lease);
            undisturbed(&service, || activating::end_abandoned(&service)).unwrap().unwrap();
            assert!(journal::read(&service, attempt.attempt).unwrap().outcome().is_none());
        }
        // An activation, or a repair, is waited for; meanwhile none can begin.
        let activation = take_over(&service, &attempt).unwrap();
        let ended = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(activation);
        });
        let began = Instant::now();
        let other = undisturbed(&service, || {
            assert!(began.elapsed() >= Duration::from_millis(300));
            let service = service.clone();
            let other = std::thread::spawn(move || drop(take(&service, &holder_of("two")).unwrap().unwrap()));
            std::thread::sleep(Duration::from_millis(200));
            assert!(!other.is_finished());
            Ok(other)
        });
        other.unwrap().unwrap().join().unwrap();
        ended.join().unwrap();
        // Whoever is gone holds nothing up, and its record is ended.
        activating::end_abandoned(&service).unwrap();
        assert!(journal::read(&service, attempt.attempt).unwrap().outcome().is_some());
    }

    #[test]
    fn an_activation_takes_it_over_and_then_nobody_takes_it_away() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        let one = take(&service, &holder_of("one")).unwrap().unwrap();
        assert_eq!(break_it(&service).unwrap(), Some(holder_of("one")));
        assert!(!one.is_ours());
        // An activation that begins all the same is told to stop.
        assert_eq!(cancel::check(&service, "one").unwrap_err().to_string(), "cancelled by unlock");
        let one = take(&service, &holder_of("one")).unwrap().unwrap();
        let over = take_over(&service, &attempt_of("one")).unwrap();
        let other = take_over(&service, &attempt_of("two")).unwrap_err();
        assert_eq!(other.to_string(), "the lease of demo belongs to a@b");
        assert_eq!(holder(&service), Some((holder_of("one"), true)));
        assert_eq!(
            break_it(&service).unwrap_err().to_string(),
            "an activation of demo is under way, begun by a@b"
        );
        let mut one = one;
        one.take_back(&holder_of("one")).unwrap().unwrap();
        assert_eq!(holder(&service), Some((holder_of("one"), false)));
        drop(one);
        // In this test both are one process; what the activation lets go is not there any more.
        drop(over);
        assert_eq!(break_it(&service).unwrap(), None);
    }
}
