//! What the gateway counts. `metrics_page` shows it.
use crate::gateway::refusal::Fault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper bounds of the latency histogram, in microseconds; the last bucket has none.
pub const BOUNDS: [u64; 15] = [
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];

pub struct Metrics {
    /// Since the epoch.
    pub started: Duration,
    /// The gateway's own answers, by class of status.
    pub own: [AtomicU64; 5],
    /// By their kind's place in `Fault::ALL`.
    pub errors: [AtomicU64; Fault::ALL.len()],
    /// Requests by bucket; `latency_micros` is the sum of their times.
    pub latency: [AtomicU64; BOUNDS.len() + 1],
    pub latency_micros: AtomicU64,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub open: AtomicU64,
    pub connections: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            own: Default::default(),
            errors: Default::default(),
            latency: Default::default(),
            latency_micros: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            open: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }
}

/// The place of a status in an array of counters by class.
pub fn class(status: u16) -> usize {
    usize::from(status / 100).clamp(1, 5) - 1
}

impl Metrics {
    pub fn own_answer(&self, status: u16) {
        self.own[class(status)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn error(&self, fault: Fault) {
        self.errors[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn latency(&self, took: Duration) {
        let micros = took.as_micros() as u64;
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        assert_eq!([class(101), class(200), class(404), class(599), class(0)], [0, 1, 3, 4, 0]);
    }

    #[test]
    fn a_time_falls_in_its_bucket() {
        let metrics = Metrics::default();
        for micros in [0, 1_000, 1_001, u64::MAX / 2] {
            metrics.latency(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = metrics.latency.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[BOUNDS.len()]), (2, 1, 1));
    }
}
