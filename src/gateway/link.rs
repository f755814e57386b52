//! One connection to an instance. It is driven from inside the request's own task: no task of its own, no
//! channel between two, and the head of an answer leaves in one write with the first part of its body.
use crate::gateway::body::RequestBody;
use crate::gateway::clock::{self, Millis};
use crate::sys::address::Address;
use crate::sys::stream::{self, Stream};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is read before its reader takes it, and the largest head of an answer.
pub const BUFFER: usize = 64 * 1024;

pub struct Link {
    sender: SendRequest<RequestBody>,
    /// `None` once it has ended.
    connection: Option<Box<Connection<TokioIo<InstanceIo>, RequestBody>>>,
    /// It has carried a request before, so the instance may have closed it since.
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
    pub async fn connect(address: &Address, limit: Duration) -> Result<Link, ConnectError> {
        let stream = match tokio::time::timeout(limit, Stream::connect(address)).await {
            Err(_) => return Err(ConnectError::Slow),
            Ok(Err(e)) if stream::is_refused(&e) => return Err(ConnectError::Refused),
            Ok(Err(e)) => return Err(ConnectError::Other(e)),
            Ok(Ok(stream)) => stream,
        };
        Link::over(stream).await.map_err(|e| ConnectError::Other(io::Error::other(e)))
    }

    async fn over(stream: Stream) -> hyper::Result<Link> {
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER);
        // This sends nothing.
        let (sender, connection) =
            builder.handshake(TokioIo::new(InstanceIo { stream, deaf: false })).await?;
        let connection = Some(Box::new(connection));
        Ok(Link { sender, connection, reused: false, since: clock::now() })
    }

    /// A kept connection, if the instance has not closed it by this moment. Without asking the kernel, a
    /// close is known only once the runtime has heard of it.
    pub async fn if_alive(self) -> Option<Link> {
        let parts = self.connection?.into_parts();
        let stream = parts.io.into_inner().stream;
        let seen = rustix::net::recv(&stream, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        if !parts.read_buf.is_empty() || seen != Err(Errno::WOULDBLOCK) {
            return None;
        }
        let link = Link::over(stream).await.ok()?;
        Some(Link { reused: true, ..link })
    }

    /// Moves bytes both ways. Ready when the connection has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.connection {
            Some(connection) => connection.poll_without_shutdown(cx).map(|_| ()),
            None => Poll::Ready(()),
        }
    }

    /// Sends a request and waits for the head of its answer, or until `stop` says something.
    pub fn send<S>(
        &mut self,
        request: Request<RequestBody>,
        mut stop: impl FnMut() -> Option<S>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<S>>> {
        let mut answer = Box::pin(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        poll_fn(move |cx| {
            if let Some(why) = stop() {
                return Poll::Ready(Err(SendError::Stopped(why)));
            }
            let ended = match connection {
                Some(connection) => connection.poll_without_shutdown(cx).is_ready(),
                None => true,
            };
            let mut got = answer.as_mut().poll(cx);
            if ended && got.is_pending() {
                // A kept connection that has ended takes no request; dropping it gives the request back.
                *connection = None;
                got = answer.as_mut().poll(cx);
            }
            match got {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut failed)) => Poll::Ready(Err(match failed.take_message() {
                    Some(request) => SendError::NotSent(Box::new(request)),
                    None => failure(failed.error()),
                })),
                Poll::Pending => Poll::Pending,
            }
        })
    }

    /// The whole body of an answer: the connection moves only when it is asked to.
    pub async fn collect(&mut self, body: Incoming, most: usize) -> Result<Bytes, String> {
        let mut body = pin!(Limited::new(body, most).collect());
        let read = poll_fn(|cx| {
            if let Poll::Ready(read) = body.as_mut().poll(cx) {
                return Poll::Ready(read);
            }
            let _ = self.poll(cx);
            body.as_mut().poll(cx)
        });
        read.await.map(|body| body.to_bytes()).map_err(|e| e.to_string())
    }

    /// Whether the last answer came to its end and another request may follow.
    pub fn is_idle(&mut self) -> bool {
        // It is ready without a poll if the answer's last part and its end were read together.
        self.sender.is_ready()
            || self.poll(&mut Context::from_waker(Waker::noop())).is_pending() && self.sender.is_ready()
    }

    /// After a 101: the socket, and what was read after the head.
    pub async fn into_stream(mut self) -> Option<(Stream, Bytes)> {
        poll_fn(|cx| self.poll(cx)).await;
        let parts = self.connection?.into_parts();
        Some((parts.io.into_inner().stream, parts.read_buf))
    }
}

/// The socket of an instance. An instance may answer (403, 413) and close before it has read a whole body:
/// then writing fails while the answer waits to be read. So a failed write is not the end; reading finds the
/// answer, or the end.
struct InstanceIo {
    stream: Stream,
    /// The instance no longer takes anything.
    deaf: bool,
}

impl InstanceIo {
    fn unless_deaf(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let gone = |kind| matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        match wrote {
            Poll::Ready(Err(e)) if gone(e.kind()) => {
                self.deaf = true;
                // The writer is already waiting to read, and will be woken by that.
                Poll::Pending
            }
            other => other,
        }
    }
}

impl AsyncRead for InstanceIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for InstanceIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Pending;
        }
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_deaf(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Pending;
        }
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_deaf(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
