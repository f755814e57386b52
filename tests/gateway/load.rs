//! A steady mixed load that expects every request to be answered by an instance.
use crate::client::{Connection, Failed, WebSocket, full, request, zeros};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
pub struct Tally {
    over: AtomicBool,
    pub done: AtomicU64,
    pub failures: Mutex<Vec<String>>,
}

pub struct Load {
    pub tally: Arc<Tally>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

/// What a worker does again and again.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Each on a new connection.
    Get,
    /// On a connection that is kept as long as the gateway keeps it.
    Kept,
    /// With a body of unknown length.
    Upload,
    Slow,
    /// A job, and its result.
    Job,
    /// A WebSocket with a few messages.
    Socket,
}

impl Load {
    pub fn start(address: SocketAddr, kinds: &[Kind]) -> Load {
        let tally = Arc::new(Tally::default());
        let workers = kinds.iter().enumerate().map(|(n, kind)| {
            let (tally, kind) = (tally.clone(), *kind);
            tokio::spawn(async move {
                let mut kept = None;
                while !tally.over.load(Ordering::SeqCst) {
                    match once(address, kind, n, &mut kept).await {
                        Ok(()) => drop(tally.done.fetch_add(1, Ordering::SeqCst)),
                        Err(e) => tally.failures.lock().unwrap().push(format!("{kind:?}: {e}")),
                    }
                }
            })
        });
        let workers = workers.collect();
        Load { tally, workers }
    }

    pub fn done(&self) -> u64 {
        self.tally.done.load(Ordering::SeqCst)
    }

    /// Waits for so many more requests.
    pub async fn more(&self, count: u64) {
        let goal = self.done() + count;
        crate::harness::wait("the load to go on", || async {
            self.done() >= goal || !self.tally.failures.lock().unwrap().is_empty()
        })
        .await;
    }

    /// Ends it; gives back how many were answered and what failed.
    pub async fn end(self) -> (u64, Vec<String>) {
        self.tally.over.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let failures = self.tally.failures.lock().unwrap().clone();
        (self.tally.done.load(Ordering::SeqCst), failures)
    }
}

fn wrong(what: impl std::fmt::Debug) -> Failed {
    format!("{what:?}").into()
}

async fn once(
    address: SocketAddr,
    kind: Kind,
    worker: usize,
    kept: &mut Option<Connection>,
) -> Result<(), Failed> {
    match kind {
        Kind::Get => {
            let answer = crate::client::try_send(address, request("GET", "/queue", &[], full(""))).await?;
            if answer.status != 200 {
                return Err(wrong(answer));
            }
        }
        Kind::Kept => {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => Connection::open(address).await?,
            };
            let answer = connection.send(request("GET", "/queue", &[], full(""))).await?;
            if answer.status != 200 {
                return Err(wrong(answer));
            }
            if answer.header("connection") != "close" {
                *kept = Some(connection);
            }
        }
        Kind::Upload => {
            let body = zeros(300_000);
            let answer =
                crate::client::try_send(address, request("POST", "/test/sink?ms=2", &[], body)).await?;
            if answer.status != 200 || answer.json()["bytes"] != 300_000 {
                return Err(wrong(answer));
            }
        }
        Kind::Slow => {
            let path = "/test/slow?ms=60";
            let answer = crate::client::try_send(address, request("GET", path, &[], full(""))).await?;
            if answer.status != 200 {
                return Err(wrong(answer));
            }
        }
        Kind::Job => {
            let body = full(json!({ "prompt": {}, "client_id": format!("job{worker}") }).to_string());
            let answer = crate::client::try_send(address, request("POST", "/prompt", &[], body)).await?;
            if answer.status != 200 {
                return Err(wrong(answer));
            }
            let id = answer.json()["prompt_id"].as_str().unwrap_or_default().to_string();
            let path = format!("/history/{id}");
            let answer = crate::client::try_send(address, request("GET", &path, &[], full(""))).await?;
            // Its instance may have been stopped meanwhile: then another one answers that it knows nothing.
            if answer.status != 200 {
                return Err(wrong(answer));
            }
        }
        Kind::Socket => {
            let mut socket = WebSocket::open(address, &format!("/ws?clientId=socket{worker}")).await?;
            let hello: Value = serde_json::from_str(&socket.hear().await.ok_or("no hello")?)?;
            if hello["type"] != "status" {
                return Err(wrong(hello));
            }
            for n in 0..3 {
                socket.say(&format!("message {n}")).await?;
                let heard = socket.hear().await;
                if heard.as_deref() != Some(&format!("message {n}")) {
                    return Err(wrong(heard));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            socket.close().await?;
        }
    }
    Ok(())
}
