//! The events of one job, as long as somebody reads them. Each tells the state as it is by then, so nothing is kept for
//! a client that reads slowly, and nothing is said again to one that comes again.
use crate::formats::comfy::api::v2::event::{self, KEEPALIVE};
use crate::formats::comfy::api::v2::graph::Graph;
use crate::formats::comfy::api::v2::job;
use crate::formats::comfy::api::v2::progress::{Preview, Progress};
use crate::gateway::access::Access;
use crate::gateway::client::Client;
use crate::gateway::hub_live::Listener;
use crate::gateway::jobs::door::Visit;
use crate::gateway::jobs::engine::Engine;
use crate::gateway::jobs::v2::outputs;
use crate::gateway::jobs::v2::reply::{Answer, Call, fed};
use crate::gateway::jobs::v2::view;
use crate::gateway::share::Who;
use crate::gateway::shared::Gateway;
use crate::jobs::model::{Job, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Between two events of progress, or two previews.
const PACE: Duration = Duration::from_millis(500);
/// Between two looks, however much is heard.
const BREATH: Duration = Duration::from_millis(50);
/// Without news its place in the queue is looked up again.
const LOOK: Duration = Duration::from_millis(1000);
const QUIET: Duration = Duration::from_secs(10);
const AHEAD: usize = 8;

pub async fn events(call: &Call<'_>, id: &str, access: &mut Option<Access>) -> Answer {
    let job = call.job(id).await?;
    let (to, pieces) = mpsc::channel(AHEAD);
    let listener = call.visit.gateway.hub.lives.listen(&job.id);
    let reader = Reader {
        gateway: call.visit.gateway.clone(),
        engine: call.engine.clone(),
        client: call.visit.client.clone(),
        who: *call.visit.who,
        base: call.base.clone(),
        listener,
        to,
    };
    let mut response = fed(call, access, (StatusCode::OK, None), pieces)?;
    tokio::spawn(reader.run(job));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep events back until there are many.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// No events come from a process that has given the jobs away: the client asks again, and over a new connection.
pub fn none(call_again: &Visit<'_>, access: &mut Option<Access>, engine: &Arc<Engine>) -> Answer {
    let call = Call { visit: call_again, engine, base: String::new() };
    let (_, pieces) = mpsc::channel(1);
    let mut response = fed(&call, access, (StatusCode::OK, None), pieces)?;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

struct Reader {
    gateway: Arc<Gateway>,
    engine: Arc<Engine>,
    client: Arc<Client>,
    who: Who,
    base: String,
    listener: Listener,
    to: mpsc::Sender<Bytes>,
}

/// The client reads no more.
struct Left;

/// What was told last.
#[derive(Default)]
struct Told {
    status: Option<Value>,
    outputs: HashSet<String>,
    progress: Option<Progress>,
    preview: Option<Preview>,
    progress_at: Option<Instant>,
    preview_at: Option<Instant>,
}

impl Reader {
    async fn run(mut self, job: Job) {
        let id = job.id.clone();
        let mut job = Some(job);
        let (mut told, mut graph) = (Told::default(), None);
        let mut said = Instant::now();
        while let Some(now) = job {
            match self.tell(&now, &mut told, &mut graph).await {
                Ok(true) => said = Instant::now(),
                Ok(false) if said.elapsed() > QUIET => {
                    if self.to.send(Bytes::from_static(KEEPALIVE)).await.is_err() {
                        return;
                    }
                    said = Instant::now();
                }
                Ok(false) => {}
                Err(Left) => return,
            }
            if now.state.is_over() || self.engine.is_paused() || self.gateway.is_leaving() {
                return;
            }
            sleep(BREATH).await;
            tokio::select! {
                () = self.listener.news() => {}
                () = sleep(LOOK) => {}
                () = self.to.closed() => return,
            }
            job = match self.engine.job(&id) {
                Some(job) => Some(job),
                // What cannot be read now is asked for by the client, who sees no end here.
                None => self.engine.ledger.job(&id).await.ok().flatten(),
            };
        }
    }

    async fn send(&self, kind: &str, data: &Value) -> Result<bool, Left> {
        self.to.send(event::frame(kind, data).into()).await.map_err(|_| Left)?;
        Ok(true)
    }

    /// What is new. Says whether there was anything.
    async fn tell(&self, job: &Job, told: &mut Told, graph: &mut Option<Graph>) -> Result<bool, Left> {
        let visit = Visit { gateway: &self.gateway, client: &self.client, who: &self.who, limit: 0 };
        let call = Call { visit: &visit, engine: &self.engine, base: self.base.clone() };
        let status = job::status_event(&view::facts(&call, job, BTreeMap::new()));
        let over = job.state.is_over();
        let mut said = false;
        // An end is told last: nobody reads on behind it.
        if !over && told.status.as_ref() != Some(&status) {
            said |= self.send("status", &status).await?;
            told.status = Some(status.clone());
        }
        if job.state == State::Running {
            if graph.is_none() {
                *graph = Some(view::graph(&call, &job.id).await);
            }
            said |= self.progress(told, graph.as_ref()).await?;
        }
        if job.state == State::Running || over {
            for output in outputs::of(&call, job).await.unwrap_or_default() {
                if told.outputs.insert(output.id.clone()) {
                    let shown = serde_json::to_value(&output).unwrap_or_default();
                    said |= self.send("output", &shown).await?;
                }
            }
        } else {
            // It waits again: what its next try makes is new.
            told.outputs.clear();
        }
        if over {
            said |= self.send("status", &status).await?;
        }
        Ok(said)
    }

    async fn progress(&self, told: &mut Told, graph: Option<&Graph>) -> Result<bool, Left> {
        let due = |at: Option<Instant>| at.is_none_or(|at| at.elapsed() >= PACE);
        let mut said = false;
        if due(told.progress_at)
            && let Some(graph) = graph
        {
            let progress = self.listener.look(|heard| heard.progress(graph));
            if told.progress.as_ref() != Some(&progress) {
                let shown = serde_json::to_value(&progress).unwrap_or_default();
                said |= self.send("progress", &shown).await?;
                (told.progress, told.progress_at) = (Some(progress), Some(Instant::now()));
            }
        }
        if due(told.preview_at) {
            let preview = self.listener.look(|heard| heard.preview.clone());
            if let Some(preview) = preview
                && told.preview.as_ref() != Some(&preview)
            {
                let picture = STANDARD.encode(&preview.picture);
                let (node, kind) = (&preview.node, preview.content_type);
                let shown = json!({"node_id": node, "content_type": kind, "data_base64": picture});
                said |= self.send("preview", &shown).await?;
                (told.preview, told.preview_at) = (Some(preview), Some(Instant::now()));
            }
        }
        Ok(said)
    }
}
