//! How a job is accepted, whichever address it came by: read, validated by an instance of the serving generation, on
//! disk, and only then answered. What an instance would refuse is refused with its own words, so that what was
//! accepted never turns out to be invalid.
use crate::formats::comfy::api::invalid::{self, Invalid};
use crate::formats::comfy::api::paths;
use crate::formats::comfy::api::shapes::queue::accepted;
use crate::formats::comfy::api::submission::{self, ForInstance, Submission, Validated};
use crate::gateway::faults;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::call;
use crate::gateway::jobs::engine::{Engine, Open, Wish, now, waiting};
use crate::gateway::jobs::inputs::{self, NotPlaced};
use crate::gateway::jobs::owner;
use crate::gateway::jobs::telling;
use crate::gateway::share::Who;
use crate::gateway::shared::Gateway;
use crate::jobs::asset::{Claim, Used};
use crate::jobs::model::{Body, Job, Owner, State};
use crate::jobs::queue::Full;
use crate::jobs::store::Write;
use crate::sys::error::{Error, Kind};
use crate::sys::{fault, random};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A body from this size on.
const LARGE: usize = 256 << 10;
/// A node may look at files to know its inputs. What takes longer is accepted unseen.
const VALIDATION: Duration = Duration::from_secs(20);

/// The guard that the tests take out: two requests for one id, or with one key, then go on at the same time.
const ONE_AT_A_TIME: &str = "jobs-id";

/// What a client asks for, and what is written with it.
pub struct Wanted {
    pub submission: Submission,
    pub owner: Owner,
    pub with: With,
}

/// What no request of ComfyUI's own has.
#[derive(Default)]
pub struct With {
    /// It makes one job and no second one.
    pub key: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Files that an instance must have, under the names that the graph has for them.
    pub files: Vec<Used>,
}

pub struct Accepted {
    pub job: Job,
    pub node_errors: Value,
}

/// Why it is not accepted.
pub enum NotAccepted {
    Invalid(Invalid),
    /// The key has made this job.
    KeyUsed(String),
    /// A file that it needs is not there any more, or no instance takes it.
    File(String),
}

impl From<Invalid> for NotAccepted {
    fn from(invalid: Invalid) -> NotAccepted {
        NotAccepted::Invalid(invalid)
    }
}

/// `POST /prompt`.
pub async fn prompt(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    who: &Who,
    usage: Option<String>,
    body: Bytes,
) -> Result<Value, Invalid> {
    let mut submission = read(body).await?;
    if let Some(usage) = usage {
        submission.set_usage_source(&usage);
    }
    let owner = owner::owner(who, submission.client_id.as_deref());
    let wanted = Wanted { submission, owner, with: With::default() };
    match submit(gateway, engine, wanted).await {
        Ok(Accepted { job, node_errors }) => Ok(accepted(&job.id, job.number, &node_errors)),
        Err(NotAccepted::Invalid(invalid)) => Err(invalid),
        Err(NotAccepted::KeyUsed(why) | NotAccepted::File(why)) => Err(invalid::unavailable(&why)),
    }
}

/// Goes on to its end even if the client leaves: a job is accepted or it is not, and never in between.
pub async fn submit(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    wanted: Wanted,
) -> Result<Accepted, NotAccepted> {
    let (gateway, engine) = (gateway.clone(), engine.clone());
    let task = tokio::spawn(async move { accept(&gateway, &engine, wanted).await });
    task.await.unwrap_or_else(|_| Err(invalid::unavailable("this process is about to end").into()))
}

async fn accept(
    gateway: &Arc<Gateway>,
    engine: &Arc<Engine>,
    wanted: Wanted,
) -> Result<Accepted, NotAccepted> {
    let Wanted { submission: asked, owner, with } = wanted;
    let unread = |e: Error| invalid::unavailable(&e.full());
    let (asked, sum, warmth) = measured(asked).await?;
    let id = match &asked.prompt_id {
        Some(id) => id.clone(),
        None => random::uuid4().map_err(unread)?,
    };
    let _key = match &with.key {
        // Its own kind of name: no id of a job has a blank.
        Some(key) => Some(Accepting::enter(engine, &format!("key {owner} {key}")).await),
        None => None,
    };
    if let Some(key) = &with.key
        && let Some(job) = engine.ledger.claimed(&owner, key, now()).await.map_err(unread)?
    {
        return Err(NotAccepted::KeyUsed(job));
    }
    let _id = Accepting::enter(engine, &id).await;
    if let Some(same) = known(engine, &id).await? {
        // The same request again has the same answer; it runs once.
        let equal = same.sum == sum && same.owner == owner;
        let again = Accepted { job: same, node_errors: Value::Object(Map::new()) };
        return if equal { Ok(again) } else { Err(invalid::conflict(&id).into()) };
    }
    if let Some(trouble) = engine.ledger.trouble() {
        return Err(invalid::unavailable(&trouble).into());
    }
    telling::check(engine.settings().deliveries.as_ref(), &asked.stillframe.addresses)?;
    let _place = Reserved::new(engine, &owner)?;
    let (outputs_to_execute, node_errors) = validate(gateway, engine, &asked, &with.files, &id).await?;
    let job = job(engine, &asked, id, owner, (sum, warmth));
    let Submission { prompt, extra_data, partial_execution_targets, others, .. } = asked;
    let body = Body { prompt, extra_data, partial_execution_targets, outputs_to_execute, others };
    let files = !with.files.is_empty();
    engine.ledger.write_all(writes(&job, body, with)).await.map_err(|e| match e.kind {
        // The files are all that can have changed meanwhile.
        Kind::Input if files => NotAccepted::File(e.message),
        _ => NotAccepted::Invalid(unread(e)),
    })?;
    {
        let mut inner = engine.inner();
        inner.queue.push(waiting(&job));
        inner.open.insert(job.id.as_str().into(), Open { job: job.clone(), wish: Wish::Finish });
    }
    engine.tell_remaining(&gateway.hub);
    engine.dispatch(&gateway.router);
    let _ = faults::point(gateway, "jobs/accepted").await;
    Ok(Accepted { job, node_errors })
}

/// In one transaction: all of it or nothing.
fn writes(job: &Job, body: Body, with: With) -> Vec<Write> {
    let mut all = vec![Write::Accept { job: Box::new(job.clone()), body: Box::new(body) }];
    let (seq, at) = (job.seq, job.accepted);
    if let Some(key) = with.key {
        all.push(Write::Claim(Box::new(Claim { owner: job.owner.clone(), key, job: job.id.clone(), at })));
    }
    if !with.labels.is_empty() {
        all.push(Write::Labels { seq, labels: with.labels });
    }
    if !with.files.is_empty() {
        let assets = with.files.into_iter().map(|used| (used.asset, used.name)).collect();
        all.push(Write::Uses { seq, assets, at });
    }
    all
}

/// What is large is read elsewhere: everything else of this process goes on meanwhile.
async fn read(body: Bytes) -> Result<Submission, Invalid> {
    if body.len() < LARGE {
        return submission::parse(&body);
    }
    let read = tokio::task::spawn_blocking(move || submission::parse(&body)).await;
    read.unwrap_or_else(|_| Err(invalid::unavailable("this process is about to end")))
}

async fn measured(asked: Submission) -> Result<(Submission, [u8; 32], u64), Invalid> {
    let measure = move || {
        let (sum, warmth) = (submission::sum(&asked), submission::warmth(&asked.prompt));
        (asked, sum, warmth)
    };
    tokio::task::spawn_blocking(measure)
        .await
        .map_err(|_| invalid::unavailable("this process is about to end"))
}

async fn known(engine: &Engine, id: &str) -> Result<Option<Job>, Invalid> {
    if let Some(open) = engine.job(id) {
        return Ok(Some(open));
    }
    engine.ledger.job(id).await.map_err(|e| invalid::unavailable(&e.full()))
}

fn job(engine: &Engine, asked: &Submission, id: String, owner: Owner, (sum, warmth): ([u8; 32], u64)) -> Job {
    let seq = {
        let mut inner = engine.inner();
        inner.last_seq += 1;
        inner.last_seq
    };
    // ComfyUI counts from 0, and puts a minus before what is to be in front.
    let counted = (seq - 1) as f64;
    let number = asked.number.unwrap_or(if asked.front { -counted } else { counted });
    Job {
        id,
        seq,
        number,
        priority: asked.stillframe.priority,
        owner,
        client: asked.client_id.clone(),
        workflow: submission::workflow_id(&asked.extra_data),
        sum,
        warmth,
        retry: asked.stillframe.retry,
        state: State::Queued,
        accepted: now(),
        dispatched: None,
        started: None,
        ended: None,
        instance: None,
        generation: None,
        cancelled: false,
        tries: Vec::new(),
        reason: None,
    }
}

/// The output nodes that would run, and what is wrong with the others. An instance that cannot say, and none at all,
/// let it in: a later refusal ends the job with its reason.
async fn validate(
    gateway: &Gateway,
    engine: &Engine,
    asked: &Submission,
    files: &[Used],
    id: &str,
) -> Result<(Vec<Value>, Value), NotAccepted> {
    let unseen = || (Vec::new(), Value::Object(Map::new()));
    let Some(instance) = an_instance(gateway) else { return Ok(unseen()) };
    // Loaders look whether their files are there.
    match inputs::place(&engine.files, &instance, files).await {
        Ok(()) => {}
        Err(NotPlaced::Missing(why) | NotPlaced::Refused(why)) => return Err(NotAccepted::File(why)),
        Err(NotPlaced::Failed(_) | NotPlaced::Later(_)) => return Ok(unseen()),
    }
    let body = ForInstance {
        prompt: &asked.prompt,
        prompt_id: id,
        client_id: asked.client_id.as_deref().unwrap_or_default(),
        extra_data: &asked.extra_data,
        partial_execution_targets: asked.partial_execution_targets.as_ref(),
        others: &asked.others,
    };
    let Ok(body) = body.body() else { return Ok(unseen()) };
    match call::ask(&instance, Method::POST, paths::VALIDATE, Some(body.into()), VALIDATION).await {
        Ok(answer) if answer.status == StatusCode::PAYLOAD_TOO_LARGE => Err(Invalid::new(
            413,
            "request_too_large",
            "Request body is too large",
            "the instance takes no such prompt",
        )
        .into()),
        Ok(answer) => match submission::validated(answer.status.as_u16(), &answer.body) {
            Validated::Valid { outputs_to_execute, node_errors } => Ok((outputs_to_execute, node_errors)),
            Validated::Invalid(body) => Err(Invalid { status: 400, body }.into()),
            Validated::Unknown => Ok(unseen()),
        },
        Err(_) => Ok(unseen()),
    }
}

pub fn an_instance(gateway: &Gateway) -> Option<Arc<Instance>> {
    let all = gateway.router.all();
    let ready = all.into_iter().filter(|(instance, draining)| !draining && instance.is_healthy());
    ready.min_by_key(|(instance, _)| instance.open()).map(|(instance, _)| instance)
}

/// One id is accepted once: a second request with it waits until the first has its answer.
struct Accepting<'a> {
    engine: &'a Engine,
    id: String,
}

impl<'a> Accepting<'a> {
    async fn enter(engine: &'a Engine, id: &str) -> Accepting<'a> {
        loop {
            let mut changed = std::pin::pin!(engine.changed.notified());
            changed.as_mut().enable();
            let first = engine.inner().accepting.insert(id.to_string());
            if first || fault::is_taken_out(ONE_AT_A_TIME) {
                return Accepting { engine, id: id.to_string() };
            }
            changed.await;
        }
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        self.engine.inner().accepting.remove(&self.id);
        self.engine.changed.notify_waiters();
    }
}

/// A place among those that wait, while the job is validated and written.
struct Reserved<'a> {
    engine: &'a Engine,
    owner: Owner,
}

impl<'a> Reserved<'a> {
    fn new(engine: &'a Engine, owner: &str) -> Result<Reserved<'a>, Invalid> {
        let mut limits = engine.limits();
        let mut inner = engine.inner();
        let (all, own) =
            (inner.reserved.values().sum::<usize>(), inner.reserved.get(owner).copied().unwrap_or(0));
        let (waiting, of_owner) = (limits.waiting, limits.of_owner);
        limits.waiting = limits.waiting.saturating_sub(all);
        limits.of_owner = limits.of_owner.saturating_sub(own);
        match inner.queue.room(owner, &limits) {
            Ok(()) => {}
            Err(Full::All) => return Err(invalid::queue_full(inner.queue.len() + all, waiting, false)),
            Err(Full::Owner) => {
                return Err(invalid::queue_full(inner.queue.of_owner(owner) + own, of_owner, true));
            }
        }
        *inner.reserved.entry(owner.to_string()).or_default() += 1;
        drop(inner);
        Ok(Reserved { engine, owner: owner.to_string() })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut inner = self.engine.inner();
        if let Some(count) = inner.reserved.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                inner.reserved.remove(&self.owner);
            }
        }
    }
}
