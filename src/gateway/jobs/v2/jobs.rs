//! Jobs: one, all, the graph of one, and the wish that one may stop.
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::formats::comfy::api::v2::{job, listing};
use crate::gateway::jobs::engine::Wish;
use crate::gateway::jobs::service;
use crate::gateway::jobs::v2::reply::{Answer, Call, json, unread};
use crate::gateway::jobs::v2::view;
use crate::jobs::store::Find;
use hyper::StatusCode;
use serde_json::{Value, json as value};

pub async fn one(call: &Call<'_>, id: &str) -> Answer {
    let job = call.job(id).await?;
    json(StatusCode::OK, &view::job(call, &job).await?)
}

pub async fn workflow(call: &Call<'_>, id: &str) -> Answer {
    let job = call.job(id).await?;
    let body = call.engine.ledger.body(&job.id).await.map_err(unread)?;
    let body = body.ok_or_else(|| Refused::not_found("job"))?;
    json(StatusCode::OK, &job::workflow(&body.prompt))
}

/// Idempotent: what has ended stays as it ended.
pub async fn cancel(call: &Call<'_>, id: &str) -> Answer {
    let job = call.job(id).await?;
    service::cancel(call.visit.gateway, call.engine, &job.id).await;
    one(call, id).await
}

pub async fn list(call: &Call<'_>, query: &str) -> Answer {
    let listing = listing::parse(query)?;
    let find = Find {
        labels: listing.labels,
        before: listing.before,
        // One more tells whether another page follows.
        ..view::find(call, &listing.statuses, listing.limit + 1)
    };
    let (mut jobs, _) = call.engine.ledger.find(find).await.map_err(unread)?;
    let more = jobs.len() as u64 > listing.limit;
    jobs.truncate(usize::try_from(listing.limit).unwrap_or(usize::MAX));
    let next = jobs.last().filter(|_| more).map(|job| listing::cursor(job.seq));
    let mut labels = view::labels(call, &jobs).await?;
    let wanted = |job: &_| {
        let wish = call.engine.wish(job_id(job)).unwrap_or(Wish::Finish);
        listing.statuses.is_empty() || listing.statuses.contains(&view::status(job, wish))
    };
    let shown: Vec<Value> = jobs
        .iter()
        .filter(|job| wanted(job))
        .map(|job| job::listed(&view::facts(call, job, labels.remove(&job.seq).unwrap_or_default())))
        .collect();
    let mut page = value!({"jobs": shown});
    if let Some(next) = next {
        page["next_cursor"] = next.into();
    }
    json(StatusCode::OK, &page)
}

fn job_id(job: &crate::jobs::model::Job) -> &str {
    &job.id
}
