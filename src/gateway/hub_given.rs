//! A client's socket between two processes: what the one that goes on with it has to know.
use crate::gateway::hub_frame::{Decoder, base64_bytes};
use crate::gateway::hub_socket::ClientRef;
use crate::gateway::key::Key;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use tokio::net::TcpStream;

#[derive(Debug, Serialize, Deserialize)]
pub struct Handed {
    scope: Option<Key>,
    client: String,
    /// It knows previews with metadata.
    pub metadata: bool,
    /// Whose it is and what was asked for, for the log.
    pub ip: IpAddr,
    pub uri: String,
    /// Of the connection: so that nobody is ever given another's.
    inode: u64,
    pub decoder: Decoder,
    /// What is not written yet. It may begin in the middle of a message.
    #[serde(with = "base64_bytes")]
    pub waits: Vec<u8>,
}

/// What a client that comes again must be told of a running job.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedRunning {
    pub scope: Option<Key>,
    pub client: String,
    pub job: String,
    pub messages: Vec<Option<String>>,
}

/// What a socket's task gives up.
pub struct Left {
    pub client: ClientRef,
    pub metadata: bool,
    pub asked: (IpAddr, String),
    pub stream: TcpStream,
    pub decoder: Decoder,
    pub waits: Vec<u8>,
}

impl Left {
    /// The connection, and what goes with it.
    pub fn parts(self) -> io::Result<(Handed, OwnedFd)> {
        let stream: OwnedFd = self.stream.into_std()?.into();
        let handed = Handed {
            scope: self.client.scope,
            client: self.client.id.to_string(),
            metadata: self.metadata,
            ip: self.asked.0,
            uri: self.asked.1,
            inode: inode(&stream)?,
            decoder: self.decoder,
            waits: self.waits,
        };
        Ok((handed, stream))
    }
}

impl Handed {
    pub fn client(&self) -> ClientRef {
        ClientRef::new(self.scope, &self.client)
    }

    /// Whether this is its connection.
    pub fn is_of(&self, stream: &OwnedFd) -> bool {
        inode(stream).is_ok_and(|inode| inode == self.inode)
    }
}

fn inode(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}
