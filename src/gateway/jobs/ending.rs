//! How a job leaves its instance: it has ended, or it waits again. Each is on disk before anybody hears of it.
use crate::formats::comfy::api::paths;
use crate::formats::comfy::api::shapes::history;
use crate::gateway::access_log::Level;
use crate::gateway::deliveries::events;
use crate::gateway::faults;
use crate::gateway::hub::ClientRef;
use crate::gateway::jobs::call::{self, Failed};
use crate::gateway::jobs::engine::{Engine, Wish, now, waiting};
use crate::gateway::jobs::messages;
use crate::gateway::jobs::outputs;
use crate::gateway::jobs::owner;
use crate::gateway::jobs::place::Seat;
use crate::gateway::jobs::process;
use crate::gateway::jobs::telling::{self, Happened};
use crate::gateway::shared::Gateway;
use crate::jobs::model::{History, Job, Reason, ReasonKind, State, Try};
use crate::jobs::store::Write;
use crate::protocol::deliveries::Event;
use crate::protocol::jobs::DrainRunning;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// ComfyUI writes a job's history right before it says that nothing runs; a program of another order gets so many
/// questions.
const QUESTIONS: u32 = 8;

/// Whose WebSockets hear of a job.
pub fn client_of(job: &Job) -> Option<ClientRef> {
    let id = job.client.as_deref()?;
    Some(ClientRef::new(owner::key_of(&job.owner), id))
}

/// The instance's history of a job, if it has one by now.
pub async fn history_of(seat: &Seat, id: &str) -> Result<Option<History>, Failed> {
    let answer = call::get(&seat.instance, &paths::history_of(id)).await?;
    if !answer.status.is_success() {
        return Err(Failed::Unknown(format!("/history answered {}", answer.status.as_u16())));
    }
    Ok(history::entry_of(&answer.body, id))
}

/// The job has ended as its instance says. False: it has not for its client, which hears no end of it.
pub async fn ended(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &str) -> bool {
    let mut pause = Duration::from_millis(20);
    let mut denied = false;
    for _ in 0..QUESTIONS {
        match history_of(seat, id).await {
            Ok(Some(history)) => return with_history(gateway, engine, seat, id, history).await,
            // The next connection, or its refusal, decides.
            Err(Failed::Gone) => return false,
            Ok(None) => denied = true,
            Err(_) => denied = false,
        }
        sleep(pause).await;
        pause *= 2;
    }
    if !denied {
        // Nothing is known of it: the next look at the instance decides.
        return false;
    }
    let why = format!("{} ended it, and its history does not have it", seat.instance.id());
    lost(gateway, engine, seat, id, (ReasonKind::Forgotten, Turn::Its), &why).await;
    false
}

/// What the instance's history says of it is its end, unless it was interrupted because its instance has to stop.
/// Says whether it has ended.
pub async fn with_history(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: &Arc<Seat>,
    id: &str,
    mut entry: History,
) -> bool {
    let Some((job, wish)) = engine.inner().open.get(id).map(|open| (open.job.clone(), open.wish)) else {
        seat.take(id);
        return false;
    };
    let (state, reason) = messages::outcome(&entry);
    if state == State::Cancelled && wish == Wish::Drain {
        drained(gateway, engine, seat, &job).await;
        return false;
    }
    if let Some(Reason { kind: ReasonKind::GpuFailed, message, .. }) = &reason {
        process::end(gateway, engine, seat, "lost its GPU");
        lost(gateway, engine, seat, id, (ReasonKind::GpuFailed, Turn::Its), message).await;
        return false;
    }
    engine.made.learn(&entry["outputs"], seat.instance.id());
    outputs::sync(gateway, engine, seat, id, &entry["outputs"]).await;
    // The job itself is kept once, as its client asked for it; the instance knows it by the gateway's client id.
    history::take_outputs_to_execute(&mut entry);
    end(gateway, engine, Some(seat), &job, state, reason, Some(entry)).await;
    true
}

/// Writes a job's end, and lets go of it.
pub async fn end(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: Option<&Arc<Seat>>,
    job: &Job,
    state: State,
    reason: Option<Reason>,
    history: Option<History>,
) {
    let id = job.id.clone();
    let at = now();
    let told = match events::of_end(state) {
        Some(event) => {
            let happened = Happened { job, event, at, reason: reason.as_ref(), history: history.as_ref() };
            telling::writes(gateway, engine, &happened).await
        }
        None => Vec::new(),
    };
    let _ = faults::point(gateway, "jobs/ended").await;
    let end = Write::End { id: id.clone(), state, at, reason, history: history.map(Box::new) };
    written(gateway, engine, [vec![end], told].concat()).await;
    let ran = {
        let mut inner = engine.inner();
        inner.queue.remove(&id);
        inner.open.remove(id.as_str()).and_then(|open| open.job.started)
    };
    if let Some(started) = ran {
        gateway.scaling.job_ended(job.accepted, started, at);
    }
    if let Some(seat) = seat {
        seat.take(&id);
    }
    if let Some(client) = client_of(job) {
        gateway.hub.ended(&client, &id);
    }
    engine.count_end(state);
    gateway.hub.lives.over(&id);
    engine.changed.notify_waiters();
    engine.tell_remaining(&gateway.hub);
    engine.dispatch(&gateway.router);
}

/// The drain limit of its instance has passed.
async fn drained(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, job: &Job) {
    let reason = Reason {
        kind: ReasonKind::Drained,
        message: format!("{} had to be stopped before the job was over", seat.instance.id()),
        details: None,
    };
    if engine.settings().drain_running == DrainRunning::Fail || !job.retry {
        return fail(gateway, engine, Some(seat), job, reason).await;
    }
    again(gateway, engine, Some(seat), job, Some(a_try(seat, job, reason))).await;
}

fn a_try(seat: &Seat, job: &Job, reason: Reason) -> Try {
    let (instance, generation) = (seat.instance.id().to_string(), seat.instance.target.generation);
    Try { instance, generation, began: job.started.unwrap_or(job.accepted), ended: now(), reason }
}

/// How far a job had come when its instance was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It ran, or was the one to run: perhaps it is what ended the instance.
    Its,
    /// It waited there, and lost nothing, unless it is known to have begun.
    Later,
}

/// Its instance ended, or no longer knows of it, before it was over.
pub async fn lost(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: &Arc<Seat>,
    id: &str,
    (kind, turn): (ReasonKind, Turn),
    why: &str,
) {
    let Some((job, wish)) = engine.inner().open.get(id).map(|open| (open.job.clone(), open.wish)) else {
        seat.take(id);
        return;
    };
    let kind = match wish {
        // It did not stop in time, and its instance was stopped with it.
        Wish::Drain => ReasonKind::Drained,
        _ if kind == ReasonKind::InstanceDied && seat.is_stuck() => ReasonKind::InstanceStuck,
        _ => kind,
    };
    let reason = Reason { kind, message: why.to_string(), details: None };
    engine.note(&gateway.log, Level::Warning, &format!("{id}: {why}"));
    if wish == Wish::Cancel {
        let reason = Reason { kind: ReasonKind::Interrupted, ..reason };
        return end(gateway, engine, Some(seat), &job, State::Cancelled, Some(reason), None).await;
    }
    if wish == Wish::Drain && engine.settings().drain_running == DrainRunning::Fail {
        return fail(gateway, engine, Some(seat), &job, reason).await;
    }
    if job.state != State::Running && turn == Turn::Later {
        return again(gateway, engine, Some(seat), &job, None).await;
    }
    let tried = a_try(seat, &job, reason.clone());
    waits_again(gateway, engine, Some(seat), &job, Some(tried), reason).await;
}

/// It failed without an instance that says so to its client: then the gateway does, in ComfyUI's words.
pub async fn fail(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: Option<&Arc<Seat>>,
    job: &Job,
    reason: Reason,
) {
    without_success(gateway, engine, seat, job, State::Failed, reason).await;
}

/// The same with another state.
pub async fn without_success(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: Option<&Arc<Seat>>,
    job: &Job,
    state: State,
    reason: Reason,
) {
    let told = messages::failure(job, &reason);
    end(gateway, engine, seat, job, state, Some(reason), None).await;
    if let Some(client) = client_of(job) {
        told.iter().for_each(|message| gateway.hub.to_client(&client, message));
    }
}

/// It waits again, unless it was tried as often as may be.
pub async fn waits_again(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: Option<&Arc<Seat>>,
    job: &Job,
    tried: Option<Try>,
    reason: Reason,
) {
    if tried.is_none() {
        return again(gateway, engine, seat, job, None).await;
    }
    let counted = |t: &&Try| t.reason.kind != ReasonKind::Drained;
    let tries = job.tries.iter().filter(counted).count() as u32 + 1;
    if !job.retry {
        return fail(gateway, engine, seat, job, reason).await;
    }
    if tries >= engine.settings().tries {
        let message = format!("it was tried {tries} times; the last time {}", reason.message);
        let reason = Reason { kind: ReasonKind::TriesUsedUp, message, details: None };
        return fail(gateway, engine, seat, job, reason).await;
    }
    again(gateway, engine, seat, job, tried).await;
}

/// It waits again, at the place that it had.
async fn again(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: Option<&Arc<Seat>>,
    job: &Job,
    tried: Option<Try>,
) {
    if engine.inner().open.get(job.id.as_str()).is_some_and(|open| open.wish == Wish::Cancel) {
        // Wished for while it was between two places.
        return cancelled(gateway, engine, seat, &job.id).await;
    }
    written(gateway, engine, vec![Write::Requeue { id: job.id.clone(), tried: tried.clone() }]).await;
    if let Some(seat) = seat {
        seat.take(&job.id);
    }
    let taken_back = {
        let mut inner = engine.inner();
        let back = inner.open.get_mut(job.id.as_str()).map(|open| {
            let job = &mut open.job;
            (job.state, job.started, job.instance, job.generation) = (State::Queued, None, None, None);
            job.tries.extend(tried);
            // It may have been wished for while this was written.
            let taken_back = open.wish == Wish::Cancel;
            open.wish = if taken_back { Wish::Cancel } else { Wish::Finish };
            (waiting(job), taken_back)
        });
        match back {
            Some((_, true)) => true,
            Some((back, false)) => {
                inner.queue.push(back);
                false
            }
            None => false,
        }
    };
    if taken_back {
        return cancelled(gateway, engine, None, &job.id).await;
    }
    if let Some(client) = client_of(job) {
        gateway.hub.ended(&client, &job.id);
    }
    gateway.hub.lives.over(&job.id);
    engine.changed.notify_waiters();
    engine.dispatch(&gateway.router);
}

/// The instance does not have it.
pub async fn put_back(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &str) {
    match engine.job(id) {
        Some(job) => again(gateway, engine, Some(seat), &job, None).await,
        None => drop(seat.take(id)),
    }
}

/// Together, or not at all. What is not on disk is tried again until it is: it has happened, and that cannot be undone.
pub async fn written(gateway: &Gateway, engine: &Engine, writes: Vec<Write>) {
    let told = tells(&writes);
    // What is told comes beside the one change of a job.
    let id = writes.iter().find_map(|write| match write {
        Write::Dispatch { id, .. }
        | Write::Start { id, .. }
        | Write::Requeue { id, .. }
        | Write::End { id, .. } => Some(id.clone()),
        _ => None,
    });
    match engine.ledger.insist(writes).await {
        Ok(()) if told => return engine.wake_deliveries(),
        Ok(()) => return,
        // Closed for another process, which asks the instance itself; anything else is ours.
        Err(_) if engine.is_paused() => return,
        Err(e) => engine.note(&gateway.log, Level::Error, &format!("not written: {}", e.full())),
    }
    // The disk knows better: what has ended there is nobody's any more.
    let Some(id) = id else { return };
    if let Ok(Some(job)) = engine.ledger.job(&id).await
        && job.state.is_over()
    {
        let mut inner = engine.inner();
        inner.queue.remove(&job.id);
        inner.open.remove(job.id.as_str());
    }
}

fn tells(writes: &[Write]) -> bool {
    writes.iter().any(|write| matches!(write, Write::Deliver(_)))
}

/// The same of many, in one transaction.
pub async fn all_cancelled(gateway: &Arc<Gateway>, engine: &Arc<Engine>, jobs: Vec<Job>) {
    let (at, reason) = (now(), unwanted());
    let mut writes = Vec::with_capacity(jobs.len());
    for job in &jobs {
        let reason = Some(reason.clone());
        let event = Event::Cancelled;
        let happened = Happened { job, event, at, reason: reason.as_ref(), history: None };
        let told = telling::writes(gateway, engine, &happened).await;
        writes.push(Write::End { id: job.id.clone(), state: State::Cancelled, at, reason, history: None });
        writes.extend(told);
    }
    let told = tells(&writes);
    if let Err(e) = engine.ledger.insist(writes).await {
        engine.note(&gateway.log, Level::Error, &format!("not written: {}", e.full()));
        return;
    }
    if told {
        engine.wake_deliveries();
    }
    {
        let mut inner = engine.inner();
        jobs.iter().for_each(|job| drop(inner.open.remove(job.id.as_str())));
    }
    jobs.iter().for_each(|_| engine.count_end(State::Cancelled));
    engine.changed.notify_waiters();
    engine.tell_remaining(&gateway.hub);
}

fn unwanted() -> Reason {
    Reason {
        kind: ReasonKind::Interrupted,
        message: "it was cancelled before it began".into(),
        details: None,
    }
}

/// It no longer waits, because somebody did not want it.
pub async fn cancelled(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: Option<&Arc<Seat>>, id: &str) {
    let Some(job) = engine.job(id) else { return };
    end(gateway, engine, seat, &job, State::Cancelled, Some(unwanted()), None).await;
}
