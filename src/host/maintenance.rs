//! Whether this host is under maintenance: a file that is written before any service is stopped for it, and removed after
//! all of them serve again. While it is there nothing is deployed, restarted or started here.
use crate::host::layout::Layout;
use crate::host::state::ServiceState;
use crate::protocol::maintenance::{MAINTENANCE_VERSION, Maintenance};
use crate::protocol::messages::AttemptKind;
use crate::protocol::version;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;

pub fn read(layout: &Layout) -> Result<Option<Maintenance>> {
    let file = layout.maintenance();
    let broken = |why: String| {
        Error::new(
            Kind::Io,
            format!("{} does not say whether this host is under maintenance: {why}", file.display()),
        )
        .hint("where it is not: remove the file")
    };
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &file, e)),
    };
    let document: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
    version::check_document(&document, MAINTENANCE_VERSION).map_err(|e| broken(e.to_string()))?;
    serde_json::from_value(document).map(Some).map_err(|e| broken(e.to_string()))
}

fn write(layout: &Layout, now: &Maintenance) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(now)
        .map_err(|e| Error::new(Kind::Io, "cannot write that this host is under maintenance").caused_by(e))?;
    files::write_atomic(&layout.maintenance(), &bytes)
}

fn state(layout: &Layout, name: &str) -> Option<ServiceState> {
    ServiceState::load(&layout.service(name).state(), name).ok()
}

/// From now on nothing new is brought here. What is to be stopped is in the answer: begun twice, also what was at first.
pub fn begin(layout: &Layout, by: &str) -> Result<Maintenance> {
    let serves = |name: &String| state(layout, name).is_some_and(|state| state.serving.is_some());
    let mut services: Vec<String> = layout.known().into_iter().filter(serves).collect();
    let earlier = read(layout)?;
    services.extend(earlier.iter().flat_map(|earlier| earlier.services.clone()));
    services.sort();
    services.dedup();
    let (by, since) =
        earlier.map_or_else(|| (by.to_string(), clock::now_ms()), |earlier| (earlier.by, earlier.since));
    let now = Maintenance { version: MAINTENANCE_VERSION, by, since, services, returning: false };
    write(layout, &now)?;
    Ok(now)
}

/// It is about to end. The services are those of then that are still stopped.
pub fn returning(layout: &Layout) -> Result<Option<Maintenance>> {
    let Some(now) = read(layout)? else { return Ok(None) };
    let now = Maintenance { returning: true, ..now };
    write(layout, &now)?;
    let stopped = |name: &String| state(layout, name).is_some_and(|state| state.stopped.is_some());
    let services = now.services.iter().filter(|name| stopped(name)).cloned().collect();
    Ok(Some(Maintenance { services, ..now }))
}

pub fn end(layout: &Layout) -> Result<()> {
    files::remove(&layout.maintenance())?;
    files::sync_dir(&layout.state)
}

/// Refuses what would have this host serve something.
pub fn refuse(layout: &Layout, kind: AttemptKind) -> Result<()> {
    let Some(now) = read(layout)? else { return Ok(()) };
    let may = match kind {
        AttemptKind::Stop | AttemptKind::Remove | AttemptKind::TakeBack | AttemptKind::Rename => true,
        // Bounds alone, for when it serves again.
        AttemptKind::Scale => true,
        AttemptKind::Start => now.returning,
        AttemptKind::Deploy | AttemptKind::Rollback | AttemptKind::Restart => false,
    };
    if may {
        return Ok(());
    }
    let since = clock::rfc3339(now.since / 1000);
    Err(Error::new(Kind::Busy, format!("this host is under maintenance since {since}, by {}", now.by))
        .hint("once that is over: stillframe host return NAME"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::Stopped;

    #[test]
    fn what_served_is_remembered_and_nothing_new_comes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let put = |name: &str, serving, stopped| {
            let state = ServiceState { serving, stopped, ..ServiceState::new(name) };
            state.save(&layout.service(name).state()).unwrap();
        };
        let stopped = || Some(Stopped { generation: 1, by: "a@b".into(), since: 1 });
        put("one", Some(1), None);
        put("two", Some(1), None);
        put("rests", None, stopped());
        refuse(&layout, AttemptKind::Deploy).unwrap();
        assert_eq!(returning(&layout).unwrap(), None);
        let begun = begin(&layout, "a@b").unwrap();
        assert_eq!(begun.services, ["one", "two"]);
        put("one", None, stopped());
        let again = begin(&layout, "c@d").unwrap();
        assert_eq!((again.services, again.by), (begun.services, "a@b".into()));
        let may = |kind| refuse(&layout, kind).is_ok();
        for kind in [AttemptKind::Deploy, AttemptKind::Rollback, AttemptKind::Restart, AttemptKind::Start] {
            assert!(!may(kind), "{kind:?}");
        }
        assert!(may(AttemptKind::Stop) && may(AttemptKind::Remove) && may(AttemptKind::TakeBack));
        // One of them was never stopped, since it was being deployed.
        assert_eq!(returning(&layout).unwrap().unwrap().services, ["one"]);
        assert!(may(AttemptKind::Start) && !may(AttemptKind::Deploy));
        end(&layout).unwrap();
        assert!(may(AttemptKind::Deploy));
        std::fs::write(layout.maintenance(), "{").unwrap();
        assert!(refuse(&layout, AttemptKind::Deploy).unwrap_err().hint.unwrap().contains("remove the file"));
    }
}
