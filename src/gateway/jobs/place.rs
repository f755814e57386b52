//! An instance's place for jobs: which it has, and the way to the task that serves it (`seat`).
use crate::gateway::instance::Instance;
use crate::gateway::router::Router;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// After it took no job, it gets none for so long.
const REST: Duration = Duration::from_millis(500);

/// A job's id.
pub type Id = Arc<str>;

/// What came of giving a job to an instance.
#[derive(Debug)]
pub enum Outcome {
    Taken,
    /// It answered that it does not take it.
    Refused {
        status: u16,
        details: Option<Value>,
    },
    /// It runs under an id of the instance's own.
    OtherId,
    /// It does not have it.
    NotSent(String),
    /// It may have it.
    Unknown(String),
    /// Nothing is known of the job's body any more.
    NoBody(String),
}

#[derive(Debug)]
pub enum Order {
    /// Give it this job, which `Engine::dispatch` has put here.
    Run(Id),
    /// What came of that.
    Sent(Id, Outcome),
    /// Its client no longer wants this one.
    Cancel(Id),
    /// It left the table: what waits there goes back.
    TakeBack,
    /// It is about to be stopped: what runs there is interrupted. Told once nothing is left, or cannot be.
    Release(oneshot::Sender<()>),
}

pub struct Seat {
    pub instance: Arc<Instance>,
    /// The `client_id` under which it runs every job of ours.
    pub sid: String,
    orders: UnboundedSender<Order>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Its socket is open, and what it has is known.
    ready: bool,
    /// It made no progress and did not answer.
    stuck: bool,
    jobs: Vec<Id>,
    /// Those of them that it is being given: neither its queue nor its history tells of them yet.
    sending: Vec<Id>,
    /// What waits there was ordered back for another instance.
    ordered_back: bool,
    warmth: u64,
    given: u64,
    rests_until: Option<Instant>,
}

static TURN: AtomicU64 = AtomicU64::new(0);

impl Seat {
    pub fn new(instance: &Arc<Instance>, jobs: Vec<Id>) -> (Arc<Seat>, UnboundedReceiver<Order>) {
        let (orders, received) = mpsc::unbounded_channel();
        let state = State { jobs, ..State::default() };
        let sid = format!("stillframe-{}", instance.id());
        (Arc::new(Seat { instance: instance.clone(), sid, orders, state: Mutex::new(state) }), received)
    }

    pub fn order(&self, order: Order) {
        // A seat whose task has ended has no jobs, so nobody needs the answer.
        let _ = self.orders.send(order);
    }

    pub fn has(&self, id: &str) -> bool {
        self.state.lock().jobs.iter().any(|job| &**job == id)
    }

    pub fn jobs(&self) -> Vec<Id> {
        self.state.lock().jobs.clone()
    }

    pub fn count(&self) -> usize {
        self.state.lock().jobs.len()
    }

    pub fn warmth(&self) -> u64 {
        self.state.lock().warmth
    }

    pub fn last_given(&self) -> u64 {
        self.state.lock().given
    }

    pub fn give(&self, id: Id, warmth: u64) {
        let mut state = self.state.lock();
        state.jobs.push(id);
        state.given = TURN.fetch_add(1, Ordering::Relaxed) + 1;
        if warmth != 0 {
            state.warmth = warmth;
        }
    }

    /// True if it had the job.
    pub fn take(&self, id: &str) -> bool {
        let mut state = self.state.lock();
        let before = state.jobs.len();
        state.ordered_back = false;
        state.jobs.retain(|job| &**job != id);
        state.jobs.len() < before
    }

    pub fn set_ready(&self, ready: bool) {
        let mut state = self.state.lock();
        state.ready = ready;
        if !ready {
            // A new process has nothing in memory.
            state.warmth = 0;
        }
    }

    pub fn set_sending(&self, id: &Id, sending: bool) {
        let mut state = self.state.lock();
        state.sending.retain(|other| other != id);
        if sending {
            state.sending.push(id.clone());
        }
    }

    pub fn is_sending(&self, id: &str) -> bool {
        self.state.lock().sending.iter().any(|other| &**other == id)
    }

    /// True once, until what it has changes.
    pub fn order_back(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().ordered_back, true)
    }

    pub fn is_stuck(&self) -> bool {
        self.state.lock().stuck
    }

    pub fn set_stuck(&self, stuck: bool) {
        self.state.lock().stuck = stuck;
    }

    pub fn rest(&self) {
        self.state.lock().rests_until = Some(Instant::now() + REST);
    }

    pub fn takes_jobs(&self, router: &Router) -> bool {
        let state = self.state.lock();
        state.ready
            && !state.stuck
            && state.rests_until.is_none_or(|until| until <= Instant::now())
            && self.instance.is_healthy()
            && !self.instance.is_closed()
            && router.is_named(&self.instance)
    }
}
