//! A job as this API shows it: the same states by its own names.
use crate::formats::comfy::api::v2::graph::Graph;
use crate::formats::comfy::api::v2::job::{self, Facts, JobError, Status};
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::gateway::jobs::engine::Wish;
use crate::gateway::jobs::v2::outputs;
use crate::gateway::jobs::v2::reply::{Call, unread};
use crate::jobs::model::{Job, ReasonKind, State};
use crate::jobs::store::Find;
use crate::sys::clock::rfc3339_ms;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

pub fn status(job: &Job, wish: Wish) -> Status {
    // It may have ended since its record was read, and then nothing is wished for.
    let taken_back = job.cancelled || wish == Wish::Cancel;
    match job.state {
        State::Queued | State::Dispatched | State::Running if taken_back => Status::Canceling,
        State::Queued | State::Dispatched => Status::Queued,
        State::Running => Status::Running,
        State::Succeeded => Status::Succeeded,
        State::Failed => Status::Failed,
        State::Cancelled => Status::Canceled,
        State::Expired => Status::Expired,
    }
}

/// Where jobs of a status are looked for.
pub fn states(status: Status) -> &'static [State] {
    match status {
        Status::Queued => &[State::Queued, State::Dispatched],
        Status::Running => &[State::Running],
        Status::Canceling => &[State::Queued, State::Dispatched, State::Running],
        Status::Succeeded => &[State::Succeeded],
        Status::Canceled => &[State::Cancelled],
        Status::Failed => &[State::Failed],
        Status::Expired => &[State::Expired],
    }
}

pub fn facts(call: &Call<'_>, job: &Job, labels: BTreeMap<String, String>) -> Facts {
    let wish = call.engine.wish(&job.id).unwrap_or(Wish::Finish);
    let position = match job.state {
        State::Queued => call.engine.inner().queue.position(&job.id).map(|before| before as u64 + 1),
        State::Dispatched => Some(0),
        _ => None,
    };
    let keep = call.engine.settings().keep.age_ms;
    let begun = job.started.or(job.ended);
    Facts {
        id: job.id.clone(),
        status: status(job, wish),
        created: rfc3339_ms(job.accepted),
        started: job.started.map(rfc3339_ms),
        completed: job.ended.map(rfc3339_ms),
        // Far years have five digits, which no client reads.
        expires: rfc3339_ms(job.ended.unwrap_or(job.accepted).saturating_add(keep).min(253_402_300_799_000)),
        queue_position: position,
        waiting_for: (job.state == State::Queued).then(|| call.visit.gateway.waiting_for()).flatten(),
        queue_ms: begun.map(|begun| begun.saturating_sub(job.accepted)),
        execution_ms: job.started.zip(job.ended).map(|(started, ended)| ended.saturating_sub(started)),
        labels,
    }
}

pub async fn labels(
    call: &Call<'_>,
    jobs: &[Job],
) -> Result<HashMap<u64, BTreeMap<String, String>>, Refused> {
    let seqs = jobs.iter().map(|job| job.seq).collect();
    let mut all: HashMap<u64, BTreeMap<String, String>> = HashMap::new();
    for (seq, name, value) in call.engine.ledger.labels(seqs).await.map_err(unread)? {
        all.entry(seq).or_default().insert(name, value);
    }
    Ok(all)
}

pub fn error(job: &Job) -> Option<JobError> {
    let reason = job.reason.as_ref().filter(|_| matches!(job.state, State::Failed | State::Expired))?;
    let code = match reason.kind {
        _ if job.state == State::Expired => "expired",
        ReasonKind::NodeFailed => "node_execution_error",
        ReasonKind::OutOfMemory => "out_of_memory",
        ReasonKind::Refused => "invalid_workflow",
        ReasonKind::Interrupted => "interrupted",
        ReasonKind::InstanceDied => "instance_died",
        ReasonKind::InstanceStuck => "instance_stuck",
        ReasonKind::GpuFailed => "gpu_failed",
        ReasonKind::Drained => "instance_stopped",
        ReasonKind::Forgotten => "job_lost_by_instance",
        ReasonKind::TriesUsedUp => "tries_used_up",
        ReasonKind::Other => "job_failed",
    };
    let details = reason.details.as_ref().filter(|details| details["exception_message"].is_string());
    Some(JobError::new(code, reason.message.clone()).with(details))
}

/// The nodes that a job runs.
pub async fn graph(call: &Call<'_>, id: &str) -> Graph {
    // Without it a client hears less, and loses nothing.
    let body = call.engine.ledger.body(id).await.ok().flatten();
    body.map(|body| Graph::of(&body.prompt, &body.outputs_to_execute)).unwrap_or_default()
}

/// The whole of it.
pub async fn job(call: &Call<'_>, job: &Job) -> Result<Value, Refused> {
    let mut all = labels(call, std::slice::from_ref(job)).await?;
    let facts = facts(call, job, all.remove(&job.seq).unwrap_or_default());
    let lives = &call.visit.gateway.hub.lives;
    let progress = if job.state == State::Running {
        let graph = graph(call, &job.id).await;
        lives.look(&job.id, |heard| heard.progress(&graph))
    } else {
        None
    };
    let outputs = outputs::of(call, job).await?;
    Ok(job::job(&facts, progress.as_ref(), &outputs, error(job).as_ref()))
}

/// What a page of a list is looked up by.
pub fn find(call: &Call<'_>, statuses: &[Status], limit: u64) -> Find {
    let states = statuses.iter().flat_map(|status| states(*status)).copied().collect();
    Find { states, owner: call.scope(), limit: Some(limit), ..Find::default() }
}
