//! What the agent asks of the jobs, for `stillframe jobs`.
use crate::gateway::hub::Message;
use crate::gateway::jobs::ending;
use crate::gateway::jobs::engine::{Engine, Open, Wish, waiting};
use crate::gateway::jobs::messages;
use crate::gateway::jobs::service;
use crate::gateway::jobs::telling;
use crate::gateway::shared::Gateway;
use crate::jobs::model::{Job, State};
use crate::jobs::store::{Find, Sort, Write};
use crate::protocol::jobs::{JobActed, JobDetail, JobRow, JobsAnswer, JobsAsk, JobsOrder};
use crate::sys::error::Error;
use std::path::Path;
use std::sync::Arc;

/// A page of an export ends once it has so many bytes: an answer is one line.
const PAGE: usize = 8 << 20;

pub async fn answer(gateway: &Arc<Gateway>, ask: JobsAsk) -> Result<JobsAnswer, String> {
    let engine = gateway.jobs().ok_or("this gateway does not own the jobs: they are the instances' own")?;
    let engine = &engine;
    match ask {
        JobsAsk::List { states, owner, order, offset, limit } => {
            let find = Find {
                states,
                owner,
                sort: match order {
                    JobsOrder::Accepted => Sort::Accepted,
                    JobsOrder::Ended => Sort::Ended,
                },
                offset,
                limit: Some(limit),
                ..Find::default()
            };
            let (jobs, total) = engine.ledger.find(find).await.map_err(full)?;
            let jobs = jobs.into_iter().map(|job| row(gateway, engine, &job)).collect();
            let waiting = engine.waiting() as u64;
            let running = (engine.remaining() as u64).saturating_sub(waiting);
            Ok(JobsAnswer::List { jobs, total, waiting, running })
        }
        JobsAsk::Show { id } => {
            let job = match engine.ledger.job(&id).await.map_err(full)? {
                Some(job) => Some(Box::new(detail(gateway, engine, &job).await?)),
                None => None,
            };
            Ok(JobsAnswer::Show { job })
        }
        JobsAsk::Cancel { ids, waiting } => {
            let mut ids = ids;
            if waiting {
                ids.extend(engine.inner().queue.in_order().iter().map(|waiting| waiting.id.to_string()));
            }
            let mut jobs = Vec::with_capacity(ids.len());
            for id in ids {
                jobs.push(cancel(gateway, engine, id).await?);
            }
            Ok(JobsAnswer::Acted { jobs })
        }
        JobsAsk::Requeue { ids } => {
            let mut jobs = Vec::with_capacity(ids.len());
            for id in ids {
                jobs.push(requeue(gateway, engine, id).await?);
            }
            Ok(JobsAnswer::Acted { jobs })
        }
        JobsAsk::Export { after, limit, since } => export(gateway, engine, after, limit, since).await,
        JobsAsk::Backup { to } => {
            engine.ledger.backup(&to).await.map_err(full)?;
            let bytes = size(&to)?;
            Ok(JobsAnswer::BackedUp { bytes })
        }
        JobsAsk::Deliveries { states, job, limit } => {
            telling::list(gateway, engine, states, job, limit).await
        }
        JobsAsk::Redeliver { ids, failed } => telling::again(engine, ids, failed).await,
    }
}

fn full(e: Error) -> String {
    e.full()
}

fn size(file: &Path) -> Result<u64, String> {
    std::fs::metadata(file).map(|m| m.len()).map_err(|e| format!("{}: {e}", file.display()))
}

async fn cancel(gateway: &Arc<Gateway>, engine: &Arc<Engine>, id: String) -> Result<JobActed, String> {
    let job = engine.job(&id);
    if service::cancel(gateway, engine, &id).await {
        // A client that waits for its job hears of an operator's decision.
        if let Some(job) = job.filter(|job| job.state == State::Queued)
            && let Some(client) = ending::client_of(&job)
        {
            let told: Vec<Message> = messages::interruption(&id);
            told.iter().for_each(|message| gateway.hub.to_client(&client, message));
        }
        return Ok(JobActed { id, done: true, why: None });
    }
    let why = match engine.ledger.job(&id).await.map_err(full)? {
        Some(job) => format!("it has ended: {}", job.state.name()),
        None => "no such job".into(),
    };
    Ok(JobActed { id, done: false, why: Some(why) })
}

async fn requeue(gateway: &Arc<Gateway>, engine: &Arc<Engine>, id: String) -> Result<JobActed, String> {
    let not = |id, why: String| Ok(JobActed { id, done: false, why: Some(why) });
    let Some(job) = engine.ledger.job(&id).await.map_err(full)? else { return not(id, "no such job".into()) };
    if !job.state.is_over() || engine.job(&id).is_some() {
        return not(id, "it has not ended".into());
    }
    if engine.ledger.body(&id).await.map_err(full)?.is_none() {
        return not(id, "what it was asked for is no longer kept".into());
    }
    engine.ledger.write(Write::Again { id: id.clone() }).await.map_err(full)?;
    let Some(job) = engine.ledger.job(&id).await.map_err(full)? else { return not(id, "no such job".into()) };
    {
        let mut inner = engine.inner();
        inner.queue.push(waiting(&job));
        inner.open.insert(job.id.as_str().into(), Open { job, wish: Wish::Finish });
    }
    engine.tell_remaining(&gateway.hub);
    engine.dispatch(&gateway.router);
    Ok(JobActed { id, done: true, why: None })
}

async fn export(
    gateway: &Gateway,
    engine: &Engine,
    after: u64,
    limit: u64,
    since: Option<u64>,
) -> Result<JobsAnswer, String> {
    let find = Find { after: Some(after), since, oldest_first: true, limit: Some(limit), ..Find::default() };
    let (found, _) = engine.ledger.find(find).await.map_err(full)?;
    let (mut jobs, mut bytes, mut next) = (Vec::new(), 0, None);
    let whole = found.len() as u64 == limit;
    for job in &found {
        let detail = detail(gateway, engine, job).await?;
        bytes += serde_json::to_vec(&detail).map_or(0, |text| text.len());
        jobs.push(detail);
        if bytes > PAGE {
            next = Some(job.seq);
            break;
        }
    }
    if next.is_none() && whole {
        next = found.last().map(|job| job.seq);
    }
    Ok(JobsAnswer::Export { jobs, next })
}

async fn detail(gateway: &Gateway, engine: &Engine, job: &Job) -> Result<JobDetail, String> {
    let body = engine.ledger.body(&job.id).await.map_err(full)?;
    let history = engine.ledger.history(&job.id).await.map_err(full)?;
    let (prompt, extra_data) = match body {
        Some(mut body) => {
            crate::formats::comfy::api::shapes::item::forget_secrets(&mut body.extra_data);
            (Some(body.prompt), Some(body.extra_data))
        }
        None => (None, None),
    };
    let uploads = telling::uploads(gateway, engine, &job.id).await?;
    Ok(JobDetail { row: row(gateway, engine, job), prompt, extra_data, history, uploads })
}

fn row(gateway: &Gateway, engine: &Engine, job: &Job) -> JobRow {
    JobRow {
        id: job.id.clone(),
        seq: job.seq,
        state: job.state,
        priority: job.priority,
        number: job.number,
        owner: job.owner.clone(),
        client: job.client.clone(),
        workflow: job.workflow.clone(),
        accepted: job.accepted,
        started: job.started,
        ended: job.ended,
        instance: job.instance.clone(),
        generation: job.generation,
        tries: job.tries.clone(),
        reason: job.reason.clone(),
        position: engine.inner().queue.position(&job.id).map(|at| at as u64),
        waiting_for: (job.state == State::Queued).then(|| gateway.waiting_for()).flatten(),
    }
}
