//! What an instance says over its WebSockets, in its order: what concerns a job is recorded, and goes on to the
//! WebSockets of the job's client.
use crate::formats::comfy::api::paths;
use crate::gateway::access_log::Level;
use crate::gateway::hub::{ClientRef, Message};
use crate::gateway::jobs::call;
use crate::gateway::jobs::ending;
use crate::gateway::jobs::engine::Engine;
use crate::gateway::jobs::reconcile;
use crate::gateway::jobs::seat::{Order, Seat};
use crate::gateway::jobs::sending;
use crate::gateway::shared::Gateway;
use crate::gateway::upstream::Event;
use hyper::Method;
use hyper::body::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Whatever changes an instance's queue is told to its clients within so long.
const LOOK: Duration = Duration::from_secs(1);
/// An instance that says nothing for long is asked whether it lives; so long may that take.
const ALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    GoOn,
    /// A job has ended: there is a place.
    End,
}

pub struct Listening<'a> {
    pub gateway: &'a Arc<Gateway>,
    pub engine: &'a Arc<Engine>,
    seat: &'a Arc<Seat>,
    current: Option<Current>,
    /// When it last said anything to the gateway's own client, or was last found alive.
    heard: Instant,
    told_stuck: bool,
    /// Its queue changed, and what became of our jobs was not heard by then.
    look: Option<Instant>,
}

/// The job that runs.
struct Current {
    id: String,
    client: Option<ClientRef>,
}

impl<'a> Listening<'a> {
    pub fn new(gateway: &'a Arc<Gateway>, engine: &'a Arc<Engine>, seat: &'a Arc<Seat>) -> Listening<'a> {
        Listening {
            gateway,
            engine,
            seat,
            current: None,
            heard: Instant::now(),
            told_stuck: false,
            look: None,
        }
    }

    /// A message to the gateway's own `client_id`.
    pub async fn of_job(&mut self, event: Event) -> Heard {
        self.heard = Instant::now();
        (self.told_stuck, self.look) = (false, None);
        match event {
            Event::Binary(bytes) => {
                self.pass(&Message::Binary(bytes));
                Heard::GoOn
            }
            Event::Text { kind, prompt, data, raw } => match prompt {
                Some(id) => self.of_prompt(&kind, &id, &data, raw).await,
                // ComfyUI's own counts and features are of one instance; the hub has those of the service.
                None if kind == "status" || kind == "feature_flags" => Heard::GoOn,
                None => {
                    self.pass(&Message::Text(raw));
                    Heard::GoOn
                }
            },
        }
    }

    async fn of_prompt(&mut self, kind: &str, id: &str, data: &serde_json::Value, raw: Bytes) -> Heard {
        if !self.seat.has(id) {
            if kind == "execution_start" {
                // Given up here before it began, and began all the same.
                let text =
                    format!("{} began {id}, which is not its job: it is stopped", self.seat.instance.id());
                self.engine.note(self.gateway, Level::Warning, &text);
                let (seat, id) = (self.seat.clone(), id.to_string());
                tokio::spawn(async move { reconcile::take_away(&seat, &id).await });
            }
            return Heard::GoOn;
        }
        let message = Message::Text(raw);
        if self.current.as_ref().is_none_or(|current| current.id != id) {
            let client = self.engine.job(id).as_ref().and_then(ending::client_of);
            self.current = Some(Current { id: id.to_string(), client });
        }
        if kind == "executing" && data["node"].is_null() {
            // Its client may ask for its history as soon as it hears this.
            ending::ended(self.gateway, self.engine, self.seat, id).await;
            self.pass(&message);
            self.current = None;
            return Heard::End;
        }
        if let Some(Current { client: Some(client), .. }) = &self.current {
            self.gateway.hub.of_job(client, id, kind, &message);
        }
        if kind == "execution_start" {
            reconcile::began(self.gateway, self.engine, id).await;
            // A cancel may have come while it began.
            reconcile::wish(self.gateway, self.engine, self.seat, id).await;
        }
        Heard::GoOn
    }

    fn pass(&self, message: &Message) {
        if let Some(client) = self.current.as_ref().and_then(|current| current.client.as_ref()) {
            self.gateway.hub.to_client(client, message);
        }
    }

    /// A message to everybody. The client of the job that runs has it over the other socket already.
    pub fn of_all(&mut self, event: Event) {
        let message = match event {
            Event::Text { prompt: Some(_), .. } => return,
            Event::Text { kind, .. } if kind == "status" => {
                if self.seat.count() > 0 {
                    self.look.get_or_insert_with(|| Instant::now() + LOOK);
                }
                return;
            }
            Event::Text { kind, .. } if kind == "feature_flags" => return,
            Event::Text { raw, .. } => Message::Text(raw),
            Event::Binary(bytes) => Message::Binary(bytes),
        };
        let but = self.current.as_ref().and_then(|current| current.client.as_ref());
        self.gateway.hub.to_all_but(but, &message);
    }

    /// Ready when its queue changed and nothing was heard of that over the other socket: ComfyUI (0.33) forgets a
    /// client when any of its sockets closes, and an earlier process of ours may have had one.
    pub async fn deaf(&self) {
        match self.look {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    pub async fn order(&mut self, order: Order) {
        let (gateway, engine, seat) = (self.gateway, self.engine, self.seat);
        match order {
            Order::Run(id) => sending::send(gateway, engine, seat, id),
            Order::Sent(id, outcome) => sending::sent(gateway, engine, seat, &id, outcome).await,
            Order::Cancel(id) => reconcile::cancel(gateway, engine, seat, &id).await,
            Order::TakeBack => reconcile::give_back(gateway, engine, seat).await,
            Order::Release(done) => {
                reconcile::release(gateway, engine, seat).await;
                // Nobody waits if the agent has given up.
                let _ = done.send(());
            }
        }
    }

    /// Ready when it has said nothing for too long while a job runs.
    pub async fn stuck(&self) {
        if self.current.is_none() {
            return std::future::pending().await;
        }
        sleep_until(self.heard + Duration::from_millis(self.engine.settings().stuck_ms)).await;
    }

    /// A node may compute for long without a word; an instance that answers is alive.
    pub async fn is_stuck(&mut self) {
        let answer = call::ask(&self.seat.instance, Method::GET, paths::PROMPT, None, ALIVE).await;
        self.heard = Instant::now();
        if answer.is_err() && !self.told_stuck {
            self.told_stuck = true;
            let text = format!(
                "{} has made no progress and does not answer; its job waits again as soon as its process is stopped: \
                 systemctl restart its unit",
                self.seat.instance.id()
            );
            self.engine.note(self.gateway, Level::Error, &text);
        }
    }
}
