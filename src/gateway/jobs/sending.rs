//! Giving a job to an instance: which one is on disk first, so that whoever comes after a crash asks that one.
use crate::formats::comfy::api::submission::ForInstance;
use crate::formats::comfy::api::{ids, paths};
use crate::gateway::access_log::Level;
use crate::gateway::faults;
use crate::gateway::jobs::call::{self, Failed};
use crate::gateway::jobs::ending::{self, Turn};
use crate::gateway::jobs::engine::{CLAIM, Engine, now};
use crate::gateway::jobs::inputs::{self, NotPlaced};
use crate::gateway::jobs::place::{Id, Order, Outcome, Seat};
use crate::gateway::jobs::reconcile;
use crate::gateway::shared::Gateway;
use crate::jobs::model::{Reason, ReasonKind};
use crate::jobs::store::Write;
use crate::sys::fault;
use std::sync::Arc;

/// The guard that the tests take out: it is then on disk who has a job only once it has it.
const RECORD: &str = "jobs-record";

/// In a task of its own: validation may take a while, and what runs meanwhile is listened to.
pub fn send(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: Id) {
    let (gateway, engine, seat) = (gateway.clone(), engine.clone(), seat.clone());
    engine.begin_sending();
    seat.set_sending(&id, true);
    tokio::spawn(async move {
        let outcome = tell(&gateway, &engine, &seat, &id).await;
        engine.end_sending();
        seat.order(Order::Sent(id, outcome));
    });
}

async fn tell(gateway: &Gateway, engine: &Engine, seat: &Seat, id: &Id) -> Outcome {
    let body = match engine.ledger.body(id).await {
        Ok(Some(body)) => body,
        Ok(None) => return Outcome::NoBody("its body is not in the database".into()),
        Err(e) => return Outcome::NotSent(e.full()),
    };
    if !fault::is_taken_out(RECORD)
        && let Err(why) = record(gateway, engine, seat, id).await
    {
        return Outcome::NotSent(why);
    }
    // A place at which the tests hold it: to be held is all that is planned there.
    let _ = faults::point(gateway, "jobs/recorded").await;
    match give_files(engine, seat, id).await {
        Ok(()) => {}
        Err(NotPlaced::Failed(status)) => return Outcome::Refused { status, details: None },
        Err(NotPlaced::Later(why)) => return Outcome::NotSent(why),
        Err(NotPlaced::Missing(why) | NotPlaced::Refused(why)) => return Outcome::NoBody(why),
    }
    // Its place in the instance's own queue is the order in which it comes.
    let request = ForInstance {
        prompt: &body.prompt,
        prompt_id: id,
        client_id: &seat.sid,
        extra_data: &body.extra_data,
        partial_execution_targets: body.partial_execution_targets.as_ref(),
        others: &body.others,
    };
    let request = match request.body() {
        Ok(request) => request,
        Err(e) => return Outcome::NoBody(e.to_string()),
    };
    let answer = match call::post_bytes(&seat.instance, paths::PROMPT, request.into()).await {
        Ok(answer) => answer,
        Err(Failed::Gone) => return Outcome::NotSent("nothing listens there".into()),
        Err(Failed::NotSent(why)) => return Outcome::NotSent(why),
        Err(Failed::Unknown(why)) => return Outcome::Unknown(why),
    };
    let _ = faults::point(gateway, "jobs/told").await;
    if fault::is_taken_out(RECORD) {
        let _ = record(gateway, engine, seat, id).await;
    }
    if !answer.status.is_success() {
        return Outcome::Refused { status: answer.status.as_u16(), details: answer.json() };
    }
    match ids::job_of(&answer.body) {
        Some(its) if its == **id => Outcome::Taken,
        _ => Outcome::OtherId,
    }
}

/// Which instance the job goes to, on disk.
async fn record(gateway: &Gateway, engine: &Engine, seat: &Seat, id: &Id) -> Result<(), String> {
    let dispatch = Write::Dispatch {
        id: id.to_string(),
        instance: seat.instance.id().into(),
        generation: seat.instance.target.generation,
        at: now(),
    };
    let written = engine.ledger.write(dispatch).await;
    if fault::is_taken_out(CLAIM) {
        engine.inner().queue.remove(id);
    }
    written.map_err(|e| {
        engine.note(&gateway.log, Level::Error, &format!("{id} is not given to an instance: {}", e.full()));
        e.full()
    })
}

/// Another instance may have had them, or somebody took them away.
async fn give_files(engine: &Engine, seat: &Seat, id: &Id) -> Result<(), NotPlaced> {
    let used = engine.ledger.used_by(id).await.map_err(|e| NotPlaced::Later(e.full()))?;
    inputs::place(&engine.files, &seat.instance, &used).await
}

/// Goes on with what came of it.
pub async fn sent(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, id: &Id, outcome: Outcome) {
    seat.set_sending(id, false);
    if !seat.has(id) {
        return;
    }
    let Some(job) = engine.job(id) else { return };
    match outcome {
        Outcome::Taken => {
            reconcile::wish(gateway, engine, seat, id).await;
            if !gateway.router.is_named(&seat.instance) {
                reconcile::give_back(gateway, engine, seat).await;
            }
        }
        Outcome::Refused { status: 400..=499, details } => {
            // Its client hears the message alone.
            let said = |member: &str| {
                let text = details.as_ref()?["error"][member].as_str()?.trim();
                (!text.is_empty()).then(|| format!(": {text}"))
            };
            let texts = [said("message"), said("details")].into_iter().flatten().collect::<String>();
            let message = format!("{} refused it{texts}", seat.instance.id());
            let reason = Reason { kind: ReasonKind::Refused, message, details };
            ending::fail(gateway, engine, Some(seat), &job, reason).await;
        }
        Outcome::Refused { status, .. } => {
            seat.rest();
            let why = format!("{} answered {status} when it was given the job", seat.instance.id());
            // It counts as a try: a prompt that an instance stumbles over must not go round for ever.
            ending::lost(gateway, engine, seat, id, (ReasonKind::Refused, Turn::Its), &why).await;
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
            engine.note(
                &gateway.log,
                Level::Info,
                &format!("{id} waits again: {}: {why}", seat.instance.id()),
            );
            seat.rest();
            ending::put_back(gateway, engine, seat, id).await;
        }
        Outcome::Unknown(why) => {
            let text = format!("{}: whether it has {id} is asked: {why}", seat.instance.id());
            engine.note(&gateway.log, Level::Warning, &text);
            reconcile::all(gateway, engine, seat).await;
        }
        Outcome::NoBody(message) => {
            let reason = Reason { kind: ReasonKind::Forgotten, message, details: None };
            ending::fail(gateway, engine, Some(seat), &job, reason).await;
        }
    }
}
