//! One instance as the gateway sees it: what is open on it, whether it is healthy, which connections are
//! kept.
use crate::gateway::clock::{self, Millis};
use crate::gateway::link::Link;
use crate::protocol::control::{Target, TargetStatus};
use hyper::header::HeaderValue;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tokio::sync::Notify;

/// How many connections without a request are kept; after a burst the others are closed.
const KEPT: usize = 128;
/// How long a connection without a request is kept: less than the 75 s after which aiohttp closes it.
const KEPT_FOR: Millis = 30_000;

/// For this long after a request no server known to us closes a connection (uvicorn: 5 s, aiohttp and nginx:
/// 75 s).
const FRESH: Millis = 1_000;

/// One WebSocket: counted in the upper half of `Instance::open`.
const WEBSOCKET: u64 = 1 << 32;

/// What an instance counts as before its first check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstHealth {
    /// Named by an order: the activation has just checked it.
    Well,
    /// Read from the table file: it may have gone since.
    Unknown,
}

/// Numbers of instances begin with 1; 0 is none.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

pub struct Instance {
    pub target: Target,
    /// Its number in this process. A table may name the same id again; a number is never used twice.
    pub number: u64,
    /// Its id, and what a request without a Host header gets as one, as header values.
    pub label: HeaderValue,
    pub host: HeaderValue,
    /// Requests in the lower half, WebSockets in the upper: one word, so that a request that becomes a
    /// WebSocket is never seen as neither.
    open: AtomicU64,
    healthy: AtomicBool,
    reason: Mutex<String>,
    failed_checks: AtomicU32,
    /// It gets no request at all: it was cut, or no longer listens.
    closed: AtomicBool,
    cut: AtomicBool,
    pub served: AtomicU64,
    pub failed: AtomicU64,
    /// Answers by the first digit of their status.
    pub classes: [AtomicU64; 5],
    /// Asks for a health check at once.
    pub check_now: Notify,
    kept: Mutex<Vec<Link>>,
}

impl Instance {
    pub fn new(target: Target, health: FirstHealth) -> Instance {
        let text = |s: &str| HeaderValue::from_str(s).unwrap_or(HeaderValue::from_static("?"));
        Instance {
            label: text(&target.id),
            host: text(&target.address.host()),
            target,
            number: LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1,
            open: AtomicU64::new(0),
            healthy: AtomicBool::new(health == FirstHealth::Well),
            reason: Mutex::new("not looked at yet".into()),
            failed_checks: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            classes: Default::default(),
            check_now: Notify::new(),
            kept: Mutex::new(Vec::new()),
        }
    }

    pub fn id(&self) -> &str {
        &self.target.id
    }

    /// Requests and WebSockets, read at one moment.
    pub fn open(&self) -> (u64, u64) {
        let open = self.open.load(Ordering::SeqCst);
        (open & (WEBSOCKET - 1), open / WEBSOCKET)
    }

    pub fn begin_request(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    pub fn end_request(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn request_becomes_websocket(&self) {
        self.open.fetch_add(WEBSOCKET - 1, Ordering::SeqCst);
    }

    pub fn end_websocket(&self) {
        self.open.fetch_sub(WEBSOCKET, Ordering::SeqCst);
    }

    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::SeqCst)
    }

    /// A check passed, or the activation vouches for it. True if it was unhealthy before.
    pub fn well(&self) -> bool {
        self.failed_checks.store(0, Ordering::SeqCst);
        !self.healthy.swap(true, Ordering::SeqCst)
    }

    /// Nothing listens there. True if it was healthy before.
    pub fn refused(&self, reason: &str) -> bool {
        *self.reason.lock() = reason.to_string();
        self.healthy.swap(false, Ordering::SeqCst)
    }

    /// A check failed; after `failures` in a row it is unhealthy. True if it became so just now.
    pub fn failed_check(&self, reason: &str, failures: u32) -> bool {
        let bad = self.failed_checks.fetch_add(1, Ordering::SeqCst) + 1;
        *self.reason.lock() = reason.to_string();
        bad >= failures.max(1) && self.healthy.swap(false, Ordering::SeqCst)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.kept.lock().clear();
    }

    /// The table names it again: whatever closed it no longer counts.
    pub fn reopen(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.cut.store(false, Ordering::SeqCst);
        self.well();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.close();
    }

    /// A connection that is kept open from an earlier request.
    pub fn take_link(&self) -> Option<Link> {
        self.kept.lock().pop()
    }

    /// The connection that was used last, if that was a moment ago.
    pub fn take_fresh_link(&self) -> Option<Link> {
        let fresh = clock::now().saturating_sub(FRESH);
        let mut kept = self.kept.lock();
        kept.pop_if(|link| link.since >= fresh)
    }

    pub fn keep_link(&self, mut link: Link) {
        if self.is_closed() {
            return;
        }
        link.since = clock::now();
        link.reused = true;
        let mut kept = self.kept.lock();
        if kept.len() < KEPT {
            kept.push(link);
        }
    }

    /// Closes what nobody has needed for a while. The last in is the first out, so the oldest come first.
    pub fn drop_old_links(&self) {
        let old = clock::now().saturating_sub(KEPT_FOR);
        let mut kept = self.kept.lock();
        let count = kept.iter().take_while(|link| link.since < old).count();
        kept.drain(..count);
    }

    pub fn status(&self, draining: bool) -> TargetStatus {
        let (requests, websockets) = self.open();
        let healthy = self.is_healthy();
        let reason = if healthy { None } else { Some(self.reason.lock().clone()) };
        TargetStatus {
            id: self.target.id.clone(),
            address: self.target.address.clone(),
            generation: self.target.generation,
            draining,
            healthy: healthy && !draining,
            reason: if draining { Some("not in the table any more".into()) } else { reason },
            requests,
            websockets,
            jobs: 0,
            served: self.served.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn instance(health: FirstHealth) -> Instance {
        let address = "127.0.0.1:8188".parse().unwrap();
        Instance::new(Target { id: "s0-g1".into(), address, slot: 0, generation: 1 }, health)
    }

    #[test]
    fn failed_checks_count_in_a_row_alone() {
        let it = instance(FirstHealth::Well);
        assert!(!it.failed_check("status 500", 2));
        assert!(!it.well());
        assert!(!it.failed_check("status 500", 2));
        assert!(it.is_healthy());
        assert!(it.failed_check("status 503", 2));
        assert!(!it.is_healthy());
        assert_eq!(it.status(false).reason.as_deref(), Some("status 503"));
        assert!(it.well());
        assert_eq!(it.status(false).reason, None);
    }

    #[test]
    fn a_refusal_counts_at_once() {
        let it = instance(FirstHealth::Well);
        assert!(it.refused("connection refused"));
        assert!(!it.refused("connection refused"));
        assert!(!it.is_healthy());
    }

    #[test]
    fn requests_and_websockets_are_counted_apart() {
        let it = instance(FirstHealth::Unknown);
        it.begin_request();
        it.begin_request();
        it.request_becomes_websocket();
        assert_eq!(it.open(), (1, 1));
        it.end_request();
        it.end_websocket();
        assert_eq!(it.open(), (0, 0));
    }
}
