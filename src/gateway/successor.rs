//! The new process of an upgrade: what it learns from the old one before it takes over, and what it asks of
//! it afterwards.
use crate::gateway::access_log::Level;
use crate::gateway::affinity::Learned;
use crate::gateway::handover::{Hears, ToNew, ToOld, say};
use crate::gateway::health;
use crate::gateway::hub_accept;
use crate::gateway::hub_given::Handed;
use crate::gateway::instance::FirstHealth;
use crate::gateway::predecessor::Predecessor;
use crate::gateway::shared::Gateway;
use crate::protocol::control::{GATEWAY_VERSION, Target};
use crate::sys::error::{Error, Kind, Result};
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

/// This process, until it has taken over.
pub struct Successor {
    hears: Hears,
    says: OwnedWriteHalf,
}

fn gone() -> Error {
    Error::new(Kind::Io, "the process to take over from has ended")
}

impl Successor {
    pub fn new(stream: std::os::unix::net::UnixStream) -> Result<Successor> {
        let open = |stream: std::os::unix::net::UnixStream| -> std::io::Result<UnixStream> {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        };
        let stream = open(stream).map_err(|e| gone().caused_by(e))?;
        let (hears, says) = stream.into_split();
        Ok(Successor { hears: Hears::new(hears), says })
    }

    /// Takes in what the old process knows.
    pub async fn learn(&mut self, gateway: &Arc<Gateway>) -> Result<()> {
        loop {
            match self.hears.next::<ToNew>().await.ok_or_else(gone)? {
                ToNew::Begin { version, targets } => {
                    if version != GATEWAY_VERSION {
                        let text = format!("the process to take over from speaks version {version}");
                        return Err(Error::new(Kind::Input, text));
                    }
                    let current: Vec<Target> =
                        targets.iter().filter(|k| !k.draining).map(|k| k.target.clone()).collect();
                    let fresh = gateway.router.set(&current, FirstHealth::Unknown);
                    let well =
                        |id: &str| targets.iter().any(|k| k.target.id == id && k.healthy && !k.draining);
                    for instance in fresh.iter().filter(|i| well(i.id())) {
                        instance.well();
                    }
                    health::watch(gateway, fresh);
                    for known in targets.iter().filter(|k| k.draining) {
                        health::watch(gateway, gateway.router.remember(&known.target).into_iter().collect());
                    }
                }
                ToNew::Prepare => return Ok(()),
                other => take(gateway, other),
            }
        }
    }

    pub async fn failed(&mut self, message: &str) {
        // If it cannot be told, it is gone; and this process ends in any case.
        let _ = say(&mut self.says, &ToOld::Failed { message: message.into() }).await;
    }

    /// Says that this process is ready; returns when it is to take over.
    pub async fn ready(&mut self, gateway: &Gateway) -> Result<()> {
        say(&mut self.says, &ToOld::Ready { sockets: true }).await.map_err(|e| gone().caused_by(e))?;
        loop {
            match self.hears.next::<ToNew>().await.ok_or_else(gone)? {
                ToNew::Take { sockets } => {
                    gateway.hub.await_sockets(sockets);
                    return Ok(());
                }
                other => take(gateway, other),
            }
        }
    }

    /// This process has taken over: the old one is asked from now on.
    pub async fn taken(mut self, gateway: &Arc<Gateway>) -> Result<()> {
        say(&mut self.says, &ToOld::Taken).await.map_err(|e| gone().caused_by(e))?;
        let (tell, mut questions) = mpsc::unbounded_channel();
        let before = Arc::new(Predecessor::new(tell));
        gateway.set_predecessor(Some(before.clone()));
        let Successor { mut hears, mut says } = self;
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                if say(&mut says, &question).await.is_err() {
                    return;
                }
            }
        });
        let gateway = gateway.clone();
        tokio::spawn(async move {
            while let Some(message) = hears.next::<ToNew>().await {
                match message {
                    ToNew::Answer { ask, reply } => before.answered(ask, reply),
                    ToNew::Socket { socket } => go_on(&gateway, *socket, &mut hears),
                    ToNew::Running { running } => gateway.hub.go_on_running(running),
                    ToNew::Settled => gateway.hub.await_sockets(false),
                    other => take(&gateway, other),
                }
            }
            // It has ended, and has nothing any more.
            gateway.hub.await_sockets(false);
            gateway.set_predecessor(None);
            before.ended();
        });
        Ok(())
    }
}

/// A client's WebSocket that comes from the process before.
fn go_on(gateway: &Arc<Gateway>, socket: Handed, hears: &mut Hears) {
    let gone = || std::io::Error::other("its connection did not come with it");
    let connection = hears.descriptor(|fd| socket.is_of(fd)).ok_or_else(gone);
    if let Err(e) = connection.and_then(|connection| hub_accept::go_on(gateway, socket, connection)) {
        // Its client comes again.
        gateway.log.note(Level::Warning, &format!("a WebSocket was not taken over: {e}"));
    }
}

fn take(gateway: &Gateway, message: ToNew) {
    if let ToNew::Learned { prompt, instance, keys } = message {
        let instance: Arc<str> = instance.into();
        for key in keys {
            gateway.affinity.learn(&Learned { prompt, key, instance: instance.clone() });
        }
    }
}
