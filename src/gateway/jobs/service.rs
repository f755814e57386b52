//! The engine from its start to its end: seats for the instances that the router knows, what is kept and what
//! expires, and the pause before another process takes over.
use crate::gateway::access_log::Level;
use crate::gateway::deliveries::worker;
use crate::gateway::health;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::ending;
use crate::gateway::jobs::engine::{Engine, Id, Wish, now};
use crate::gateway::jobs::messages;
use crate::gateway::jobs::seat::{self, Order, Seat};
use crate::gateway::shared::Gateway;
use crate::jobs::ledger::Ledger;
use crate::jobs::model::{Job, Reason, ReasonKind, State, Try};
use crate::jobs::store::Keep;
use crate::protocol::control::Target;
use crate::protocol::jobs::JobsSettings;
use crate::sys::error::Result;
use crate::sys::files;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks at what is kept and what has waited too long.
const LOOK: Duration = Duration::from_secs(30);
/// A rested seat is looked at again after so long.
const TICK: Duration = Duration::from_millis(500);
/// A release may take the time in which a node stops, and some more.
const RELEASE: Duration = Duration::from_secs(8);

/// Opens the database and goes on with what an earlier process left.
pub fn start(gateway: &Arc<Gateway>, settings: &JobsSettings) -> Result<Arc<Engine>> {
    let (ledger, open, last_seq) = Ledger::open(&settings.file)?;
    let count = open.len();
    let engine = Arc::new(Engine::new(ledger, settings.rules.clone(), open, last_seq));
    engine.set_deliveries(worker::start(gateway, &engine.ledger)?);
    gateway.set_jobs(engine.clone());
    // An instance that drains is in no table; what it runs is asked of it all the same.
    for target in known(&settings.file) {
        health::watch(gateway, gateway.router.remember(&target).into_iter().collect());
    }
    seats(gateway, &engine);
    engine.note(gateway, Level::Info, &format!("{count} have not ended"));
    engine.tell_remaining(gateway);
    tokio::spawn(orphans(gateway.clone(), engine.clone()));
    tokio::spawn(keep(gateway.clone(), engine.clone()));
    tokio::spawn(tick(gateway.clone(), engine.clone()));
    Ok(engine)
}

fn known_file(database: &Path) -> PathBuf {
    database.with_file_name("instances.json")
}

fn known(database: &Path) -> Vec<Target> {
    // Without the file only what the table names is asked; a job of any other instance waits again.
    let bytes = std::fs::read(known_file(database)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// The router's table has changed.
pub fn table_changed(gateway: &Arc<Gateway>) {
    let Some(engine) = gateway.jobs() else { return };
    seats(gateway, &engine);
    for seat in engine.seats() {
        if !gateway.router.is_named(&seat.instance) {
            seat.order(Order::TakeBack);
        }
    }
    engine.dispatch(gateway);
}

fn seats(gateway: &Arc<Gateway>, engine: &Arc<Engine>) {
    for (instance, _) in gateway.router.all() {
        if engine.is_new(&instance) {
            let (seat, orders) = Seat::new(&instance, left_at(engine, &instance));
            engine.add_seat(seat.clone());
            tokio::spawn(seat::run(gateway.clone(), engine.clone(), seat, orders));
        }
    }
    let Some(settings) = gateway.active().settings.jobs.clone() else { return };
    let targets: Vec<Target> = gateway.router.all().iter().map(|(i, _)| i.target.clone()).collect();
    let file = known_file(&settings.file);
    let gateway = gateway.clone();
    tokio::task::spawn_blocking(move || {
        let bytes = serde_json::to_vec(&targets).unwrap_or_default();
        if let Err(e) = files::write_atomic(&file, &bytes) {
            gateway.log.note(Level::Warning, &format!("jobs: {}", e.full()));
        }
    });
}

/// The jobs that an earlier process gave to this instance, in their order.
fn left_at(engine: &Engine, instance: &Instance) -> Vec<Id> {
    let inner = engine.inner();
    let here = |job: &&Job| job.state != State::Queued && job.instance.as_deref() == Some(instance.id());
    let mut left: Vec<&Job> = inner.open.values().map(|open| &open.job).filter(here).collect();
    left.sort_by_key(|job| (job.started.is_none(), job.seq));
    left.into_iter().map(|job| job.id.as_str().into()).collect()
}

/// Jobs of instances that nobody knows any more: their processes are gone, since a host's start makes all anew.
async fn orphans(gateway: Arc<Gateway>, engine: Arc<Engine>) {
    for job in engine.orphans() {
        let instance = job.instance.clone().unwrap_or_default();
        let reason =
            Reason { kind: ReasonKind::InstanceDied, message: format!("{instance} is gone"), details: None };
        let began = job.started;
        let tried = began.map(|began| Try {
            instance,
            generation: job.generation.unwrap_or_default(),
            began,
            ended: now(),
            reason: reason.clone(),
        });
        ending::waits_again(&gateway, &engine, None, &job, tried, reason).await;
    }
}

/// A seat that rested, or an instance that became healthy, may take what waits.
async fn tick(gateway: Arc<Gateway>, engine: Arc<Engine>) {
    while !gateway.is_over() && !engine.is_paused() {
        sleep(TICK).await;
        if engine.waiting() > 0 {
            engine.dispatch(&gateway);
        }
    }
}

async fn keep(gateway: Arc<Gateway>, engine: Arc<Engine>) {
    while !gateway.is_over() {
        sleep(LOOK).await;
        if engine.is_paused() {
            return;
        }
        expire_waiting(&gateway, &engine).await;
        let rules = engine.settings();
        let kept = Keep { age_ms: rules.keep.age_ms, count: rules.keep.count, bytes: rules.keep.bytes };
        match engine.ledger.expire(kept, now()).await {
            Ok(0) => {}
            Ok(gone) => {
                engine.note(&gateway, Level::Info, &format!("{gone} that had ended are no longer kept"))
            }
            Err(e) => engine.note(&gateway, Level::Warning, &format!("old ones stay: {}", e.full())),
        }
    }
}

async fn expire_waiting(gateway: &Arc<Gateway>, engine: &Arc<Engine>) {
    let Some(most) = engine.settings().expire_ms else { return };
    let before = now().saturating_sub(most);
    let late: Vec<Job> = {
        let inner = engine.inner();
        let late = |job: &&Job| job.state == State::Queued && job.accepted < before;
        inner.open.values().map(|open| &open.job).filter(late).cloned().collect()
    };
    for job in late {
        if engine.inner().queue.remove(&job.id).is_none() {
            continue;
        }
        let reason = Reason {
            kind: ReasonKind::Interrupted,
            message: format!("it waited for more than {} s", most / 1_000),
            details: None,
        };
        let told = messages::failure(&job, &reason);
        ending::end(gateway, engine, None, &job, State::Expired, Some(reason), None).await;
        if let Some(client) = ending::client_of(&job) {
            told.iter().for_each(|message| gateway.hub.to_client(&client, message));
        }
    }
}

/// An instance is about to be stopped: its jobs are interrupted and wait again, or have failed, on disk.
pub async fn release(gateway: &Arc<Gateway>, id: &str) {
    let Some(engine) = gateway.jobs() else { return };
    for seat in engine.seats().into_iter().filter(|seat| seat.instance.id() == id) {
        let (done, wait) = tokio::sync::oneshot::channel();
        seat.order(Order::Release(done));
        // What does not stop is lost with its process, and waits again then.
        let _ = tokio::time::timeout(RELEASE, wait).await;
    }
}

/// Stops one that its client or an operator no longer wants. False: there is no such job, or it has ended.
pub async fn cancel(gateway: &Arc<Gateway>, engine: &Arc<Engine>, id: &str) -> bool {
    let seat = {
        let mut inner = engine.inner();
        if inner.queue.remove(id).is_some() {
            None
        } else {
            let Some(open) = inner.open.get_mut(id) else { return false };
            open.wish = Wish::Cancel;
            drop(inner);
            engine.seat_of(id)
        }
    };
    match seat {
        Some(seat) => seat.order(Order::Cancel(id.into())),
        None if engine.job(id).is_some_and(|job| job.state == State::Queued) => {
            ending::cancelled(gateway, engine, None, id).await;
        }
        // Between two places: whoever puts it back sees the wish.
        None => {}
    }
    true
}

/// The other process did not take over. Says what does not go on.
pub fn resume(gateway: &Arc<Gateway>) -> String {
    let paused = gateway.jobs().is_some_and(|engine| engine.is_paused());
    let Some(settings) = gateway.active().settings.jobs.clone().filter(|_| paused) else {
        return String::new();
    };
    match start(gateway, &settings) {
        Ok(_) => String::new(),
        Err(e) => {
            let text = format!("the jobs cannot go on: {}", e.full());
            gateway.log.note(Level::Error, &text);
            format!("; {text}")
        }
    }
}

/// Nothing is accepted or dispatched any more, and the database is closed: another process opens it.
pub async fn pause(engine: &Engine) {
    engine.pause();
    // What is being accepted has its answer first.
    let settled = async {
        while !engine.inner().accepting.is_empty() {
            engine.changed.notified().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), settled).await;
    if let Some(deliveries) = engine.deliveries() {
        deliveries.stop().await;
    }
    engine.ledger.close().await;
}
