//! Where the gateway and an instance may disagree, the instance is asked: its queue says what it has, its history
//! what has ended. Neither is taken for granted after a connection broke, a restart, or an answer that never came.
use crate::formats::comfy::api::paths;
use crate::gateway::access_log::Level;
use crate::gateway::jobs::call::{self, Failed};
use crate::gateway::jobs::ending::{self, Turn};
use crate::gateway::jobs::engine::{Engine, Wish, now};
use crate::gateway::jobs::messages;
use crate::gateway::jobs::place::Seat;
use crate::gateway::jobs::telling::{self, Happened};
use crate::gateway::shared::Gateway;
use crate::jobs::model::{ReasonKind, State};
use crate::jobs::store::Write;
use crate::protocol::deliveries::Event;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two questions while a job comes to its end.
const SOON: Duration = Duration::from_millis(100);
/// What was sent to an instance is in its queue within so many milliseconds.
const YOUNG: u64 = 3_000;
/// How long an interrupted node may take to stop. ComfyUI looks between two steps of a sampler.
const STOPPING: Duration = Duration::from_secs(5);

/// Ids of jobs that an instance has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Has {
    pub running: Vec<String>,
    pub pending: Vec<String>,
}

pub async fn queue_of(seat: &Seat) -> Result<Has, Failed> {
    let answer = call::get(&seat.instance, paths::QUEUE).await?;
    let queue = answer.json().filter(|_| answer.status.is_success());
    let queue =
        queue.ok_or_else(|| Failed::Unknown(format!("/queue answered {}", answer.status.as_u16())))?;
    Ok(has(&queue))
}

fn has(queue: &Value) -> Has {
    let ids = |member: &str| {
        let items = queue[member].as_array().into_iter().flatten();
        items.filter_map(|item| item[1].as_str().map(String::from)).collect()
    };
    Has { running: ids("queue_running"), pending: ids("queue_pending") }
}

/// Every job that this instance has or was given. False: it could not be asked.
pub async fn all(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>) -> bool {
    let has = match queue_of(seat).await {
        Ok(has) => has,
        Err(why) => {
            let text = format!("{} cannot be asked for its queue: {why}", seat.instance.id());
            engine.note(&gateway.log, Level::Warning, &text);
            return false;
        }
    };
    for id in seat.jobs().into_iter().filter(|id| !seat.is_sending(id)) {
        if has.running.iter().any(|running| **running == *id) {
            began(gateway, engine, &id).await;
        } else if !has.pending.iter().any(|pending| **pending == *id)
            && !settle(gateway, engine, seat, &id).await
        {
            return false;
        }
        wish(gateway, engine, seat, &id).await;
    }
    if !gateway.router.is_named(&seat.instance) {
        give_back(gateway, engine, seat).await;
    }
    for id in has.running.iter().chain(&has.pending) {
        stranger(gateway, engine, seat, id).await;
    }
    true
}

/// It is in no queue of its instance: it has ended, or is lost. False: its history cannot be read.
async fn settle(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &str) -> bool {
    match ending::history_of(seat, id).await {
        Ok(Some(history)) => {
            let told = messages::end_of(id, &history);
            let client = engine.job(id).as_ref().and_then(ending::client_of);
            if ending::with_history(gateway, engine, seat, id, history).await
                && let Some(client) = client
            {
                // What the instance said of it was not heard.
                told.iter().for_each(|message| gateway.hub.to_client(&client, message));
            }
        }
        Ok(None) if is_young(engine, id) => {
            // An earlier process gave it away a moment ago: the instance may still be reading it.
            sleep(SOON).await;
            return false;
        }
        Ok(None) => {
            let why = format!("{} does not know of it", seat.instance.id());
            ending::lost(gateway, engine, seat, id, (ReasonKind::Forgotten, Turn::Later), &why).await;
        }
        Err(_) => return false,
    }
    true
}

/// It was given to its instance a moment ago, and is not known to have begun.
fn is_young(engine: &Engine, id: &str) -> bool {
    let job = engine.job(id).filter(|job| job.state == State::Dispatched);
    job.and_then(|job| job.dispatched).is_some_and(|at| now().saturating_sub(at) < YOUNG)
}

/// A job of ours that another instance has, or nobody any more, must not run here.
async fn stranger(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &str) {
    if seat.has(id) {
        return;
    }
    let ours =
        engine.inner().open.contains_key(id) || engine.ledger.job(id).await.is_ok_and(|job| job.is_some());
    if ours {
        let text = format!("{} has {id}, which is not its job: it is taken away", seat.instance.id());
        engine.note(&gateway.log, Level::Warning, &text);
        take_away(seat, id).await;
    }
}

/// Out of the instance's queue; stopped if it runs.
pub async fn take_away(seat: &Seat, id: &str) {
    // Whatever fails here is found by the next look at the instance's queue.
    let _ = call::post(&seat.instance, paths::QUEUE, &json!({ "delete": [id] })).await;
    let _ = interrupt(seat, id).await;
}

/// Only if this very job runs: before 0.3.50 ComfyUI knows no id here and stops whatever runs.
async fn interrupt(seat: &Seat, id: &str) -> Result<bool, Failed> {
    let runs = queue_of(seat).await?.running.iter().any(|running| running == id);
    if runs {
        call::post(&seat.instance, paths::INTERRUPT, &json!({ "prompt_id": id })).await?;
    }
    Ok(runs)
}

pub async fn began(gateway: &Arc<Gateway>, engine: &Arc<Engine>, id: &str) {
    let at = now();
    let first = {
        let mut inner = engine.inner();
        match inner.open.get_mut(id) {
            Some(open) if open.job.state == State::Dispatched => {
                open.job.state = State::Running;
                open.job.started = Some(at);
                Some(open.job.clone())
            }
            _ => None,
        }
    };
    if let Some(job) = first {
        let happened = Happened { job: &job, event: Event::Started, at, reason: None, history: None };
        let told = telling::writes(gateway, engine, &happened).await;
        let start = Write::Start { id: id.into(), at };
        if told.is_empty() {
            // Whoever comes after a crash hears it from the instance: it is not worth an fsync.
            engine.ledger.write_later(start);
        } else {
            ending::written(gateway, engine, [vec![start], told].concat()).await;
        }
        gateway.hub.lives.ring(id);
    }
}

/// Whatever was wanted of a job while its instance could not be told.
pub async fn wish(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &str) {
    let wish = engine.inner().open.get(id).map(|open| open.wish);
    match wish {
        Some(Wish::Cancel) => cancel(gateway, engine, seat, id).await,
        Some(Wish::Drain) => {
            let _ = interrupt(seat, id).await;
        }
        Some(Wish::Finish) | None => {}
    }
}

/// Out of its queue, or interrupted: the end of what runs is heard over the WebSocket.
pub async fn cancel(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &str) {
    if seat.is_sending(id) {
        // What comes of that sees the wish.
        return;
    }
    match take_back(seat, id).await {
        Ok(Back::Taken) => ending::cancelled(gateway, engine, Some(seat), id).await,
        Ok(Back::Runs) => {
            let _ = interrupt(seat, id).await;
        }
        Ok(Back::Elsewhere) => drop(settle(gateway, engine, seat, id).await),
        // It stays wished for.
        Err(_) => {}
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Back {
    /// It waited there, and no longer does.
    Taken,
    Runs,
    /// It is in no queue: it has ended, or never came.
    Elsewhere,
}

/// Takes a job that waits out of an instance's queue.
pub async fn take_back(seat: &Seat, id: &str) -> Result<Back, Failed> {
    let before = queue_of(seat).await?;
    if before.running.iter().any(|running| running == id) {
        return Ok(Back::Runs);
    }
    if !before.pending.iter().any(|pending| pending == id) {
        return Ok(Back::Elsewhere);
    }
    call::post(&seat.instance, paths::QUEUE, &json!({ "delete": [id] })).await?;
    // It may have begun in between: then it is not the delete that took it out.
    let after = queue_of(seat).await?;
    if after.running.iter().any(|running| running == id) {
        return Ok(Back::Runs);
    }
    match ending::history_of(seat, id).await? {
        Some(_) => Ok(Back::Elsewhere),
        None => Ok(Back::Taken),
    }
}

/// The instance left the table: what waits there goes to another.
pub async fn give_back(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>) {
    for id in seat.jobs().into_iter().filter(|id| !seat.is_sending(id)) {
        if let Ok(Back::Taken) = take_back(seat, &id).await {
            ending::put_back(gateway, engine, seat, &id).await;
        }
    }
}

/// The instance is about to be stopped: what runs there is interrupted, and waits again or has failed. What does
/// not stop in time is left to the end of its process.
pub async fn release(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>) {
    give_back(gateway, engine, seat).await;
    for id in seat.jobs() {
        if let Some(open) = engine.inner().open.get_mut(&id)
            && open.wish == Wish::Finish
        {
            open.wish = Wish::Drain;
        }
        let _ = interrupt(seat, &id).await;
    }
    // What does not stop in time is stopped with its process, is lost there, and waits again.
    let until = Instant::now() + STOPPING;
    while seat.count() > 0 && Instant::now() < until {
        for id in seat.jobs().into_iter().filter(|id| !seat.is_sending(id)) {
            let gone = match queue_of(seat).await {
                Ok(has) => !has.running.iter().chain(&has.pending).any(|here| **here == *id),
                Err(_) => false,
            };
            if gone {
                settle(gateway, engine, seat, &id).await;
            }
        }
        sleep(SOON).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_queue() {
        let golden = include_bytes!("../../../tests/golden/comfyui-wire/queue.json");
        assert_eq!(has(&serde_json::from_slice(golden).unwrap()), Has::default());
        let queue =
            json!({"queue_running": [[3, "a", {}, {}, []]], "queue_pending": [[4, "b", {}, {}, []], [5]]});
        assert_eq!(has(&queue), Has { running: vec!["a".into()], pending: vec!["b".into()] });
    }
}
