//! One connection to an instance. It is driven from inside the request's own task: no task of its own, no
//! channel between two, and the head of an answer leaves in one write with the first part of its body.
use crate::gateway::body::RequestBody;
use crate::gateway::sweep::{self, Millis};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;

/// The most that is read ahead of whom it is for, and the largest head of an answer.
pub const BUFFER: usize = 64 * 1024;

pub struct Link {
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<TcpStream>, RequestBody>,
    ended: bool,
    /// It had a request before, so the instance may have closed it meanwhile.
    pub reused: bool,
    /// When it was given back.
    pub since: Millis,
}

/// Why no connection could be opened: nothing was sent.
#[derive(Debug)]
pub enum ConnectError {
    /// Nothing listens there.
    Refused,
    Slow,
    Other(io::Error),
}

/// Why a request has no answer.
pub enum SendError<S> {
    /// No byte of it was written.
    NotSent(Box<Request<RequestBody>>),
    /// The connection ended without an answer.
    Ended(String),
    /// What came is not HTTP.
    Garbled(String),
    /// The caller stopped it.
    Stopped(S),
}

impl Link {
    pub async fn connect(address: SocketAddr, limit: Duration) -> Result<Box<Link>, ConnectError> {
        let stream = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Err(_) => return Err(ConnectError::Slow),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => return Err(ConnectError::Refused),
            Ok(Err(e)) => return Err(ConnectError::Other(e)),
            Ok(Ok(stream)) => stream,
        };
        // Small writes go out at once: a WebSocket's messages, the end of a body.
        stream.set_nodelay(true).map_err(ConnectError::Other)?;
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ConnectError::Other(io::Error::other(e)))?;
        Ok(Box::new(Link { sender, connection, ended: false, reused: false, since: sweep::now() }))
    }

    /// Moves bytes both ways. Ready when the connection has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended && self.connection.poll_without_shutdown(cx).is_ready() {
            self.ended = true;
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends a request and waits for the head of its answer, or until `stop` says something.
    pub async fn send<S>(
        &mut self,
        request: Request<RequestBody>,
        mut stop: impl FnMut() -> Option<S>,
    ) -> Result<Response<Incoming>, SendError<S>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let (connection, ended) = (&mut self.connection, &mut self.ended);
        poll_fn(|cx| {
            if let Some(why) = stop() {
                return Poll::Ready(Err(SendError::Stopped(why)));
            }
            if !*ended && connection.poll_without_shutdown(cx).is_ready() {
                *ended = true;
            }
            match answer.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut failed)) => Poll::Ready(Err(match failed.take_message() {
                    Some(request) => SendError::NotSent(Box::new(request)),
                    None => failure(failed.error()),
                })),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Whether the last answer came to its end and another request may follow.
    pub fn is_idle(&mut self) -> bool {
        // Ready without a poll when the answer's last part was read in the same turn as its end.
        self.sender.is_ready()
            || self.poll(&mut Context::from_waker(Waker::noop())).is_pending() && self.sender.is_ready()
    }

    /// After a 101: the socket, and what was read behind the head.
    pub async fn into_stream(mut self: Box<Self>) -> (TcpStream, Bytes) {
        poll_fn(|cx| self.poll(cx)).await;
        let parts = self.connection.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }
}

fn failure<S>(error: &hyper::Error) -> SendError<S> {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if error.is_parse() { SendError::Garbled(text) } else { SendError::Ended(text) }
}
