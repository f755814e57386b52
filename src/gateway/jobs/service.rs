//! The engine from its start to its end: seats for the instances that the router knows, what is kept and what
//! expires, and the pause before another process takes over.
use crate::gateway::access_log::Level;
use crate::gateway::deliveries::worker;
use crate::gateway::health;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::ending;
use crate::gateway::jobs::engine::{Engine, Open, Wish, now};
use crate::gateway::jobs::files::Files;
use crate::gateway::jobs::place::{Id, Order, Seat};
use crate::gateway::jobs::seat;
use crate::gateway::shared::Gateway;
use crate::jobs::ledger::Ledger;
use crate::jobs::model::{Job, Reason, ReasonKind, State, Try};
use crate::jobs::store::{Find, Sort, Write};
use crate::protocol::control::Target;
use crate::protocol::jobs::JobsSettings;
use crate::sys::error::{Error, Result};
use crate::sys::files;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at what is kept and what has waited too long.
const LOOK: Duration = Duration::from_secs(30);
/// How many jobs' pictures are remembered by a new process, and how many are read at once.
const REMEMBERED: u64 = 2_000;
const PAGE: u64 = 100;
/// Between two tries to open the database.
const AGAIN: Duration = Duration::from_secs(1);
/// What is under way when another process takes over may take so long.
const SETTLED: Duration = Duration::from_secs(5);
/// A rested seat is looked at again after so long.
const TICK: Duration = Duration::from_millis(500);
/// A release may take the time in which a node stops, and some more.
const RELEASE: Duration = Duration::from_secs(8);

/// Opens the database and goes on with what an earlier process left.
pub fn start(gateway: &Arc<Gateway>, settings: &JobsSettings) -> Result<Arc<Engine>> {
    let (ledger, open, last_seq) = Ledger::open(&settings.file)?;
    let count = open.len();
    let files = Files::beside(&settings.file);
    let engine = Arc::new(Engine::new((ledger, files), settings.rules.clone(), open, last_seq));
    engine.set_deliveries(worker::start(gateway, &engine.ledger)?);
    gateway.set_jobs(engine.clone());
    // An instance that drains is in no table; what it runs is asked of it all the same.
    for target in known(&settings.file) {
        health::watch(gateway, gateway.router.remember(&target).into_iter().collect());
    }
    seats(gateway, &engine);
    engine.note(&gateway.log, Level::Info, &format!("{count} have not ended"));
    engine.tell_remaining(&gateway.hub);
    tokio::spawn(taken_back(gateway.clone(), engine.clone()));
    tokio::spawn(orphans(gateway.clone(), engine.clone()));
    tokio::spawn(remember(gateway.clone(), engine.clone()));
    tokio::spawn(keep(gateway.clone(), engine.clone()));
    tokio::spawn(tick(gateway.clone(), engine.clone()));
    Ok(engine)
}

/// The database cannot be opened: no job is accepted, everything else is served, and it is tried again.
pub fn start_later(gateway: &Arc<Gateway>, settings: JobsSettings, why: &Error) {
    let text = format!("the jobs cannot be kept, and none is accepted: {}", why.full());
    gateway.log.note(Level::Error, &text);
    gateway.set_jobs_trouble(why.full());
    let gateway = gateway.clone();
    tokio::spawn(async move {
        while gateway.ending().is_none() {
            sleep(AGAIN).await;
            match start(&gateway, &settings) {
                Ok(_) => return,
                Err(e) => gateway.set_jobs_trouble(e.full()),
            }
        }
    });
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
    engine.dispatch(&gateway.router);
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
    let file = known_file(&settings.file);
    let (gateway, engine) = (gateway.clone(), engine.clone());
    tokio::task::spawn_blocking(move || {
        // Whoever comes last writes what is known last.
        let _turn = engine.known.lock();
        let targets: Vec<Target> = gateway.router.all().iter().map(|(i, _)| i.target.clone()).collect();
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

/// Who made the newest pictures: what an earlier process knew.
async fn remember(gateway: Arc<Gateway>, engine: Arc<Engine>) {
    let mut offset = 0;
    while offset < REMEMBERED {
        let find = Find { sort: Sort::Ended, limit: Some(PAGE), offset, ..Find::default() };
        let Ok((jobs, _)) = engine.ledger.find(find).await else { return };
        let Ok(found) = engine.ledger.histories(jobs.iter().map(|job| job.id.clone()).collect()).await else {
            return;
        };
        for (job, history) in jobs.iter().zip(found) {
            if let (Some(history), Some(instance)) = (history, job.instance.as_deref()) {
                engine.made.recall(&history["outputs"], instance);
            }
        }
        if (jobs.len() as u64) < PAGE || gateway.is_over() {
            return;
        }
        offset += PAGE;
    }
}

/// Jobs that were taken back while an earlier process had put them back among those that wait.
async fn taken_back(gateway: Arc<Gateway>, engine: Arc<Engine>) {
    let waits = |open: &&Open| open.wish == Wish::Cancel && open.job.state == State::Queued;
    let ids: Vec<String> = engine.inner().open.values().filter(waits).map(|o| o.job.id.clone()).collect();
    for id in ids {
        ending::cancelled(&gateway, &engine, None, &id).await;
    }
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
            engine.dispatch(&gateway.router);
        }
    }
}

async fn keep(gateway: Arc<Gateway>, engine: Arc<Engine>) {
    let cleared = engine.files.clear_incoming();
    let mut cleared = cleared.is_ok() && sweep(&engine).await.is_ok();
    while !gateway.is_over() {
        sleep(LOOK).await;
        if engine.is_paused() {
            return;
        }
        expire_waiting(&gateway, &engine).await;
        let rules = engine.settings();
        match engine.ledger.expire(rules.keep, now()).await {
            Ok(0) => {}
            Ok(gone) => {
                engine.note(&gateway.log, Level::Info, &format!("{gone} that had ended are no longer kept"))
            }
            Err(e) => engine.note(&gateway.log, Level::Warning, &format!("old ones stay: {}", e.full())),
        }
        let gone = engine.ledger.expire_assets(rules.keep, now()).await;
        if !cleared || gone.as_ref().is_ok_and(|gone| *gone > 0) {
            cleared = match sweep(&engine).await {
                Ok(()) => true,
                Err(e) => {
                    engine.note(&gateway.log, Level::Warning, &format!("old assets stay: {}", e.full()));
                    false
                }
            };
        }
    }
}

/// Files that nobody has a record of any more, and no job needs.
async fn sweep(engine: &Engine) -> Result<()> {
    let _turn = engine.files.turn.lock().await;
    let unknown = engine.ledger.unknown_hashes(engine.files.all().await?).await?;
    engine.files.remove(unknown).await
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
        ending::without_success(gateway, engine, None, &job, State::Expired, reason).await;
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

/// Stops one that its client or an operator no longer wants. False: there is no such job, or it has ended. Goes on to
/// its end even if who asked leaves.
pub async fn cancel(gateway: &Arc<Gateway>, engine: &Arc<Engine>, id: &str) -> bool {
    let (gateway, engine, id) = (gateway.clone(), engine.clone(), id.to_string());
    tokio::spawn(async move { stop(&gateway, &engine, &id).await }).await.unwrap_or(false)
}

/// All that wait in the gateway, in one write.
pub async fn cancel_waiting(gateway: &Arc<Gateway>, engine: &Arc<Engine>) {
    let (gateway, engine) = (gateway.clone(), engine.clone());
    let all = async move {
        let jobs: Vec<Job> = {
            let mut inner = engine.inner();
            let ids: Vec<Id> = inner.queue.in_order().iter().map(|waiting| waiting.id.clone()).collect();
            ids.iter().for_each(|id| drop(inner.queue.remove(id)));
            ids.iter().filter_map(|id| inner.open.get(id)).map(|open| open.job.clone()).collect()
        };
        ending::all_cancelled(&gateway, &engine, jobs).await;
    };
    // A task that ends otherwise has said why.
    let _ = tokio::spawn(all).await;
}

async fn stop(gateway: &Arc<Gateway>, engine: &Arc<Engine>, id: &str) -> bool {
    let waits = {
        let mut inner = engine.inner();
        let waited = inner.queue.remove(id).is_some();
        let Some(open) = inner.open.get_mut(id) else { return false };
        open.wish = Wish::Cancel;
        waited || open.job.state == State::Queued
    };
    if waits {
        ending::cancelled(gateway, engine, None, id).await;
        return true;
    }
    // Where it is between two places, whoever puts it back sees the wish.
    if let Some(seat) = engine.seat_of(id) {
        seat.order(Order::Cancel(id.into()));
    }
    on_disk(gateway, engine, id).await;
    true
}

/// Who was told that a job is cancelled need not know that this process ended before its instance heard of it.
async fn on_disk(gateway: &Gateway, engine: &Engine, id: &str) {
    if let Err(e) = engine.ledger.write(Write::Cancel { id: id.into() }).await {
        let text = format!("{id}: that it is cancelled is not on disk: {}", e.full());
        engine.note(&gateway.log, Level::Warning, &text);
    }
}

/// The other process did not take over. Says what does not go on.
pub fn resume(gateway: &Arc<Gateway>) -> String {
    let paused = gateway.has_paused_jobs();
    let Some(settings) = gateway.active().settings.jobs.clone().filter(|_| paused) else {
        return String::new();
    };
    match start(gateway, &settings) {
        Ok(_) => String::new(),
        Err(e) => {
            start_later(gateway, settings, &e);
            format!("; the jobs cannot go on: {}", e.full())
        }
    }
}

/// Nothing is accepted or dispatched any more, and the database is closed: another process opens it.
pub async fn pause(engine: &Engine) {
    engine.pause();
    // What is being accepted has its answer first, and what is being given to an instance is there or is not: the
    // next process asks the instance.
    let until = Instant::now() + SETTLED;
    while Instant::now() < until && (engine.is_sending() || !engine.inner().accepting.is_empty()) {
        sleep(Duration::from_millis(5)).await;
    }
    if let Some(deliveries) = engine.deliveries() {
        deliveries.stop().await;
    }
    engine.ledger.close().await;
}
