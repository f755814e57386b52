//! Giving a job to an instance: which one is on disk first, so that whoever comes after a crash asks that one.
use crate::formats::comfy::api::{ids, paths};
use crate::gateway::access_log::Level;
use crate::gateway::jobs::call::{self, Failed};
use crate::gateway::jobs::ending;
use crate::gateway::jobs::engine::{Engine, Id, now};
use crate::gateway::jobs::reconcile;
use crate::gateway::jobs::seat::{Order, Seat};
use crate::gateway::shared::Gateway;
use crate::jobs::model::{Body, Reason, ReasonKind, State};
use crate::jobs::store::Write;
use serde_json::{Map, Value};
use std::sync::Arc;

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

/// In a task of its own: validation may take a while, and what runs meanwhile is listened to.
pub fn send(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: Id) {
    let (gateway, engine, seat) = (gateway.clone(), engine.clone(), seat.clone());
    tokio::spawn(async move {
        let outcome = tell(&gateway, &engine, &seat, &id).await;
        seat.order(Order::Sent(id, outcome));
    });
}

async fn tell(gateway: &Gateway, engine: &Engine, seat: &Seat, id: &Id) -> Outcome {
    let body = match engine.ledger.body(id).await {
        Ok(Some(body)) => body,
        Ok(None) => return Outcome::NoBody("its body is not in the database".into()),
        Err(e) => return Outcome::NotSent(e.full()),
    };
    let dispatch = Write::Dispatch {
        id: id.to_string(),
        instance: seat.instance.id().into(),
        generation: seat.instance.target.generation,
        at: now(),
    };
    if let Err(e) = engine.ledger.write(dispatch).await {
        engine.note(gateway, Level::Error, &format!("{id} is not given to an instance: {}", e.full()));
        return Outcome::NotSent(e.full());
    }
    let answer = match call::post(&seat.instance, paths::PROMPT, &request(body, id, &seat.sid)).await {
        Ok(answer) => answer,
        Err(Failed::Gone) => return Outcome::NotSent("nothing listens there".into()),
        Err(Failed::NotSent(why)) => return Outcome::NotSent(why),
        Err(Failed::Unknown(why)) => return Outcome::Unknown(why),
    };
    if !answer.status.is_success() {
        return Outcome::Refused { status: answer.status.as_u16(), details: answer.json() };
    }
    match ids::job_of(&answer.body) {
        Some(its) if its == **id => Outcome::Taken,
        _ => Outcome::OtherId,
    }
}

/// The body of POST /prompt. Its place in the instance's own queue is the order in which it comes.
fn request(body: Body, id: &str, sid: &str) -> Value {
    let mut request: Map<String, Value> = body.others;
    request.insert("prompt".into(), body.prompt);
    request.insert("prompt_id".into(), id.into());
    request.insert("client_id".into(), sid.into());
    request.insert("extra_data".into(), body.extra_data);
    if let Some(targets) = body.partial_execution_targets {
        request.insert("partial_execution_targets".into(), targets);
    }
    request.into()
}

/// Goes on with what came of it.
pub async fn sent(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &Id, outcome: Outcome) {
    if !seat.has(id) {
        return;
    }
    let Some(job) = engine.job(id) else { return };
    match outcome {
        Outcome::Taken => reconcile::wish(gateway, engine, seat, id).await,
        Outcome::Refused { status: 400..=499, details } => {
            let message = format!("{} refused it", seat.instance.id());
            let reason = Reason { kind: ReasonKind::Refused, message, details };
            ending::fail(gateway, engine, Some(seat), &job, reason).await;
        }
        Outcome::Refused { status, .. } => {
            seat.rest();
            let why = format!("{} answered {status} to POST /prompt", seat.instance.id());
            // It counts as a try: a prompt that an instance stumbles over must not go round for ever.
            started(engine, id);
            ending::lost(gateway, engine, seat, id, ReasonKind::Refused, &why).await;
        }
        Outcome::OtherId => {
            let message = format!(
                "the ComfyUI of generation {} chooses the ids of jobs itself, so the gateway cannot own them: \
                 set queue = \"instances\" in [service.jobs], or use ComfyUI 0.3.45 or later",
                seat.instance.target.generation
            );
            let reason = Reason { kind: ReasonKind::Refused, message, details: None };
            ending::fail(gateway, engine, Some(seat), &job, reason).await;
        }
        Outcome::NotSent(why) => {
            engine.note(gateway, Level::Info, &format!("{id} waits again: {}: {why}", seat.instance.id()));
            seat.rest();
            ending::put_back(gateway, engine, seat, id).await;
        }
        Outcome::Unknown(why) => {
            let text = format!("{}: whether it has {id} is asked: {why}", seat.instance.id());
            engine.note(gateway, Level::Warning, &text);
            reconcile::all(gateway, engine, seat).await;
        }
        Outcome::NoBody(message) => {
            let reason = Reason { kind: ReasonKind::Forgotten, message, details: None };
            ending::fail(gateway, engine, Some(seat), &job, reason).await;
        }
    }
}

fn started(engine: &Engine, id: &str) {
    if let Some(open) = engine.inner().open.get_mut(id) {
        open.job.state = State::Running;
        open.job.started.get_or_insert_with(now);
    }
}
