//! How a job leaves its instance: it has ended, or it waits again. Each is on disk before anybody hears of it.
use crate::formats::comfy::api::paths;
use crate::formats::comfy::api::shapes::history;
use crate::gateway::access_log::Level;
use crate::gateway::deliveries::events;
use crate::gateway::hub::ClientRef;
use crate::gateway::jobs::call::{self, Failed};
use crate::gateway::jobs::engine::{Engine, Wish, now, waiting};
use crate::gateway::jobs::messages;
use crate::gateway::jobs::owner;
use crate::gateway::jobs::seat::Seat;
use crate::gateway::jobs::telling::{self, Happened};
use crate::gateway::shared::Gateway;
use crate::jobs::model::{History, Job, Reason, ReasonKind, State, Try};
use crate::jobs::store::Write;
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

/// The job has ended as its instance says.
pub async fn ended(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &str) {
    let mut pause = Duration::from_millis(20);
    for _ in 0..QUESTIONS {
        match history_of(seat, id).await {
            Ok(Some(history)) => return with_history(gateway, engine, seat, id, history).await,
            // The next connection, or its refusal, decides.
            Err(Failed::Gone) => return,
            Ok(None) | Err(_) => {}
        }
        sleep(pause).await;
        pause *= 2;
    }
    let why = format!("{} ended it, and its history does not have it", seat.instance.id());
    lost(gateway, engine, seat, id, ReasonKind::Forgotten, &why).await;
}

/// What the instance's history says of it is its end, unless it was interrupted because its instance has to stop.
pub async fn with_history(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: &Arc<Seat>,
    id: &str,
    mut entry: History,
) {
    let Some((job, wish)) = engine.inner().open.get(id).map(|open| (open.job.clone(), open.wish)) else {
        seat.take(id);
        return;
    };
    let (state, reason) = messages::outcome(&entry);
    if state == State::Cancelled && wish == Wish::Drain {
        return drained(gateway, engine, seat, &job).await;
    }
    // The job itself is kept once, as its client asked for it; the instance knows it by the gateway's client id.
    history::take_outputs_to_execute(&mut entry);
    end(gateway, engine, Some(seat), &job, state, reason, Some(entry)).await;
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
    let end = Write::End { id: id.clone(), state, at, reason, history: history.map(Box::new) };
    written(gateway, engine, [vec![end], told].concat()).await;
    {
        let mut inner = engine.inner();
        inner.queue.remove(&id);
        inner.open.remove(id.as_str());
    }
    if let Some(seat) = seat {
        seat.take(&id);
    }
    if let Some(client) = client_of(job) {
        gateway.hub.ended(&client, &id);
    }
    engine.changed.notify_waiters();
    engine.tell_remaining(gateway);
    engine.dispatch(gateway);
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

/// Its instance ended, or no longer knows of it, before it was over. One that had not begun lost nothing.
pub async fn lost(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    seat: &Arc<Seat>,
    id: &str,
    kind: ReasonKind,
    why: &str,
) {
    let Some((job, wish)) = engine.inner().open.get(id).map(|open| (open.job.clone(), open.wish)) else {
        seat.take(id);
        return;
    };
    let reason = Reason { kind, message: why.to_string(), details: None };
    engine.note(gateway, Level::Warning, &format!("{id}: {why}"));
    if wish == Wish::Cancel {
        let reason = Reason { kind: ReasonKind::Interrupted, ..reason };
        return end(gateway, engine, Some(seat), &job, State::Cancelled, Some(reason), None).await;
    }
    if job.state != State::Running {
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
    let told = messages::failure(job, &reason);
    end(gateway, engine, seat, job, State::Failed, Some(reason), None).await;
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
    {
        let mut inner = engine.inner();
        let back = inner.open.get_mut(job.id.as_str()).map(|open| {
            open.wish = Wish::Finish;
            let job = &mut open.job;
            (job.state, job.started, job.instance, job.generation) = (State::Queued, None, None, None);
            job.tries.extend(tried);
            waiting(job)
        });
        if let Some(back) = back {
            inner.queue.push(back);
        }
    }
    if let Some(client) = client_of(job) {
        gateway.hub.ended(&client, &job.id);
    }
    engine.changed.notify_waiters();
    engine.dispatch(gateway);
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
    let told = writes.iter().any(|write| matches!(write, Write::Deliver(_)));
    match engine.ledger.insist(writes).await {
        Ok(()) if told => engine.wake_deliveries(),
        // Closed for another process, which asks the instance itself; anything else is ours.
        Err(e) if !engine.is_paused() => {
            engine.note(gateway, Level::Error, &format!("not written: {}", e.full()))
        }
        Ok(()) | Err(_) => {}
    }
}

/// It no longer waits, because somebody did not want it.
pub async fn cancelled(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: Option<&Arc<Seat>>, id: &str) {
    let Some(job) = engine.job(id) else { return };
    let reason = Reason {
        kind: ReasonKind::Interrupted,
        message: "it was cancelled before it began".into(),
        details: None,
    };
    end(gateway, engine, seat, &job, State::Cancelled, Some(reason), None).await;
}
