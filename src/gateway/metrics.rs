//! Counters, and the page that shows them in Prometheus' text format 0.0.4.
use crate::gateway::Gateway;
use crate::gateway::refusal::Fault;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper bounds of the latency histogram, in microseconds; the last bucket has none.
const BOUNDS: [u64; 15] = [
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
    started: Duration,
    /// The gateway's own answers, by the first digit of their status.
    own: [AtomicU64; 5],
    errors: [AtomicU64; Fault::ALL.len()],
    latency: [AtomicU64; BOUNDS.len() + 1],
    latency_micros: AtomicU64,
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

/// The place of a status in counters by class.
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

    pub fn page(&self, gateway: &Gateway) -> String {
        let mut page = Page(String::new());
        let all = gateway.router.all();
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.head("requests_total", "counter", "Requests answered, by instance and class of status.");
        let own = (self.own.iter().enumerate()).map(|(class, n)| ("", class, n));
        let others = all.iter().flat_map(|(i, _)| {
            i.classes.iter().enumerate().map(|(class, n)| (i.id(), class, n)).collect::<Vec<_>>()
        });
        for (instance, class, count) in own.chain(others).filter(|(_, _, n)| read(n) > 0) {
            let labels = format!("instance=\"{instance}\",class=\"{}xx\"", class + 1);
            page.line("requests_total", &labels, read(count));
        }
        page.one("open_requests", "gauge", "Requests begun and not ended.", read(&self.open));
        page.one(
            "held_requests",
            "gauge",
            "Requests that wait for an instance.",
            gateway.waiting.count() as u64,
        );
        page.one("connections", "gauge", "Connections of clients.", gateway.connections.count() as u64);
        page.one("connections_total", "counter", "Connections accepted.", read(&self.connections));
        page.one("received_bytes_total", "counter", "Bytes from clients to instances.", read(&self.received));
        page.one("sent_bytes_total", "counter", "Bytes from instances to clients.", read(&self.sent));
        page.head("instance_healthy", "gauge", "1 when the instance has new requests.");
        for (instance, draining) in &all {
            let labels = format!("instance=\"{}\"", instance.id());
            page.line("instance_healthy", &labels, u64::from(instance.is_healthy() && !draining));
        }
        page.head("instance_requests", "gauge", "Requests open on an instance.");
        for (instance, _) in &all {
            page.line("instance_requests", &format!("instance=\"{}\"", instance.id()), instance.open().0);
        }
        page.head("websockets", "gauge", "Upgraded connections, by instance.");
        for (instance, _) in &all {
            page.line("websockets", &format!("instance=\"{}\"", instance.id()), instance.open().1);
        }
        page.head("errors_total", "counter", "Answers that the gateway made itself, and cut ones, by kind.");
        for (fault, count) in Fault::ALL.iter().zip(&self.errors) {
            page.line("errors_total", &format!("kind=\"{}\"", fault.name()), read(count));
        }
        page.head("request_seconds", "histogram", "From the head of a request to the end of its answer.");
        let mut total = 0;
        for (bucket, count) in self.latency.iter().enumerate() {
            total += read(count);
            let bound =
                BOUNDS.get(bucket).map_or("+Inf".to_string(), |micros| format!("{}", *micros as f64 / 1e6));
            page.line("request_seconds_bucket", &format!("le=\"{bound}\""), total);
        }
        page.line("request_seconds_sum", "", read(&self.latency_micros) as f64 / 1e6);
        page.line("request_seconds_count", "", total);
        page.0.push_str("# HELP process_start_time_seconds Start of the process since the epoch.\n");
        page.0.push_str("# TYPE process_start_time_seconds gauge\n");
        let _ = writeln!(page.0, "process_start_time_seconds {:.3}", self.started.as_secs_f64());
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let name = format!("stillframe_gateway_{name}");
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "stillframe_gateway_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, "", value);
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
