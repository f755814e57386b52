//! The body of an answer on its way to the client. It holds the request's claim on the instance and the
//! connection to it until it ends.
use crate::formats::comfy::api::ids;
use crate::gateway::access::Access;
use crate::gateway::affinity;
use crate::gateway::client::{Client, Phase};
use crate::gateway::link::Link;
use crate::gateway::refusal::Fault;
use crate::gateway::router::Claim;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

pub enum AnswerBody {
    /// The gateway's own.
    Own(Bytes),
    Stream(Box<Stream>),
    Fed(Box<Fed>),
}

/// An answer of the gateway's own that somebody makes as it goes: a file, or events.
pub struct Fed {
    pub pieces: mpsc::Receiver<Bytes>,
    /// How many bytes are to come, where that is known.
    pub left: Option<u64>,
    pub access: Access,
    pub client: Arc<Client>,
    pub over: bool,
}

impl Fed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.over {
            return Poll::Ready(None);
        }
        match self.pieces.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(bytes)) => {
                self.client.touch();
                self.access.bytes += bytes.len() as u64;
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(bytes.len() as u64);
                    self.over = *left == 0;
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(None) => {
                self.over = true;
                match self.left {
                    Some(1..) => {
                        self.access.failed(Fault::GatewayFailed);
                        Poll::Ready(Some(Err(Broken(Fault::GatewayFailed))))
                    }
                    _ => Poll::Ready(None),
                }
            }
        }
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.access.received = self.client.received();
        if !self.over && self.access.fault.is_none() {
            self.access.failed(Fault::ClientGone);
        }
        self.client.enter(Phase::Idle);
    }
}

pub struct Stream {
    pub incoming: Incoming,
    pub link: Option<Link>,
    pub claim: Claim,
    pub access: Access,
    pub client: Arc<Client>,
    /// What was read so far of an answer that names a job.
    pub job: Option<Vec<u8>>,
    pub over: bool,
    /// The instance is the one who has to send next.
    pub waiting: bool,
}

/// The answer ends early. The client's connection is closed, so that the client cannot take it for complete.
#[derive(Debug)]
pub struct Broken(Fault);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

impl std::error::Error for Broken {}

impl Stream {
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // First the body, which says that it wants more; then the connection, which gets it.
        let got = Pin::new(&mut self.incoming).poll_frame(cx);
        if got.is_ready() {
            return got;
        }
        if let Some(link) = &mut self.link
            && link.poll(cx).is_ready()
        {
            self.link = None;
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn break_off(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.access.failed(fault);
        self.link = None;
        self.over = true;
        Poll::Ready(Some(Err(Broken(fault))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let got = self.poll_incoming(cx);
        self.waiting = got.is_pending();
        match got {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                self.client.touch();
                if let Some(data) = frame.data_ref() {
                    self.access.bytes += data.len() as u64;
                    self.look_for_job(data);
                }
                // hyper does not poll again after trailers.
                if self.incoming.is_end_stream() || frame.is_trailers() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.break_off(Fault::InstanceEnded),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn look_for_job(&mut self, data: &Bytes) {
        if let Some(seen) = &mut self.job {
            if seen.len() + data.len() > affinity::ANSWER {
                self.job = None;
            } else {
                seen.extend_from_slice(data);
            }
        }
    }

    /// The last part is on its way. The job's id is learned before the client can act on it.
    fn end(&mut self) {
        self.over = true;
        if let Some(seen) = self.job.take()
            && let Some(id) = ids::job_of(&seen)
        {
            self.access.gateway.affinity.learn_prompt(&id, self.claim.instance.id());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.access.received = self.client.received();
        // A body without a byte is never polled.
        let whole = self.access.fault.is_none() && (self.over || self.incoming.is_end_stream());
        if !whole && self.access.fault.is_none() {
            let slow = self.waiting && self.client.is_expired();
            self.access.failed(match slow {
                _ if self.claim.instance.is_cut() => Fault::InstanceEnded,
                true => Fault::InstanceSlow,
                false => Fault::ClientGone,
            });
        }
        if whole
            && let Some(mut link) = self.link.take()
            && link.is_idle()
        {
            self.claim.instance.keep_link(link);
        }
        self.client.enter(Phase::Idle);
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            AnswerBody::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            AnswerBody::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AnswerBody::Stream(stream) => stream.poll(cx),
            AnswerBody::Fed(fed) => fed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Own(bytes) => bytes.is_empty(),
            AnswerBody::Stream(stream) => stream.incoming.is_end_stream(),
            AnswerBody::Fed(fed) => fed.over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            AnswerBody::Stream(stream) => stream.incoming.size_hint(),
            AnswerBody::Fed(fed) => fed.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
