//! Named places at which the tests break the host's programs, a clock that jumps, and guards that are taken out. All of
//! it is compiled in by the feature `fault-points`, which no release has; without it each function here does nothing.
//!
//! The tests say what is to happen in files of `/opt/stillframe-faults`, a folder that outlives a reboot and that everybody
//! may write, since the gateway is not root:
//!
//! - `plan`: `SCOPE NAME NTH WHEN ACT`. SCOPE is a service, or `host`; NTH counts the occurrences in one process, or is `*`
//!   for the next one; WHEN is `before`, `after` or `at`. ACT is `hang`, until the test takes `reached` away, or an error of
//!   the kernel. A plan happens once: it becomes `reached`.
//! - `seen`: where it is there, it gets a line `SCOPE NAME WHEN` for each place that is passed.
//! - `clock`: seconds that are added to the time of day.
//! - `mutations`: the names of the guards that are taken out.
use crate::sys::error::Result;

/// What belongs to no service.
pub const HOST: &str = "host";

/// One place.
pub fn point(scope: &str, name: &'static str) -> Result<()> {
    #[cfg(feature = "fault-points")]
    on::pass(scope, name, "at")?;
    let _ = (scope, name);
    Ok(())
}

/// A place before something that is done, and one after it.
pub fn around<T>(scope: &str, name: &'static str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(feature = "fault-points")]
    on::pass(scope, name, "before")?;
    let _ = (scope, name);
    let done = act()?;
    #[cfg(feature = "fault-points")]
    on::pass(scope, name, "after")?;
    Ok(done)
}

/// Whether a guard is taken out, so that a test must fail.
pub fn is_taken_out(guard: &str) -> bool {
    #[cfg(feature = "fault-points")]
    return on::is_taken_out(guard);
    #[cfg(not(feature = "fault-points"))]
    {
        let _ = guard;
        false
    }
}

/// What is added to the time of day, in seconds.
pub fn clock_jump() -> i64 {
    #[cfg(feature = "fault-points")]
    return on::clock_jump();
    #[cfg(not(feature = "fault-points"))]
    0
}

#[cfg(feature = "fault-points")]
mod on {
    use crate::sys::error::{Error, Result};
    use crate::sys::progress::check_interrupt;
    use parking_lot::Mutex;
    use rustix::io::Errno;
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    const FOLDER: &str = "/opt/stillframe-faults";
    const LOOK: Duration = Duration::from_millis(10);

    type Place = (String, &'static str, &'static str);
    static COUNTS: Mutex<BTreeMap<Place, u32>> = Mutex::new(BTreeMap::new());

    fn file(name: &str) -> PathBuf {
        Path::new(FOLDER).join(name)
    }

    pub fn pass(scope: &str, name: &'static str, when: &'static str) -> Result<()> {
        let count = {
            let mut counts = COUNTS.lock();
            let count = counts.entry((scope.into(), name, when)).or_default();
            *count += 1;
            *count
        };
        if let Ok(mut seen) = fs::OpenOptions::new().append(true).open(file("seen")) {
            // One write, so that processes do not mix their lines. Only the list of steps is made from it, and a test
            // compares that.
            let _ = seen.write_all(format!("{scope} {name} {when}\n").as_bytes());
        }
        let (plan, reached) = (file("plan"), file("reached"));
        let Ok(text) = fs::read_to_string(&plan) else { return Ok(()) };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [wanted, place, nth, at, act] = words[..] else { return Ok(()) };
        let is_here = (wanted, place, at) == (scope, name, when);
        if !is_here || nth != "*" && nth != count.to_string() {
            return Ok(());
        }
        if fs::rename(&plan, &reached).is_err() {
            // Another process was here first.
            return Ok(());
        }
        let fails = |errno: Errno| Err(Error::io(name, &plan, errno.into()));
        match act {
            "enospc" => fails(Errno::NOSPC),
            "eio" => fails(Errno::IO),
            "erofs" => fails(Errno::ROFS),
            _ => {
                // A signal is heard where the program itself listens to it.
                while reached.exists() && check_interrupt().is_ok() {
                    std::thread::sleep(LOOK);
                }
                Ok(())
            }
        }
    }

    pub fn is_taken_out(guard: &str) -> bool {
        fs::read_to_string(file("mutations"))
            .is_ok_and(|text| text.split_whitespace().any(|word| word == guard))
    }

    pub fn clock_jump() -> i64 {
        fs::read_to_string(file("clock")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_plan_nothing_happens() {
        point(HOST, "test/point").unwrap();
        assert_eq!(around(HOST, "test/around", || Ok(7)).unwrap(), 7);
        assert!(!is_taken_out("test"));
        assert_eq!(clock_jump(), 0);
    }
}
