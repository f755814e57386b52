//! What the hub has of one client: its sockets, and what it must be told of its running jobs when it comes again.
use crate::formats::comfy::socket::{self, Worth};
use crate::gateway::hub_frame::Frame;
use crate::gateway::hub_given::HandedRunning;
use crate::gateway::hub_socket::{ClientRef, Socket};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// One message for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// UTF-8.
    Text(Bytes),
    Binary(Bytes),
}

impl Message {
    pub fn json(value: &Value) -> Message {
        Message::Text(value.to_string().into())
    }

    /// As it goes out to clients that know previews with metadata.
    pub fn frame(&self) -> Frame {
        match self {
            Message::Text(text) => Frame::text(text, socket::worth_of_text(text)),
            Message::Binary(bytes) => Frame::binary(bytes, socket::worth_of_binary(bytes)),
        }
    }

    /// As it goes out to the others, where that is another one.
    pub fn plain(&self) -> Option<Frame> {
        let Message::Binary(bytes) = self else { return None };
        Some(Frame::binary(&socket::without_metadata(bytes)?, Worth::Preview))
    }

    fn as_text(&self) -> Option<String> {
        let Message::Text(text) = self else { return None };
        String::from_utf8(text.to_vec()).ok()
    }

    /// Without the larger buffer that it may be a part of.
    fn copy(&self) -> Message {
        match self {
            Message::Text(text) => Message::Text(Bytes::copy_from_slice(text)),
            Message::Binary(bytes) => Message::Binary(Bytes::copy_from_slice(bytes)),
        }
    }
}

/// What a client that comes again must be told of a running job, in this order.
#[derive(Debug, Default, Clone)]
struct Running {
    job: String,
    /// By their place in `STATE`.
    messages: [Option<Message>; STATE.len()],
}

/// Of the messages of a job, those that say how far it is; only the last of each kind counts.
pub const STATE: [&str; 4] = ["execution_start", "execution_cached", "progress_state", "executing"];

#[derive(Default)]
pub struct Entry {
    pub sockets: Vec<Arc<Socket>>,
    running: Vec<Running>,
}

impl Entry {
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.running.is_empty()
    }

    /// Keeps what is to be known of a running job.
    pub fn note(&mut self, job: &str, at: usize, message: &Message) {
        let known = self.running.iter().position(|running| running.job == job);
        let known = known.unwrap_or_else(|| {
            self.running.push(Running { job: job.into(), ..Running::default() });
            self.running.len() - 1
        });
        let messages = &mut self.running[known].messages;
        if at == 0 {
            // It begins, perhaps for the second time.
            *messages = Default::default();
        }
        messages[at] = Some(message.copy());
    }

    /// A job runs no more.
    pub fn forget(&mut self, job: &str) {
        self.running.retain(|running| running.job != job);
    }

    /// What a socket that comes now has to be told.
    pub fn missed(&self) -> Vec<Frame> {
        let messages = self.running.iter().flat_map(|running| &running.messages);
        messages.flatten().map(Message::frame).collect()
    }

    /// The same for another process.
    pub fn hand_over(&self, client: &ClientRef) -> Vec<HandedRunning> {
        let handed = self.running.iter().map(|running| HandedRunning {
            scope: client.scope,
            client: client.id.to_string(),
            job: running.job.clone(),
            messages: running.messages.iter().map(|m| m.as_ref().and_then(Message::as_text)).collect(),
        });
        handed.collect()
    }

    pub fn go_on(&mut self, running: HandedRunning) {
        for (at, message) in running.messages.into_iter().take(STATE.len()).enumerate() {
            if let Some(text) = message {
                self.note(&running.job, at, &Message::Text(text.into()));
            }
        }
    }

    /// To all its sockets.
    pub fn tell(&self, message: &Message) {
        if self.sockets.is_empty() {
            return;
        }
        let frame = message.frame();
        let plain = if self.sockets.iter().all(|s| s.knows_metadata()) { None } else { message.plain() };
        for socket in &self.sockets {
            socket.push(fitting(socket, &frame, plain.as_ref()));
        }
    }
}

pub fn fitting(socket: &Socket, frame: &Frame, plain: Option<&Frame>) -> Frame {
    plain.filter(|_| !socket.knows_metadata()).unwrap_or(frame).clone()
}
