//! How many hosts are sent to at once. Each takes streams of its own, and each of those a connection to the store, a
//! process of the daemon and two chunks of memory: all hosts of a large fleet at once would take gigabytes, and share
//! a line that a few of them fill.
use crate::sys::error::Result;
use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// With four streams each, at most half a gigabyte of chunks.
const PLACES: usize = 16;
const LOOK: Duration = Duration::from_millis(100);

pub struct Gate {
    free: Mutex<usize>,
    changed: Condvar,
}

/// A place, as long as it lives.
pub struct Place<'a>(&'a Gate);

impl Default for Gate {
    fn default() -> Gate {
        Gate { free: Mutex::new(PLACES), changed: Condvar::new() }
    }
}

impl Gate {
    /// Waits for a place, for as long as `check` lets it.
    pub fn enter(&self, check: &dyn Fn() -> Result<()>) -> Result<Place<'_>> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.changed.wait_for(&mut free, LOOK);
            // It may ask others for their locks.
            parking_lot::MutexGuard::unlocked(&mut free, check)?;
        }
        *free -= 1;
        Ok(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::error::{Error, Kind};
    use std::cell::Cell;

    #[test]
    fn who_finds_no_place_waits_until_one_is_free_or_nobody_wants_it() {
        let gate = Gate::default();
        let mut places: Vec<Place> = (0..PLACES).map(|_| gate.enter(&|| Ok(())).unwrap()).collect();
        let asked = Cell::new(0);
        let stopped = gate.enter(&|| {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Ok(()) } else { Err(Error::new(Kind::Interrupted, "stop")) }
        });
        assert_eq!((stopped.err().unwrap().message.as_str(), asked.get()), ("stop", 3));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(&|| Ok(())).map(drop));
            places.pop();
            waiting.join().unwrap().unwrap();
        });
        drop(places);
        assert_eq!(*gate.free.lock(), PLACES);
    }
}
