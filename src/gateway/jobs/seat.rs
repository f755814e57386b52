//! An instance's place for jobs, and the task that fills it: it tells the instance what to run, hears over a
//! WebSocket of the gateway's own how that goes, and asks the instance itself where the two may disagree.
//!
//! ```text
//! connect ─▶ reconcile (which of its jobs does it have, which have ended, which does it not know?) ─▶ listen
//!     ▲                                                                                                 │
//!     └──────────── the socket ended ◀── events in their order, orders of the gateway ◀─────────────────┘
//! ```
use crate::gateway::access_log::Level;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::ending;
use crate::gateway::jobs::engine::{Engine, Id};
use crate::gateway::jobs::listening::{Heard, Listening};
use crate::gateway::jobs::reconcile;
use crate::gateway::jobs::sending;
use crate::gateway::link::ConnectError;
use crate::gateway::shared::Gateway;
use crate::gateway::upstream::Upstream;
use crate::jobs::model::ReasonKind;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long an instance that is up may take for a WebSocket's handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two tries to reach an instance.
const AGAIN: Duration = Duration::from_millis(200);
/// After it took no job, it gets none for so long.
const REST: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub enum Order {
    /// Give it this job, which `Engine::dispatch` has put here.
    Run(Id),
    /// What came of that.
    Sent(Id, sending::Outcome),
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
    jobs: Vec<Id>,
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

    pub fn rest(&self) {
        self.state.lock().rests_until = Some(Instant::now() + REST);
    }

    pub fn takes_jobs(&self, gateway: &Gateway) -> bool {
        let state = self.state.lock();
        state.ready
            && state.rests_until.is_none_or(|until| until <= Instant::now())
            && self.instance.is_healthy()
            && !self.instance.is_closed()
            && gateway.router.is_named(&self.instance)
    }
}

/// Until the instance is gone and has no job of ours.
pub async fn run(
    gateway: Arc<Gateway>,
    engine: Arc<Engine>,
    seat: Arc<Seat>,
    mut orders: UnboundedReceiver<Order>,
) {
    loop {
        match connect(&seat).await {
            Ok((jobs, all)) => {
                let mut listening = Listening::new(&gateway, &engine, &seat);
                if reconcile::all(&gateway, &engine, &seat).await {
                    seat.set_ready(true);
                    engine.dispatch(&gateway);
                    listen(&mut listening, jobs, all, &mut orders).await;
                    seat.set_ready(false);
                }
            }
            Err(ConnectError::Refused) => {
                // Nothing listens, so the process that had them is gone: a Unix socket has no other reason to refuse.
                for id in seat.jobs() {
                    let why = format!("the process of {} has ended", seat.instance.id());
                    ending::lost(&gateway, &engine, &seat, &id, ReasonKind::InstanceDied, &why).await;
                }
            }
            Err(why) => {
                let text = format!("{} cannot be listened to: {why:?}", seat.instance.id());
                engine.note(&gateway, Level::Warning, &text);
            }
        }
        if seat.count() == 0 && (!gateway.router.knows(&seat.instance) || seat.instance.is_closed()) {
            break;
        }
        let until = Instant::now() + AGAIN;
        while let Ok(Some(order)) = tokio::time::timeout_at(until, orders.recv()).await {
            unheard(&gateway, &engine, &seat, order).await;
        }
        if engine.is_paused() {
            break;
        }
    }
    engine.drop_seat(&seat);
}

async fn connect(seat: &Seat) -> Result<(Upstream, Upstream), ConnectError> {
    let address = &seat.instance.target.address;
    let jobs = Upstream::connect(address, &seat.sid, HANDSHAKE).await?;
    // What an instance says to everybody comes over the second alone: over the first it could not be told from
    // what is for the client of the job that runs.
    let all = Upstream::connect(address, &format!("{}-all", seat.sid), HANDSHAKE).await?;
    Ok((jobs, all))
}

async fn listen(
    listening: &mut Listening<'_>,
    mut jobs: Upstream,
    mut all: Upstream,
    orders: &mut UnboundedReceiver<Order>,
) {
    loop {
        tokio::select! {
            event = jobs.next() => match event {
                Some(event) => {
                    if listening.of_job(event).await == Heard::End {
                        listening.engine.dispatch(listening.gateway);
                    }
                }
                None => return,
            },
            event = all.next() => match event {
                Some(event) => listening.of_all(event),
                None => return,
            },
            Some(order) = orders.recv() => listening.order(order).await,
            () = listening.stuck() => listening.is_stuck().await,
            // A new connection asks the instance what has become of its jobs.
            () = listening.deaf() => return,
            () = listening.engine.changed.notified() => {
                if listening.engine.is_paused() {
                    return;
                }
            }
        }
    }
}

/// An order while the instance cannot be heard. What it has is found out when it can be again.
async fn unheard(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, order: Order) {
    match order {
        Order::Run(id) => ending::put_back(gateway, engine, seat, &id).await,
        Order::Sent(id, outcome) => sending::sent(gateway, engine, seat, &id, outcome).await,
        // `reconcile` sees the wish.
        Order::Cancel(_) | Order::TakeBack => {}
        Order::Release(done) => {
            for id in seat.jobs() {
                ending::put_back(gateway, engine, seat, &id).await;
            }
            // Nobody waits if the agent has given up.
            let _ = done.send(());
        }
    }
}
