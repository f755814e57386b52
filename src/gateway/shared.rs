//! What every part of the gateway works on: the settings in force, the router and its neighbours, and how far
//! the process has got with leaving.
use crate::gateway::access_log::Log;
use crate::gateway::affinity::Affinity;
use crate::gateway::client::Connections;
use crate::gateway::hub::{self, Hub};
use crate::gateway::jobs::engine::Engine;
use crate::gateway::key::Key;
use crate::gateway::metrics::Metrics;
use crate::gateway::predecessor::Predecessor;
use crate::gateway::router::Router;
use crate::gateway::scaling::state::Scaling;
use crate::gateway::settings::Active;
use crate::gateway::share::{Shares, Source};
use crate::gateway::throttle::Throttle;
use crate::gateway::ticket::Tickets;
use crate::gateway::tunnel::Tunnels;
use crate::gateway::waiting::Waiting;
use crate::protocol::deliveries::Secrets;
use parking_lot::{Mutex, RwLock};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

pub struct Gateway {
    active: RwLock<Arc<Active>>,
    pub settings_file: PathBuf,
    pub router: Router,
    pub waiting: Waiting,
    pub affinity: Affinity,
    pub metrics: Metrics,
    pub log: Arc<Log>,
    pub connections: Arc<Connections>,
    /// Places of connections and tunnels, and those kept for the gateway's own pages.
    pub seats: Arc<Shares<Source>>,
    pub reserve: Arc<Shares<Source>>,
    /// Open requests of clients behind trusted proxies, and of each API key.
    pub of_clients: Arc<Shares<Source>>,
    pub of_keys: Arc<Shares<Key>>,
    pub throttle: Throttle,
    pub tickets: Tickets,
    pub tunnels: Tunnels,
    /// WebSockets of clients that end here.
    pub hub: Arc<Hub>,
    /// What the gateway owns of the jobs; none: they are the instances' own.
    jobs: RwLock<Option<Arc<Engine>>>,
    /// Why the gateway cannot own them though it is to.
    jobs_trouble: Mutex<Option<String>>,
    pub scaling: Scaling,
    secrets: RwLock<Arc<Secrets>>,
    /// Held while the table or the settings change, or another process takes over.
    pub turn: tokio::sync::Mutex<()>,
    /// The process that this one took over from, while it still has something.
    predecessor: RwLock<Option<Arc<Predecessor>>>,
    /// Requests of the control socket that have no answer yet.
    pub answering: AtomicUsize,
    stage: AtomicU8,
    ending: Mutex<Option<Ending>>,
    /// Tells the server to accept no more.
    pub leave: Notify,
    /// A second descriptor of the listening socket, to hand over.
    listener: Mutex<Option<OwnedFd>>,
}

/// Why the gateway leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Stopped,
    /// Another process accepts from now on; what is open here has this long.
    HandedOver(Duration),
}

/// How far it has got with leaving.
#[derive(PartialEq, PartialOrd)]
#[repr(u8)]
enum Stage {
    Open,
    /// Answers say `connection: close`.
    Closing,
    /// Connections without a request are closed.
    NoIdle,
    Over,
}

impl Gateway {
    pub fn new(settings_file: PathBuf, active: Active, listener: OwnedFd) -> Gateway {
        Gateway {
            active: RwLock::new(Arc::new(active)),
            settings_file,
            router: Router::default(),
            waiting: Waiting::default(),
            affinity: Affinity::default(),
            metrics: Metrics::default(),
            log: Arc::default(),
            connections: Arc::default(),
            seats: Arc::default(),
            reserve: Arc::default(),
            of_clients: Arc::default(),
            of_keys: Arc::default(),
            throttle: Throttle::default(),
            tickets: Tickets::default(),
            tunnels: Tunnels::default(),
            hub: Arc::default(),
            jobs: RwLock::new(None),
            jobs_trouble: Mutex::new(None),
            scaling: Scaling::default(),
            secrets: RwLock::default(),
            turn: tokio::sync::Mutex::new(()),
            predecessor: RwLock::new(None),
            answering: AtomicUsize::new(0),
            stage: AtomicU8::new(Stage::Open as u8),
            ending: Mutex::new(None),
            leave: Notify::new(),
            listener: Mutex::new(Some(listener)),
        }
    }

    pub fn listener(&self) -> Option<OwnedFd> {
        let listener = self.listener.lock();
        listener.as_ref().and_then(|fd| fd.try_clone().ok())
    }

    pub fn close_listener(&self) {
        *self.listener.lock() = None;
    }

    /// The settings in force.
    pub fn active(&self) -> Arc<Active> {
        self.active.read().clone()
    }

    pub fn set_active(&self, active: Active) {
        *self.active.write() = Arc::new(active);
    }

    /// The jobs, as long as this process owns them.
    pub fn jobs(&self) -> Option<Arc<Engine>> {
        self.jobs.read().clone().filter(|engine| !engine.is_paused())
    }

    /// Whether requests that concern jobs are answered by a gateway: this process, or one that has taken over.
    pub fn owns_jobs(&self) -> bool {
        self.active().settings.jobs.is_some() || self.jobs.read().is_some()
    }

    /// It owned the jobs, and has given them up.
    pub fn has_paused_jobs(&self) -> bool {
        self.jobs.read().as_ref().is_some_and(|engine| engine.is_paused())
    }

    pub fn jobs_trouble(&self) -> Option<String> {
        self.jobs_trouble.lock().clone()
    }

    pub fn set_jobs_trouble(&self, why: String) {
        *self.jobs_trouble.lock() = Some(why);
    }

    pub fn set_jobs(&self, engine: Arc<Engine>) {
        *self.jobs_trouble.lock() = None;
        *self.jobs.write() = Some(engine);
    }

    /// What a job waits for besides its turn, while no instance is ready.
    pub fn waiting_for(&self) -> Option<String> {
        if self.router.ready() > 0 {
            return None;
        }
        Some(self.scaling.waiting_for().unwrap_or_else(|| format!("an instance: {}", self.router.why_none())))
    }

    /// Values of the gateway's own secrets.
    pub fn secrets(&self) -> Arc<Secrets> {
        self.secrets.read().clone()
    }

    pub fn set_secrets(&self, secrets: Secrets) {
        *self.secrets.write() = Arc::new(secrets);
    }

    pub fn predecessor(&self) -> Option<Arc<Predecessor>> {
        self.predecessor.read().clone()
    }

    pub fn set_predecessor(&self, predecessor: Option<Arc<Predecessor>>) {
        *self.predecessor.write() = predecessor;
    }

    /// Stops accepting. A later ending replaces an earlier one: a gateway that has handed over can still be
    /// stopped.
    pub fn end(&self, ending: Ending) {
        *self.ending.lock() = Some(ending);
        self.leave.notify_one();
    }

    pub fn ending(&self) -> Option<Ending> {
        *self.ending.lock()
    }

    fn reach(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst);
        self.connections.wake_all();
    }

    fn reached(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Relaxed) >= stage as u8
    }

    pub fn answer_with_close(&self) {
        self.reach(Stage::Closing);
    }

    pub fn is_leaving(&self) -> bool {
        self.reached(Stage::Closing)
    }

    pub fn close_idle(&self) {
        self.reach(Stage::NoIdle);
    }

    pub fn closes_idle(&self) -> bool {
        self.reached(Stage::NoIdle)
    }

    pub fn end_all(&self) {
        self.reach(Stage::Over);
        self.tunnels.end(|_| true);
        self.hub.close_all(&hub::RESTART);
    }

    pub fn is_over(&self) -> bool {
        self.reached(Stage::Over)
    }
}
