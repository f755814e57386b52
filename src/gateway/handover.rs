//! What the two processes of an upgrade say to each other: a stream between them, one JSON document a line
//! both ways. `upgrade` is the old one's end, `successor` the new one's. A line may bring a descriptor with it
//! (unix(7), SCM_RIGHTS): a client's connection, with which the new process goes on.
use crate::gateway::hub_given::{Handed, HandedRunning};
use crate::gateway::key::Key;
use crate::protocol::control::{Reply, Table, Target};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The longest line that is read.
const LINE: usize = 16 << 20;
/// How much is read at once.
const BUFFER: usize = 64 << 10;

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
    /// Take over. `sockets`: clients' WebSockets follow, until `Settled`.
    Take {
        #[serde(default)]
        sockets: bool,
    },
    /// Go on with this WebSocket; its connection comes with the line.
    Socket {
        socket: Box<Handed>,
    },
    Running {
        running: HandedRunning,
    },
    /// Those were all WebSockets that could be handed over.
    Settled,
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
    Ready {
        /// It goes on with clients' WebSockets.
        #[serde(default)]
        sockets: bool,
    },
    Failed {
        message: String,
    },
    Taken,
    Ask {
        ask: u64,
        what: Ask,
    },
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
pub struct Hears {
    half: OwnedReadHalf,
    read: Vec<u8>,
    /// Those that came, in the order of the lines that they came with.
    descriptors: VecDeque<OwnedFd>,
}

impl Hears {
    pub fn new(half: OwnedReadHalf) -> Hears {
        Hears { half, read: Vec::new(), descriptors: VecDeque::new() }
    }

    /// The next message; `None` when the other side has ended.
    pub async fn next<T: for<'a> Deserialize<'a>>(&mut self) -> Option<T> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.read[seen..].iter().position(|byte| *byte == b'\n') {
                let message = serde_json::from_slice(&self.read[..seen + end]).ok();
                self.read.drain(..=seen + end);
                if self.read.is_empty() {
                    self.read = Vec::new();
                }
                return message;
            }
            seen = self.read.len();
            if seen > LINE || self.more().await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The descriptor that came with a line, where `is_it` knows it: one of an earlier line that got lost on the
    /// way, since this process has no room for more, is not another's.
    pub fn descriptor(&mut self, is_it: impl Fn(&OwnedFd) -> bool) -> Option<OwnedFd> {
        let at = self.descriptors.iter().position(is_it)?;
        self.descriptors.drain(..at);
        self.descriptors.pop_front()
    }

    async fn more(&mut self) -> io::Result<usize> {
        let stream = self.half.as_ref();
        let (read, descriptors) = (&mut self.read, &mut self.descriptors);
        stream.async_io(Interest::READABLE, || receive(stream.as_fd(), read, descriptors)).await
    }
}

fn receive(
    stream: BorrowedFd<'_>,
    read: &mut Vec<u8>,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut bytes = vec![0; BUFFER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    read.extend_from_slice(&bytes[..got.bytes]);
    Ok(got.bytes)
}

pub async fn say<T: Serialize>(half: &mut OwnedWriteHalf, message: &T) -> io::Result<()> {
    half.write_all(&line(message)?).await
}

/// A line that brings a descriptor with it.
pub async fn say_with<T: Serialize>(
    half: &mut OwnedWriteHalf,
    message: &T,
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let line = line(message)?;
    let stream = half.as_ref();
    let sent = stream.async_io(Interest::WRITABLE, || send(stream.as_fd(), &line, descriptor)).await?;
    half.write_all(&line[sent..]).await
}

fn line<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

fn send(stream: BorrowedFd<'_>, line: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("there is no room for a descriptor"));
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn lines_and_descriptors_come_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_ours, mut says) = ours.into_split();
        let (hears, _theirs) = theirs.into_split();
        let mut hears = Hears::new(hears);
        let long = "x".repeat(1 << 20);
        let (mut kept, mut passed) = (Vec::new(), Vec::new());
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        for _ in 0..8 {
            let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
            let other = OwnedFd::from(other);
            kept.push((one, inode(&other)));
            passed.push(other);
        }
        let saying = tokio::spawn(async move {
            for (n, descriptor) in passed.iter().enumerate() {
                say(&mut says, &"plain").await.unwrap();
                let text = if n % 2 == 0 { long.as_str() } else { "short" };
                say_with(&mut says, &(n, text), descriptor.as_fd()).await.unwrap();
            }
        });
        for (n, (mut one, its)) in kept.into_iter().enumerate() {
            assert_eq!(hears.next::<String>().await.as_deref(), Some("plain"));
            let (number, _) = hears.next::<(usize, String)>().await.unwrap();
            assert_eq!(number, n);
            if n == 3 {
                // Left lying: the next does not get it.
                continue;
            }
            let descriptor = hears.descriptor(|fd| inode(fd) == its).unwrap();
            std::os::unix::net::UnixStream::from(descriptor).write_all(&[n as u8]).unwrap();
            let mut got = [9];
            one.read_exact(&mut got).unwrap();
            assert_eq!(usize::from(got[0]), n);
        }
        assert!(hears.descriptor(|_| true).is_none());
        saying.await.unwrap();
        assert!(hears.next::<String>().await.is_none());
    }

    #[test]
    fn processes_of_before_and_after_understand_each_other() {
        let new = |text: &str| serde_json::from_str::<ToNew>(text).unwrap();
        assert!(matches!(new(r#"{"say": "take"}"#), ToNew::Take { sockets: false }));
        assert!(matches!(new(r#"{"say": "take", "sockets": true}"#), ToNew::Take { sockets: true }));
        let old = |text: &str| serde_json::from_str::<ToOld>(text).unwrap();
        assert!(matches!(old(r#"{"say": "ready"}"#), ToOld::Ready { sockets: false }));
        // What the process of before reads.
        #[derive(Deserialize)]
        #[serde(tag = "say", rename_all = "kebab-case")]
        enum Before {
            Ready,
        }
        let ready = serde_json::to_string(&ToOld::Ready { sockets: true }).unwrap();
        assert!(matches!(serde_json::from_str(&ready).unwrap(), Before::Ready));
    }
}
