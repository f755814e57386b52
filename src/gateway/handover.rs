//! What the two processes of an upgrade say to each other: a stream between them, one JSON document a line
//! both ways. `upgrade` is the old one's end, `successor` the new one's.
use crate::gateway::key::Key;
use crate::protocol::control::{Reply, Table, Target};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The longest line that is read.
const LINE: u64 = 16 << 20;

/// From the old process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToNew {
    /// Which instances there are.
    Begin {
        version: u32,
        targets: Vec<Known>,
    },
    /// Which jobs or clients an instance has.
    Learned {
        prompt: bool,
        instance: String,
        keys: Vec<Key>,
    },
    /// That was all so far: get ready.
    Prepare,
    /// Take over.
    Take,
    Answer {
        ask: u64,
        reply: Reply,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Known {
    pub target: Target,
    pub draining: bool,
    pub healthy: bool,
}

/// From the new one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToOld {
    Ready,
    Failed { message: String },
    Taken,
    Ask { ask: u64, what: Ask },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Ask {
    Status,
    Set {
        table: Table,
    },
    Cut {
        id: String,
    },
    /// Close a client's WebSocket on an instance: the client has come to the new process.
    MakeWay {
        instance: String,
        key: Key,
    },
}

/// One end's reading half.
pub struct Hears(BufReader<OwnedReadHalf>);

impl Hears {
    pub fn new(half: OwnedReadHalf) -> Hears {
        Hears(BufReader::new(half))
    }

    /// The next message; `None` when the other side has ended.
    pub async fn next<T: for<'a> Deserialize<'a>>(&mut self) -> Option<T> {
        let mut line = Vec::new();
        (&mut self.0).take(LINE).read_until(b'\n', &mut line).await.ok().filter(|n| *n > 0)?;
        serde_json::from_slice(&line).ok()
    }
}

pub async fn say<T: Serialize>(half: &mut OwnedWriteHalf, message: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    half.write_all(&line).await
}
