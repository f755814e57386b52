//! One client's connection: which phase it is in, for the limits of time; and all connections together.
use crate::gateway::clock::{self, Millis};
use crate::gateway::share::{Full, Share, Source};
use hyper::header::HeaderValue;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Waker};
use tokio::sync::Notify;

/// What a connection is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Between two requests.
    Idle,
    /// The head of a request is being read.
    Head,
    /// The request waits for an instance, or for a connection to it.
    Wait,
    /// The body of the request goes to the instance.
    Body,
    /// The request is with the instance, whose answer has not begun.
    Answer,
    /// The answer is on its way to the client.
    Stream,
    /// Closed by us; what the client still sends is thrown away.
    Linger,
}

const PHASES: [Phase; 7] =
    [Phase::Idle, Phase::Head, Phase::Wait, Phase::Body, Phase::Answer, Phase::Stream, Phase::Linger];

/// Why the body of a request did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    TooLarge,
    ClientGone,
}

/// A connection's share of all connections. It lasts as long as the tunnel that the connection may become.
pub struct Seat {
    pub share: Share<Source>,
    /// The peer is a trusted proxy.
    pub trusted: bool,
    /// The share is of the reserve, for this reason.
    pub full: Option<Full>,
}

impl Seat {
    pub fn is_reserve(&self) -> bool {
        self.full.is_some()
    }
}

pub struct Client {
    pub ip: IpAddr,
    pub seat: Option<Seat>,
    /// The same for X-Forwarded-For.
    pub text: HeaderValue,
    phase: AtomicU8,
    since: AtomicU64,
    expired: AtomicBool,
    /// It has had no request for a while.
    rests: AtomicBool,
    /// The socket took the last bytes whole: hyper has none left to write.
    written: AtomicBool,
    /// The request's body was not read to its end.
    unread: AtomicBool,
    /// The client is the one who has to send the next part of it.
    waiting: AtomicBool,
    fault: Mutex<Option<BodyFault>>,
    received: AtomicU64,
    instance: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Client {
    pub fn new(ip: IpAddr, seat: Option<Seat>) -> Client {
        // A listener on [::] sees a client of IPv4 as ::ffff:1.2.3.4.
        let ip = ip.to_canonical();
        Client {
            ip,
            seat,
            text: HeaderValue::from_str(&ip.to_string()).unwrap_or(HeaderValue::from_static("unknown")),
            phase: AtomicU8::new(Phase::Idle as u8),
            since: AtomicU64::new(clock::now()),
            expired: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            written: AtomicBool::new(true),
            unread: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            fault: Mutex::new(None),
            received: AtomicU64::new(0),
            instance: AtomicU64::new(0),
            waker: Mutex::new(None),
        }
    }

    /// It has a place for one short request.
    pub fn is_reserve(&self) -> bool {
        self.seat.as_ref().is_some_and(Seat::is_reserve)
    }

    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    pub fn since(&self) -> Millis {
        self.since.load(Ordering::Relaxed)
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since.store(clock::now(), Ordering::Relaxed);
        self.expired.store(false, Ordering::Relaxed);
        self.rests.store(false, Ordering::Relaxed);
    }

    /// Something moved.
    pub fn touch(&self) {
        self.since.store(clock::now(), Ordering::Relaxed);
    }

    /// A new request, with a body or without.
    pub fn begin(&self, body: bool) {
        self.enter(Phase::Wait);
        self.unread.store(body, Ordering::Relaxed);
        self.waiting.store(false, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        if body {
            *self.fault.lock() = None;
        }
    }

    /// Whether the socket took what was last written to it whole.
    pub fn set_written(&self, whole: bool) {
        self.written.store(whole, Ordering::Relaxed);
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.waiting.store(false, Ordering::Relaxed);
        self.touch();
    }

    pub fn wait_for_body(&self) {
        self.waiting.store(true, Ordering::Relaxed);
    }

    pub fn waits_for_body(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn body_read(&self) {
        self.unread.store(false, Ordering::Relaxed);
        self.waiting.store(false, Ordering::Relaxed);
    }

    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The number of the instance whose answer it gets (see `Instance::number`).
    pub fn served_by(&self, instance: u64) {
        self.instance.store(instance, Ordering::Relaxed);
    }

    pub fn is_served_by(&self, instance: u64) -> bool {
        self.phase() == Phase::Stream && self.instance.load(Ordering::Relaxed) == instance
    }

    /// The instance has the whole request.
    pub fn body_sent(&self) {
        if self.phase() == Phase::Body {
            self.enter(Phase::Answer);
        }
    }

    pub fn fail_body(&self, fault: BodyFault) {
        *self.fault.lock() = Some(fault);
    }

    pub fn body_fault(&self) -> Option<BodyFault> {
        *self.fault.lock()
    }

    /// Its time in this phase is up.
    pub fn expire(&self, phase: Phase) {
        if self.phase() == phase && !self.expired.swap(true, Ordering::Relaxed) {
            self.wake();
        }
    }

    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    /// It has nothing to do: see `server::serve`.
    pub fn rest(&self) {
        let idle = self.phase() == Phase::Idle && self.written.load(Ordering::Relaxed);
        if idle && !self.rests.swap(true, Ordering::Relaxed) {
            self.wake();
        }
    }

    pub fn rests(&self) -> bool {
        self.rests.load(Ordering::Relaxed)
    }

    /// Registers the connection's task, which whatever concerns the connection wakes.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

/// All connections of clients, except upgraded ones.
#[derive(Default)]
pub struct Connections {
    /// In the order in which they came.
    all: Mutex<(u64, BTreeMap<u64, Arc<Client>>)>,
    /// Notified when a connection ends.
    pub fewer: Notify,
}

/// A connection's place among them, until it is dropped.
pub struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    pub fn enter(self: &Arc<Self>, client: &Arc<Client>) -> Place {
        let mut all = self.all.lock();
        all.0 += 1;
        let number = all.0;
        all.1.insert(number, client.clone());
        Place { connections: self.clone(), number }
    }

    pub fn count(&self) -> usize {
        self.all.lock().1.len()
    }

    pub fn each(&self, act: impl FnMut(&Arc<Client>)) {
        self.all.lock().1.values().for_each(act);
    }

    /// Something changed that concerns all of them.
    pub fn wake_all(&self) {
        self.each(|client| client.wake());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.all.lock().1.remove(&self.number);
        self.connections.fewer.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_expiry() {
        let client = Client::new("::ffff:10.0.0.7".parse().unwrap(), None);
        assert_eq!(client.text, "10.0.0.7");
        for phase in PHASES {
            client.enter(phase);
            assert_eq!(client.phase(), phase);
        }
        client.enter(Phase::Body);
        client.expire(Phase::Idle);
        assert!(!client.is_expired());
        client.expire(Phase::Body);
        assert!(client.is_expired());
        client.body_sent();
        assert_eq!(client.phase(), Phase::Answer);
        assert!(!client.is_expired());
    }

    #[test]
    fn only_an_idle_connection_rests() {
        let client = Client::new("10.0.0.7".parse().unwrap(), None);
        client.enter(Phase::Head);
        client.rest();
        assert!(!client.rests());
        client.enter(Phase::Idle);
        client.written.store(false, Ordering::Relaxed);
        client.rest();
        assert!(!client.rests());
        client.written.store(true, Ordering::Relaxed);
        client.rest();
        assert!(client.rests());
        client.enter(Phase::Head);
        assert!(!client.rests());
    }

    #[test]
    fn connections_are_counted_until_they_go() {
        let all = Arc::new(Connections::default());
        let client = Arc::new(Client::new("10.0.0.7".parse().unwrap(), None));
        let one = all.enter(&client);
        let two = all.enter(&client);
        assert_eq!(all.count(), 2);
        drop(one);
        assert_eq!(all.count(), 1);
        drop(two);
        assert_eq!(all.count(), 0);
    }
}
