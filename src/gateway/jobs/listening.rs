//! What an instance says over its WebSockets, in its order: what concerns a job is recorded, and goes on to the
//! WebSockets of the job's client.
use crate::gateway::access_log::Level;
use crate::gateway::hub::{ClientRef, Message};
use crate::gateway::jobs::ending;
use crate::gateway::jobs::engine::{Engine, Wish};
use crate::gateway::jobs::place::{Order, Seat};
use crate::gateway::jobs::process;
use crate::gateway::jobs::reconcile;
use crate::gateway::jobs::sending;
use crate::gateway::shared::Gateway;
use crate::gateway::upstream::Event;
use hyper::body::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Whatever changes an instance's queue is told to its clients within so long.
const LOOK: Duration = Duration::from_secs(1);
/// Both of the gateway's sockets hear of one change within so long.
const TOGETHER: Duration = Duration::from_millis(300);
/// An instance that says nothing for so long is asked for its queue.
const QUIET: Duration = Duration::from_secs(10);

pub struct Listening<'a> {
    pub gateway: &'a Arc<Gateway>,
    pub engine: &'a Arc<Engine>,
    seat: &'a Arc<Seat>,
    current: Option<Current>,
    /// When it last said anything to the gateway's own client.
    heard: Instant,
    /// When it was last asked for its queue.
    asked: Instant,
    /// Its queue changed at that time.
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
            asked: Instant::now(),
            look: None,
        }
    }

    /// A message to the gateway's own `client_id`.
    pub async fn of_job(&mut self, event: Event) {
        self.heard = Instant::now();
        self.seat.set_stuck(false);
        match event {
            Event::Binary(bytes) => {
                if let Some(current) = &self.current {
                    self.gateway.hub.lives.binary(&current.id, &bytes);
                }
                self.pass(&Message::Binary(bytes));
            }
            Event::Text { kind, prompt, data, raw } => match prompt {
                Some(id) => self.of_prompt(&kind, &id, &data, raw).await,
                // ComfyUI's own counts and features are of one instance; the hub has those of the service.
                None if kind == "status" || kind == "feature_flags" => {}
                None => self.pass(&Message::Text(raw)),
            },
        }
    }

    async fn of_prompt(&mut self, kind: &str, id: &str, data: &serde_json::Value, raw: Bytes) {
        if !self.seat.has(id) {
            if kind == "execution_start" {
                // Given up here before it began, and began all the same.
                let text =
                    format!("{} began {id}, which is not its job: it is stopped", self.seat.instance.id());
                self.engine.note(&self.gateway.log, Level::Warning, &text);
                let (seat, id) = (self.seat.clone(), id.to_string());
                tokio::spawn(async move { reconcile::take_away(&seat, &id).await });
            }
            return;
        }
        let message = Message::Text(raw);
        if self.current.as_ref().is_none_or(|current| current.id != id) {
            let client = self.engine.job(id).as_ref().and_then(ending::client_of);
            self.current = Some(Current { id: id.to_string(), client });
        }
        self.gateway.hub.lives.text(id, kind, data);
        if kind == "executing" && data["node"].is_null() {
            // Its client may ask for its history as soon as it hears this.
            if ending::ended(self.gateway, self.engine, self.seat, id).await {
                self.pass(&message);
            }
            self.current = None;
            return;
        }
        if kind == "executed" {
            // Before the client can ask for it.
            self.engine.made.learn(&data["output"], self.seat.instance.id());
        }
        // One that is interrupted because its instance has to stop waits again: that is no end for its client.
        let drains = kind == "execution_interrupted" && self.engine.wish(id) == Some(Wish::Drain);
        if let Some(Current { client: Some(client), .. }) = &self.current
            && !drains
        {
            self.gateway.hub.of_job(client, id, kind, &message);
        }
        if kind == "execution_start" {
            reconcile::began(self.gateway, self.engine, id).await;
            // A cancel may have come while it began.
            reconcile::wish(self.gateway, self.engine, self.seat, id).await;
        }
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
                    self.look.get_or_insert_with(Instant::now);
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
            Some(at) => sleep_until(at + LOOK).await,
            None => std::future::pending().await,
        }
    }

    /// Whether it is, once `deaf` is ready: both sockets are told of a change at about the same time.
    pub fn is_deaf(&mut self) -> bool {
        self.look.take().is_some_and(|at| self.heard + TOGETHER < at)
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

    /// Ready when nothing was heard or asked for a while though it has a job.
    pub async fn quiet(&self) {
        if self.seat.count() == 0 {
            return std::future::pending().await;
        }
        sleep_until(self.heard.max(self.asked) + QUIET).await;
    }

    /// A node may compute for long without a word; and ComfyUI may have forgotten our sockets. Its queue tells which.
    pub async fn ask(&mut self) {
        let answers = reconcile::all(self.gateway, self.engine, self.seat).await;
        self.asked = Instant::now();
        let stuck = Duration::from_millis(self.engine.settings().stuck_ms);
        if answers {
            self.seat.set_stuck(false);
        } else if self.heard.elapsed() >= stuck && !self.seat.is_stuck() {
            let why = format!("has made no progress for {} s and does not answer", stuck.as_secs());
            process::end(self.gateway, self.engine, self.seat, &why);
        }
    }
}
