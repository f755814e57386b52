//! What the gateway knows of the jobs that have not ended: which wait, which instance has which, and who
//! decides what goes where. Nothing here waits: what is durable is written by whoever calls (`accept`, `seat`).
use crate::gateway::access_log::{Level, Log};
use crate::gateway::deliveries::handle::Handle;
use crate::gateway::hub::Hub;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::files::Files;
use crate::gateway::jobs::made::Made;
use crate::gateway::jobs::place::{Id, Order, Seat};
use crate::gateway::router::Router;
use crate::jobs::ledger::Ledger;
use crate::jobs::model::{Job, Owner, State};
use crate::jobs::queue::{self, Queue, Waiting};
use crate::protocol::jobs::Jobs;
pub use crate::sys::clock::now_ms as now;
use crate::sys::fault;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// How many jobs an instance has at most: one runs, one waits there, so that its models stay loaded and it is
/// never idle between two.
const PLACES: usize = 2;
/// The guard that the tests take out: a job then stays in the queue until it is written down who has it.
pub const CLAIM: &str = "jobs-claim";

pub struct Engine {
    pub ledger: Ledger,
    /// What clients put in for their jobs.
    pub files: Files,
    settings: RwLock<Arc<Jobs>>,
    inner: Mutex<Inner>,
    seats: Mutex<Vec<Arc<Seat>>>,
    /// Jobs that are being given to instances.
    sending: AtomicUsize,
    /// Which instance made which picture.
    pub made: Made,
    /// How many have ended since the start, by state.
    pub ended: [(State, AtomicU64); 4],
    deliveries: Mutex<Option<Arc<Handle>>>,
    /// Another process takes over: nothing is accepted or dispatched here, ever again.
    paused: AtomicBool,
    /// Held while the instances are written down.
    pub known: Mutex<()>,
    /// An id is accepted, a job has ended, or `paused` has changed.
    pub changed: Notify,
}

#[derive(Default)]
pub struct Inner {
    pub queue: Queue,
    pub open: HashMap<Id, Open>,
    pub last_seq: u64,
    /// Places of jobs that are being written.
    pub reserved: HashMap<Owner, usize>,
    /// Ids of jobs that are being written.
    pub accepting: HashSet<String>,
}

pub struct Open {
    pub job: Job,
    /// What its end is to be taken for.
    pub wish: Wish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It runs to its end.
    Finish,
    /// Its client or an operator wants it to stop.
    Cancel,
    /// Its instance has to stop: it waits again.
    Drain,
}

/// Nothing waits here, an instance is free, and at another one a job waits behind one that runs: it goes to the free one.
fn steal(seats: &[Arc<Seat>]) {
    let full = seats.iter().find(|seat| seat.count() >= PLACES);
    if seats.iter().any(|seat| seat.count() == 0)
        && let Some(full) = full
        && full.order_back()
    {
        full.order(Order::TakeBack);
    }
}

/// Takes the job that runs next out of the queue. Whoever looks holds the lock until the seat has the job, so that
/// nobody else gives it away, too.
fn claim(inner: &mut Inner, seat: &Seat) -> Option<Waiting> {
    let waiting = inner.queue.pick(seat.warmth())?;
    if fault::is_taken_out(CLAIM) {
        inner.queue.push(waiting.clone());
    }
    Some(waiting)
}

pub fn waiting(job: &Job) -> Waiting {
    Waiting {
        id: job.id.as_str().into(),
        owner: job.owner.as_str().into(),
        number: job.number,
        priority: job.priority,
        seq: job.seq,
        warmth: job.warmth,
        accepted: job.accepted,
    }
}

impl Engine {
    /// With the jobs that an earlier process left open. What was given to an instance stays with it until that
    /// instance has been asked (`seat`).
    pub fn new((ledger, files): (Ledger, Files), settings: Jobs, open: Vec<Job>, last_seq: u64) -> Engine {
        let mut inner = Inner { last_seq, ..Inner::default() };
        for job in open {
            // What was taken back is nobody's turn.
            if job.state == State::Queued && !job.cancelled {
                inner.queue.push(waiting(&job));
            }
            let wish = if job.cancelled { Wish::Cancel } else { Wish::Finish };
            inner.open.insert(job.id.as_str().into(), Open { job, wish });
        }
        Engine {
            ledger,
            files,
            settings: RwLock::new(Arc::new(settings)),
            inner: Mutex::new(inner),
            seats: Mutex::default(),
            sending: AtomicUsize::new(0),
            made: Made::default(),
            ended: [State::Succeeded, State::Failed, State::Cancelled, State::Expired]
                .map(|state| (state, AtomicU64::new(0))),
            deliveries: Mutex::default(),
            paused: AtomicBool::new(false),
            known: Mutex::new(()),
            changed: Notify::new(),
        }
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub fn settings(&self) -> Arc<Jobs> {
        self.settings.read().clone()
    }

    pub fn set_settings(&self, settings: Jobs) {
        *self.settings.write() = Arc::new(settings);
    }

    pub fn limits(&self) -> queue::Limits {
        let settings = self.settings();
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        queue::Limits { waiting: count(settings.waiting), of_owner: count(settings.waiting_per_client) }
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::SeqCst) > 0
    }

    pub fn begin_sending(&self) {
        self.sending.fetch_add(1, Ordering::SeqCst);
    }

    pub fn end_sending(&self) {
        self.sending.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn set_deliveries(&self, deliveries: Arc<Handle>) {
        *self.deliveries.lock() = Some(deliveries);
    }

    /// Those of this process, while it sends any.
    pub fn deliveries(&self) -> Option<Arc<Handle>> {
        self.deliveries.lock().clone()
    }

    /// There is something to send, or other settings to send it by.
    pub fn wake_deliveries(&self) {
        if let Some(deliveries) = self.deliveries() {
            deliveries.wake.notify_one();
        }
    }

    /// The same, and whatever rests is tried at once.
    pub fn deliveries_again(&self) {
        if let Some(deliveries) = self.deliveries() {
            deliveries.all_again();
        }
    }

    pub fn seats(&self) -> Vec<Arc<Seat>> {
        self.seats.lock().clone()
    }

    pub fn add_seat(&self, seat: Arc<Seat>) {
        self.seats.lock().push(seat);
    }

    pub fn drop_seat(&self, seat: &Arc<Seat>) {
        self.seats.lock().retain(|s| !Arc::ptr_eq(s, seat));
    }

    pub fn seat_of(&self, id: &str) -> Option<Arc<Seat>> {
        self.seats.lock().iter().find(|seat| seat.has(id)).cloned()
    }

    /// Jobs that an instance has, by its id.
    pub fn jobs_of(&self, instance: &str) -> u64 {
        let inner = self.inner();
        let there =
            |open: &&Open| open.job.state != State::Queued && open.job.instance.as_deref() == Some(instance);
        inner.open.values().filter(there).count() as u64
    }

    pub fn remaining(&self) -> usize {
        self.inner().open.len()
    }

    pub fn waiting(&self) -> usize {
        self.inner().queue.len()
    }

    /// When the first of them was accepted.
    pub fn oldest_waiting(&self) -> Option<u64> {
        let inner = self.inner();
        let waiting = inner.open.values().filter(|open| open.job.state == State::Queued);
        waiting.map(|open| open.job.accepted).min()
    }

    /// What its end is to be taken for.
    pub fn wish(&self, id: &str) -> Option<Wish> {
        self.inner().open.get(id).map(|open| open.wish)
    }

    pub fn job(&self, id: &str) -> Option<Job> {
        self.inner().open.get(id).map(|open| open.job.clone())
    }

    /// Gives what waits to instances that have a place, the least busy first, and among those the one that has
    /// the job's models in memory.
    pub fn dispatch(&self, router: &Router) {
        if self.is_paused() {
            return;
        }
        let seats: Vec<Arc<Seat>> = self.seats().into_iter().filter(|seat| seat.takes_jobs(router)).collect();
        loop {
            let Some(fewest) = seats.iter().map(|seat| seat.count()).filter(|n| *n < PLACES).min() else {
                return;
            };
            let mut inner = self.inner();
            let Some(head) = inner.queue.next().map(|w| w.warmth) else {
                drop(inner);
                return steal(&seats);
            };
            let free: Vec<&Arc<Seat>> = seats.iter().filter(|seat| seat.count() == fewest).collect();
            let warm = free.iter().find(|seat| head != 0 && seat.warmth() == head);
            let Some(seat) = warm.or_else(|| free.iter().min_by_key(|seat| seat.last_given())) else {
                return;
            };
            let Some(waiting) = claim(&mut inner, seat) else { return };
            if let Some(open) = inner.open.get_mut(&waiting.id) {
                open.job.state = State::Dispatched;
                open.job.dispatched = Some(now());
                open.job.instance = Some(seat.instance.id().into());
                open.job.generation = Some(seat.instance.target.generation);
                seat.give(waiting.id.clone(), waiting.warmth);
                seat.order(Order::Run(waiting.id));
            }
        }
    }

    /// Jobs whose instance nobody knows any more: they wait again. Called once all instances are known.
    pub fn orphans(&self) -> Vec<Job> {
        let known: Vec<String> = self.seats().iter().map(|seat| seat.instance.id().to_string()).collect();
        let inner = self.inner();
        let lost = |open: &&Open| {
            open.job.state != State::Queued
                && !open.job.instance.as_ref().is_some_and(|instance| known.contains(instance))
        };
        inner.open.values().filter(lost).map(|open| open.job.clone()).collect()
    }

    pub fn count_end(&self, state: State) {
        if let Some((_, count)) = self.ended.iter().find(|(ended, _)| *ended == state) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The clients' count of jobs that have not ended.
    pub fn tell_remaining(&self, hub: &Arc<Hub>) {
        hub.set_remaining(self.remaining());
    }

    pub fn note(&self, log: &Log, level: Level, text: &str) {
        log.note(level, &format!("jobs: {text}"));
    }

    /// An instance that the router knows and that has no seat.
    pub fn is_new(&self, instance: &Arc<Instance>) -> bool {
        !self.seats.lock().iter().any(|seat| Arc::ptr_eq(&seat.instance, instance))
    }
}
