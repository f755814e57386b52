//! The clock of the limits: read for every part of a request, so it is a number in memory that one task
//! (`deadlines`) brings up to date a few times a second.
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub type Millis = u64;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static NOW: AtomicU64 = AtomicU64::new(0);

/// Milliseconds since the start, as of the last tick.
pub fn now() -> Millis {
    NOW.load(Ordering::Relaxed)
}

/// Sets the clock, and says what it shows from now on.
pub fn tick() -> Millis {
    let now = START.elapsed().as_millis() as Millis;
    NOW.store(now, Ordering::Relaxed);
    now
}
