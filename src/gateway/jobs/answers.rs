//! ComfyUI's own addresses for jobs, answered by the gateway: one queue and one history for the whole service, over
//! all instances and generations.
use crate::formats::comfy::api::invalid::{self, Invalid};
use crate::formats::comfy::api::paths;
use crate::formats::comfy::api::route::JobsRoute;
use crate::formats::comfy::api::shapes::history::{self, Entry, Page};
use crate::formats::comfy::api::shapes::item::{Extra, Item};
use crate::formats::comfy::api::shapes::jobs::{self, Ask, Listed, SortBy, Status};
use crate::formats::comfy::api::shapes::messages::{Failure, Node};
use crate::formats::comfy::api::shapes::queue::{self, Queue};
use crate::formats::comfy::api::shapes::requests::{self, Forget};
use crate::gateway::jobs::accept;
use crate::gateway::jobs::call;
use crate::gateway::jobs::engine::Engine;
use crate::gateway::jobs::messages;
use crate::gateway::jobs::owner;
use crate::gateway::jobs::service;
use crate::gateway::share::Who;
use crate::gateway::shared::Gateway;
use crate::jobs::ledger::Texts;
use crate::jobs::model::{BodyText, History, Job, State};
use crate::jobs::store::{Find, Sort, Write};
use crate::sys::error::Error;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// ComfyUI keeps so many, and answers with all of them where no limit is given.
const HISTORY: u64 = 10_000;

/// A request, as far as these answers need it.
pub struct Asked<'a> {
    pub route: JobsRoute<'a>,
    pub query: &'a str,
    pub who: &'a Who,
    /// The header `comfy-usage-source`.
    pub usage: Option<String>,
    pub body: Bytes,
}

/// Status and body; without one, ComfyUI's answer has none either.
pub struct Answered {
    pub status: StatusCode,
    pub body: Bytes,
    pub retry_after: Option<u64>,
}

impl Answered {
    fn empty() -> Answered {
        Answered { status: StatusCode::OK, body: Bytes::new(), retry_after: None }
    }

    pub fn of(invalid: &Invalid) -> Answered {
        let status = StatusCode::from_u16(invalid.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = match invalid.status {
            429 => Some(5),
            503 => Some(10),
            _ => None,
        };
        Answered { status, body: Bytes::from(invalid.body.to_string()), retry_after }
    }
}

fn json(value: &impl Serialize) -> Result<Answered, Invalid> {
    let body = serde_json::to_vec(value).map_err(|e| Invalid::text(500, &e.to_string()))?;
    Ok(Answered { body: Bytes::from(body), ..Answered::empty() })
}

fn unread(e: Error) -> Invalid {
    invalid::unavailable(&e.full())
}

pub async fn answer(gateway: &Arc<Gateway>, engine: &Arc<Engine>, asked: Asked<'_>) -> Answered {
    let Asked { route, query, who, usage, body } = asked;
    let answered = match route {
        JobsRoute::Submit => match accept::prompt(gateway, engine, who, usage, body).await {
            Ok(answer) => json(&answer),
            Err(invalid) => Err(invalid),
        },
        JobsRoute::PromptGet => json(&queue::info(engine.remaining())),
        JobsRoute::Queue => whole_queue(engine).await,
        JobsRoute::QueuePost => queue_post(gateway, engine, &body).await,
        JobsRoute::HistoryAll => all_history(engine, query).await,
        JobsRoute::HistoryOf(id) => history_of(engine, &id).await,
        JobsRoute::HistoryPost => history_post(engine, &body).await,
        JobsRoute::JobsList => list(engine, query).await,
        JobsRoute::JobOf(id) => one(engine, &id).await,
        JobsRoute::JobCancel(id) => json(&jobs::cancelled(service::cancel(gateway, engine, &id).await)),
        JobsRoute::JobsCancel => cancel_many(gateway, engine, &body).await,
        JobsRoute::Interrupt => interrupt(gateway, engine, who, &body).await,
        JobsRoute::Free => free(gateway, &body).await,
        JobsRoute::Features | JobsRoute::WebSocket | JobsRoute::View | JobsRoute::Upload | JobsRoute::V2 => {
            Err(Invalid::text(404, "Not found"))
        }
    };
    answered.unwrap_or_else(|invalid| Answered::of(&invalid))
}

/// Whether this is one of ours; pictures, uploads and sockets are others' business.
pub fn is_ours(route: &JobsRoute) -> bool {
    !matches!(route, JobsRoute::Features | JobsRoute::WebSocket | JobsRoute::View | JobsRoute::Upload)
}

/// Jobs with what there is of each.
type Full = Vec<(Job, Texts)>;

async fn with_texts(engine: &Engine, jobs: Vec<Job>) -> Result<Full, Invalid> {
    let ids = jobs.iter().map(|job| job.id.clone()).collect();
    let texts = engine.ledger.texts(ids).await.map_err(unread)?;
    Ok(jobs.into_iter().zip(texts).collect())
}

fn item<'a>(job: &'a Job, texts: &'a Texts) -> Result<Item<'a>, Invalid> {
    let body = texts.body.as_deref().map(serde_json::from_str::<BodyText>).transpose();
    let body = body.map_err(|e| invalid::unavailable(&format!("job {} cannot be read: {e}", job.id)))?;
    let body = body.as_ref();
    Ok(Item {
        number: job.number,
        id: &job.id,
        prompt: body.map(|body| body.prompt),
        extra: Extra {
            given: body.map(|body| body.extra_data),
            client_id: job.client.as_deref(),
            create_time: job.accepted,
        },
        outputs_to_execute: body.and_then(|body| body.outputs_to_execute),
    })
}

fn items(jobs: &Full) -> Result<Vec<Item<'_>>, Invalid> {
    jobs.iter().map(|(job, texts)| item(job, texts)).collect()
}

async fn whole_queue(engine: &Engine) -> Result<Answered, Invalid> {
    let (running, pending) = {
        let inner = engine.inner();
        let mut running: Vec<Job> = Vec::new();
        let mut given: Vec<Job> = Vec::new();
        for open in inner.open.values() {
            match open.job.state {
                State::Running => running.push(open.job.clone()),
                // It waits at its instance, which will run it next.
                State::Dispatched => given.push(open.job.clone()),
                _ => {}
            }
        }
        running.sort_by_key(|job| (job.started, job.seq));
        given.sort_by_key(|job| job.seq);
        let waiting = inner.queue.in_order();
        given.extend(waiting.iter().filter_map(|w| inner.open.get(&w.id)).map(|open| open.job.clone()));
        (running, given)
    };
    let (running, pending) = (with_texts(engine, running).await?, with_texts(engine, pending).await?);
    json(&Queue { queue_running: items(&running)?, queue_pending: items(&pending)? })
}

async fn queue_post(gateway: &Arc<Gateway>, engine: &Arc<Engine>, body: &[u8]) -> Result<Answered, Invalid> {
    let forget = Forget::parse(body)?;
    let mut ids = Vec::new();
    if forget.clear {
        service::cancel_waiting(gateway, engine).await;
        let inner = engine.inner();
        let waits = |open: &&crate::gateway::jobs::engine::Open| open.job.state != State::Running;
        ids.extend(inner.open.values().filter(waits).map(|open| open.job.id.clone()));
    }
    // ComfyUI's queue has what waits: what runs is not stopped by it.
    ids.extend(
        forget.delete.into_iter().filter(|id| engine.job(id).is_some_and(|j| j.state != State::Running)),
    );
    for id in ids {
        service::cancel(gateway, engine, &id).await;
    }
    Ok(Answered::empty())
}

fn ended() -> Vec<State> {
    State::ALL.into_iter().filter(|state| state.is_over()).collect()
}

async fn all_history(engine: &Engine, query: &str) -> Result<Answered, Invalid> {
    let Some(part) = Page::parse(query)?.part() else { return history(Vec::new()) };
    let find = Find {
        states: ended(),
        sort: Sort::Ended,
        oldest_first: !part.last,
        offset: part.offset,
        limit: Some(part.limit.unwrap_or(HISTORY).min(HISTORY)),
        ..Find::default()
    };
    let (mut jobs, _) = engine.ledger.find(find).await.map_err(unread)?;
    if part.last {
        jobs.reverse();
    }
    history(with_texts(engine, jobs).await?)
}

async fn history_of(engine: &Engine, id: &str) -> Result<Answered, Invalid> {
    let job = engine.ledger.job(id).await.map_err(unread)?;
    let jobs = job.into_iter().filter(|job| job.state.is_over()).collect();
    history(with_texts(engine, jobs).await?)
}

fn history(mut jobs: Full) -> Result<Answered, Invalid> {
    for (job, texts) in &mut jobs {
        texts.history.get_or_insert_with(|| made_up(job).to_string());
    }
    let entry = |(job, texts)| {
        let texts: &Texts = texts;
        Ok(Entry { item: item(job, texts)?, rest: texts.history.as_deref().unwrap_or_default() })
    };
    json(&history::Answer(
        jobs.iter().map(|(job, texts)| entry((job, texts))).collect::<Result<_, Invalid>>()?,
    ))
}

/// The entry of a job whose end no instance has told.
fn made_up(job: &Job) -> Value {
    let ended = job.ended.unwrap_or(job.accepted);
    let nowhere = Node { id: "", class: "" };
    match &job.reason {
        Some(reason) if job.state != State::Cancelled => {
            let failure = Failure {
                node: nowhere,
                kind: messages::kind_name(reason.kind),
                message: &reason.message,
                traceback: &[],
            };
            history::failed(&job.id, job.started, ended, &failure)
        }
        _ => history::interrupted(&job.id, job.started, ended, nowhere),
    }
}

async fn history_post(engine: &Arc<Engine>, body: &[u8]) -> Result<Answered, Invalid> {
    let forget = Forget::parse(body)?;
    let mut ids = forget.delete;
    if forget.clear {
        let find = Find { states: ended(), ..Find::default() };
        let (jobs, _) = engine.ledger.find(find).await.map_err(unread)?;
        ids.extend(jobs.into_iter().map(|job| job.id));
    }
    // What has not ended is in no history.
    ids.retain(|id| engine.job(id).is_none());
    if !ids.is_empty() {
        engine.ledger.write(Write::Forget { ids }).await.map_err(unread)?;
    }
    Ok(Answered::empty())
}

fn status(job: &Job) -> Status {
    match job.state {
        State::Queued | State::Dispatched => Status::Pending,
        State::Running => Status::InProgress,
        State::Succeeded => Status::Completed,
        State::Failed | State::Expired => Status::Failed,
        State::Cancelled => Status::Cancelled,
    }
}

fn states(status: Status) -> &'static [State] {
    match status {
        Status::Pending => &[State::Queued, State::Dispatched],
        Status::InProgress => &[State::Running],
        Status::Completed => &[State::Succeeded],
        Status::Failed => &[State::Failed, State::Expired],
        Status::Cancelled => &[State::Cancelled],
    }
}

/// Of a job that has ended.
fn entry(job: &Job, history: Option<History>) -> Option<Value> {
    job.state.is_over().then(|| history.unwrap_or_else(|| made_up(job)))
}

fn listed<'a>(job: &'a Job, entry: Option<&'a Value>) -> Listed<'a> {
    Listed {
        id: &job.id,
        status: status(job),
        number: job.number,
        created: job.accepted,
        started: job.started,
        ended: job.ended,
        workflow: job.workflow.as_deref(),
        entry,
    }
}

async fn list(engine: &Engine, query: &str) -> Result<Answered, Invalid> {
    let ask = Ask::parse(query)?;
    let find = Find {
        states: ask.statuses.iter().flatten().flat_map(|status| states(*status)).copied().collect(),
        workflow: ask.workflow_id.clone(),
        sort: match ask.sort_by {
            SortBy::CreatedAt => Sort::Accepted,
            SortBy::ExecutionDuration => Sort::Duration,
        },
        oldest_first: !ask.descending,
        offset: ask.offset,
        limit: Some(ask.limit.unwrap_or(HISTORY).min(HISTORY)),
        ..Find::default()
    };
    if ask.statuses.as_ref().is_some_and(Vec::is_empty) {
        return json(&ask.answer(Vec::new(), 0));
    }
    let (jobs, total) = engine.ledger.find(find).await.map_err(unread)?;
    let histories = engine.ledger.histories(jobs.iter().map(|job| job.id.clone()).collect()).await;
    let all = jobs.iter().zip(histories.map_err(unread)?);
    let shown = all.map(|(job, history)| jobs::listed(&listed(job, entry(job, history).as_ref())));
    json(&ask.answer(shown.collect(), total))
}

async fn one(engine: &Engine, id: &str) -> Result<Answered, Invalid> {
    let Some(job) = engine.ledger.job(id).await.map_err(unread)? else { return Err(jobs::not_found()) };
    let history = engine.ledger.history(id).await.map_err(unread)?;
    let texts = Texts { body: engine.ledger.body_text(id).await.map_err(unread)?, history: None };
    let entry = entry(&job, history);
    json(&jobs::detailed(&listed(&job, entry.as_ref()), item(&job, &texts)?))
}

async fn cancel_many(gateway: &Arc<Gateway>, engine: &Arc<Engine>, body: &[u8]) -> Result<Answered, Invalid> {
    let mut any = false;
    for id in requests::cancel(body)? {
        any |= service::cancel(gateway, engine, &id).await;
    }
    json(&jobs::cancelled(any))
}

/// With an id that job, if it runs; without one the caller's own, and of a caller that no key names the only one.
async fn interrupt(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    who: &Who,
    body: &[u8],
) -> Result<Answered, Invalid> {
    let chosen = {
        let inner = engine.inner();
        let mut running: Vec<&Job> =
            inner.open.values().map(|open| &open.job).filter(|job| job.state == State::Running).collect();
        running.sort_by_key(|job| (job.started, job.seq));
        let chosen = match requests::interrupt(body) {
            Some(id) => running.into_iter().find(|job| job.id == id),
            None if who.key.is_some() => {
                let own = owner::owner(who, None);
                running.into_iter().find(|job| job.owner == own)
            }
            None => (running.len() == 1).then(|| running[0]),
        };
        chosen.map(|job| job.id.clone())
    };
    if let Some(id) = chosen {
        service::cancel(gateway, engine, &id).await;
    }
    Ok(Answered::empty())
}

/// Every instance frees its memory, as its own address for that says.
async fn free(gateway: &Arc<Gateway>, body: &Bytes) -> Result<Answered, Invalid> {
    for (instance, draining) in gateway.router.all() {
        if !draining && instance.is_healthy() {
            // One that does not answer has other troubles, which its check finds.
            let _ = call::post_bytes(&instance, paths::FREE, body.clone()).await;
        }
    }
    Ok(Answered::empty())
}
