//! The process that this one took over from: what is asked of it while it still has something open.
use crate::gateway::handover::{Ask, ToOld};
use crate::gateway::key::Key;
use crate::protocol::control::{Reply, Table};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// An old process that takes longer than this to answer is in trouble.
const ANSWER: Duration = Duration::from_secs(5);

/// The old process, as long as it lives.
pub struct Predecessor {
    tell: mpsc::UnboundedSender<ToOld>,
    /// The number of the last question, and who waits for an answer.
    asked: Mutex<(u64, HashMap<u64, oneshot::Sender<Reply>>)>,
}

impl Predecessor {
    /// Questions go to `tell`.
    pub fn new(tell: mpsc::UnboundedSender<ToOld>) -> Predecessor {
        Predecessor { tell, asked: Mutex::default() }
    }

    /// It has ended, and whoever waits for an answer hears of it.
    pub fn ended(&self) {
        self.asked.lock().1.clear();
    }

    pub fn answered(&self, ask: u64, reply: Reply) {
        let waiting = self.asked.lock().1.remove(&ask);
        if let Some(waiting) = waiting {
            // Whoever asked may have given up.
            let _ = waiting.send(reply);
        }
    }

    /// `None` if it has ended.
    async fn ask(&self, what: Ask) -> Result<Option<Reply>, String> {
        let (answer, waiting) = oneshot::channel();
        let ask = {
            let mut asked = self.asked.lock();
            asked.0 += 1;
            let ask = asked.0;
            asked.1.insert(ask, answer);
            ask
        };
        if self.tell.send(ToOld::Ask { ask, what }).is_err() {
            return Ok(None);
        }
        match timeout(ANSWER, waiting).await {
            Ok(Ok(Reply { error: Some(error), .. })) => Err(error),
            Ok(Ok(reply)) => Ok(Some(reply)),
            Ok(Err(_)) => Ok(None),
            Err(_) => Err("the process before this one does not answer".into()),
        }
    }

    pub async fn status(&self) -> Result<Option<Reply>, String> {
        self.ask(Ask::Status).await
    }

    pub async fn set(&self, table: Table) -> Result<(), String> {
        self.ask(Ask::Set { table }).await.map(|_| ())
    }

    pub async fn cut(&self, id: &str) -> Result<(), String> {
        self.ask(Ask::Cut { id: id.into() }).await.map(|_| ())
    }

    pub async fn make_way(&self, key: Key, instance: &str) {
        // Whatever it says, the new WebSocket is opened.
        let _ = self.ask(Ask::MakeWay { instance: instance.into(), key }).await;
    }
}
