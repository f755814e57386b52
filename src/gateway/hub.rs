//! Clients' WebSockets, which end here: they stay while instances come and go, and while another version of this
//! program takes over. Whoever runs jobs says what their clients are to hear.
//!
//! ```text
//! hub_accept ─▶ hub ─▶ hub_client ─▶ hub_socket (a task each) ─▶ hub_queue, hub_frame
//! ```
//!
//! A client is an id of its own choice (`clientId`) together with the API key that it came with: another key's
//! client of the same id hears nothing of it. All sockets of one client hear the same, and one that comes again
//! is told what it missed of the state of its running jobs.
use crate::formats::comfy::socket::{self, First, Worth};
use crate::gateway::clock::Millis;
pub use crate::gateway::hub_client::Message;
use crate::gateway::hub_client::{Entry, STATE, fitting};
use crate::gateway::hub_frame::{Close, Frame};
use crate::gateway::hub_given::{HandedRunning, Left};
use crate::gateway::hub_live::Lives;
pub use crate::gateway::hub_socket::ClientRef;
use crate::gateway::hub_socket::Socket;
use crate::sys::error::Result;
use crate::sys::random;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How many sockets of one client there may be.
pub const OF_CLIENT: usize = 64;
/// What is told to everybody is told this seldom for each socket that there is.
const PER_SOCKET: Duration = Duration::from_micros(100);
pub const RESTART: Close = Close::new(1012, "the service restarts");

pub struct Hub {
    clients: Mutex<Clients>,
    status: Mutex<Status>,
    features: Mutex<Frame>,
    /// What is known of the jobs that run, for those who listen to one and have no socket.
    pub lives: Arc<Lives>,
    /// What waits to be written to all of them.
    load: Arc<AtomicUsize>,
    /// Notified when a socket ends.
    pub fewer: Notify,
    /// Whether sockets are still to come from the process before this one.
    awaited: watch::Sender<bool>,
}

#[derive(Default)]
struct Clients {
    all: HashMap<ClientRef, Entry>,
    sockets: usize,
    /// Where sockets go that another process is to go on with.
    leaving: Option<UnboundedSender<Given>>,
}

/// How many jobs have not ended, and what of it was told.
#[derive(Default)]
struct Status {
    remaining: usize,
    told: usize,
    at: Option<Instant>,
    /// Somebody will tell it soon.
    waits: bool,
}

impl Default for Hub {
    fn default() -> Self {
        let flags = json!({socket::PREVIEW_METADATA: true});
        Hub {
            clients: Mutex::default(),
            status: Mutex::default(),
            features: Mutex::new(features(&flags)),
            lives: Arc::default(),
            load: Arc::default(),
            fewer: Notify::new(),
            awaited: watch::Sender::new(false),
        }
    }
}

fn features(flags: &Value) -> Frame {
    Frame::text(socket::feature_flags(flags).to_string().as_bytes(), Worth::Must)
}

/// There are `OF_CLIENT` sockets of this client already.
#[derive(Debug)]
pub struct TooMany;

/// A socket on its way to another process. It counts here until it is there.
pub struct Given {
    pub left: Left,
    pub place: Place,
}

/// A socket's place in the hub, until it is dropped.
pub struct Place {
    hub: Arc<Hub>,
    pub socket: Arc<Socket>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.leave(&self.socket);
    }
}

impl Hub {
    /// A new socket of a client, with what it has to hear first.
    pub fn enter(self: &Arc<Self>, client: ClientRef) -> Result<Place, TooMany> {
        let remaining = self.status.lock().remaining;
        let mut clients = self.clients.lock();
        let entry = clients.all.get(&client);
        if entry.is_some_and(|entry| entry.sockets.len() >= OF_CLIENT) {
            return Err(TooMany);
        }
        let hello = socket::hello(remaining, &client.id).to_string();
        let missed = entry.map(Entry::missed).unwrap_or_default();
        let place = self.place(&mut clients, client);
        // None of it may be left out for what comes after.
        place.socket.push(Frame::text(hello.as_bytes(), Worth::Must));
        missed.into_iter().for_each(|frame| place.socket.push(frame));
        Ok(place)
    }

    /// A socket that another process had, which has heard all that already.
    pub fn go_on(self: &Arc<Self>, client: ClientRef, metadata: bool, waits: Vec<u8>) -> Place {
        let mut clients = self.clients.lock();
        let missed = clients.all.get(&client).map(Entry::missed);
        let place = self.place(&mut clients, client);
        // What is half written comes before everything else.
        place.socket.go_on_with(metadata, waits);
        if !*self.awaited.borrow() {
            // It comes late, since its client did not read, and something may have been told without it.
            missed.into_iter().flatten().for_each(|frame| place.socket.push(frame));
        }
        place
    }

    fn place(self: &Arc<Self>, clients: &mut Clients, client: ClientRef) -> Place {
        let socket = Arc::new(Socket::new(client.clone(), &self.load));
        if clients.leaving.is_some() {
            socket.ask_to_leave(true);
        }
        clients.all.entry(client).or_default().sockets.push(socket.clone());
        clients.sockets += 1;
        Place { hub: self.clone(), socket }
    }

    fn leave(&self, socket: &Arc<Socket>) {
        let mut clients = self.clients.lock();
        if let Some(entry) = clients.all.get_mut(&socket.client) {
            let before = entry.sockets.len();
            entry.sockets.retain(|other| !Arc::ptr_eq(other, socket));
            let gone = before - entry.sockets.len();
            if entry.is_empty() {
                clients.all.remove(&socket.client);
            }
            clients.sockets -= gone;
        }
        drop(clients);
        self.fewer.notify_waiters();
    }

    /// To all sockets of a client.
    pub fn to_client(&self, client: &ClientRef, message: &Message) {
        if let Some(entry) = self.clients.lock().all.get(client) {
            entry.tell(message);
        }
    }

    /// The same for a message of a running job. What a client that comes again has to know of it is kept until
    /// `ended`: `kind` is the message's `type`, empty for a binary one.
    pub fn of_job(&self, client: &ClientRef, job: &str, kind: &str, message: &Message) {
        let Some(at) = STATE.iter().position(|state| *state == kind) else {
            return self.to_client(client, message);
        };
        let mut clients = self.clients.lock();
        let entry = clients.all.entry(client.clone()).or_default();
        entry.tell(message);
        entry.note(job, at, message);
    }

    /// A job of a client runs no more: nobody has to be told of it.
    pub fn ended(&self, client: &ClientRef, job: &str) {
        let mut clients = self.clients.lock();
        if let Some(entry) = clients.all.get_mut(client) {
            entry.forget(job);
            if entry.is_empty() {
                clients.all.remove(client);
            }
        }
    }

    pub fn to_all(&self, message: &Message) {
        self.to_all_but(None, message);
    }

    /// The same, without one client, who has it already.
    pub fn to_all_but(&self, client: Option<&ClientRef>, message: &Message) {
        let clients = self.clients.lock();
        let (frame, plain) = (message.frame(), message.plain());
        let others = clients.all.iter().filter(|(other, _)| Some(*other) != client);
        for socket in others.flat_map(|(_, entry)| &entry.sockets) {
            socket.push(fitting(socket, &frame, plain.as_ref()));
        }
    }

    /// How many jobs have not ended: told to everybody when it changes, not too often where there are many.
    pub fn set_remaining(self: &Arc<Self>, remaining: usize) {
        let pause = PER_SOCKET * u32::try_from(self.count()).unwrap_or(u32::MAX);
        let mut status = self.status.lock();
        status.remaining = remaining;
        if status.remaining == status.told || status.waits {
            return;
        }
        let early = status.at.and_then(|at| pause.checked_sub(at.elapsed())).unwrap_or_default();
        if early.is_zero() {
            drop(status);
            return self.tell_status();
        }
        status.waits = true;
        let hub = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(early).await;
            hub.tell_status();
        });
    }

    fn tell_status(&self) {
        let mut status = self.status.lock();
        status.waits = false;
        if status.remaining == status.told {
            return;
        }
        (status.told, status.at) = (status.remaining, Some(Instant::now()));
        let message = Message::json(&socket::status(status.remaining));
        drop(status);
        self.to_all(&message);
    }

    /// What the service can do: `GET /features` of an instance that serves.
    pub fn set_features(&self, flags: &Value) {
        *self.features.lock() = features(flags);
    }

    /// What a client said. Says whether the next message is listened to as well.
    pub fn heard(&self, socket: &Socket, text: &[u8]) -> bool {
        match socket::first(text) {
            First::Nothing => true,
            First::Other => false,
            First::Flags { preview_metadata } => {
                socket.set_metadata(preview_metadata);
                let answer = self.features.lock().clone();
                socket.push(answer);
                false
            }
        }
    }

    pub fn connected(&self, client: &ClientRef) -> bool {
        self.clients.lock().all.get(client).is_some_and(|entry| !entry.sockets.is_empty())
    }

    /// How many sockets there are.
    pub fn count(&self) -> usize {
        self.clients.lock().sockets
    }

    fn each(&self, act: impl FnMut(&Arc<Socket>)) {
        self.clients.lock().all.values().flat_map(|entry| &entry.sockets).for_each(act);
    }

    /// Pings those that have been silent for long.
    pub fn tick(&self, now: Millis) {
        self.each(|socket| socket.ping(now));
    }

    /// Ends all of them, once what waits for them is written.
    pub fn close_all(&self, why: &Close) {
        self.each(|socket| socket.close(why));
    }
}

/// When another process takes over.
impl Hub {
    /// Gives all sockets to `to`, and those that are still to come. What is to be known of running jobs is returned:
    /// nothing of it may change any more.
    pub fn hand_over(&self, to: UnboundedSender<Given>) -> Vec<HandedRunning> {
        let mut clients = self.clients.lock();
        clients.leaving = Some(to);
        let mut all = Vec::new();
        for (client, entry) in &clients.all {
            entry.sockets.iter().for_each(|socket| socket.ask_to_leave(true));
            all.extend(entry.hand_over(client));
        }
        all
    }

    /// Nobody takes sockets any more: those that are here stay.
    pub fn keep(&self) {
        let mut clients = self.clients.lock();
        clients.leaving = None;
        clients.all.values().flat_map(|entry| &entry.sockets).for_each(|socket| socket.ask_to_leave(false));
    }

    /// Gives one away; it comes back where nobody takes it.
    pub fn give(&self, given: Given) -> Result<(), Box<Given>> {
        let to = self.clients.lock().leaving.clone();
        match to {
            Some(to) => to.send(given).map_err(|back| Box::new(back.0)),
            None => Err(Box::new(given)),
        }
    }

    pub fn go_on_running(&self, running: HandedRunning) {
        let mut clients = self.clients.lock();
        let client = ClientRef::new(running.scope, &running.client);
        clients.all.entry(client).or_default().go_on(running);
    }

    /// Sockets come from the process before this one, or no more do.
    pub fn await_sockets(&self, awaited: bool) {
        self.awaited.send_replace(awaited);
    }

    /// Waits until all sockets are here that come from the process before this one: what clients are told before
    /// that, some do not hear.
    pub async fn settled(&self) {
        // It ends with the hub alone.
        let _ = self.awaited.subscribe().wait_for(|awaited| !awaited).await;
    }
}

/// An id for a client that brings none, as ComfyUI makes it: a random UUID without its hyphens.
pub fn new_id() -> Result<String> {
    Ok(random::uuid4()?.replace('-', ""))
}

#[cfg(test)]
#[path = "hub_fixture_tests.rs"]
mod fixture;
#[cfg(test)]
#[path = "hub_slow_tests.rs"]
mod slow_tests;
#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "hub_upgrade_tests.rs"]
mod upgrade_tests;
