//! The body of a request on its way to an instance: streamed, counted, and held to the limit. A small one may
//! be read ahead, when where it goes depends on what it says.
use crate::gateway::client::{BodyFault, Client, Phase};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

pub struct RequestBody {
    /// Read already.
    ahead: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
    /// How many bytes may still come.
    left: u64,
    client: Option<Arc<Client>>,
    /// Somebody makes the rest as it goes.
    fed: Option<mpsc::Receiver<Bytes>>,
}

/// The body ended early; `Client::body_fault` says why.
#[derive(Debug)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body of the request ended early")
    }
}

impl std::error::Error for Broken {}

impl RequestBody {
    pub fn empty() -> RequestBody {
        RequestBody { ahead: VecDeque::new(), rest: None, left: 0, client: None, fed: None }
    }

    /// One that is here already.
    pub fn whole(bytes: Bytes) -> RequestBody {
        RequestBody { ahead: VecDeque::from([Frame::data(bytes)]), ..RequestBody::empty() }
    }

    /// One that comes from the gateway itself; its length is said in a header.
    pub fn fed(pieces: mpsc::Receiver<Bytes>) -> RequestBody {
        RequestBody { fed: Some(pieces), ..RequestBody::empty() }
    }

    pub fn new(incoming: Incoming, limit: u64, client: &Arc<Client>) -> RequestBody {
        if incoming.is_end_stream() {
            return RequestBody::empty();
        }
        RequestBody {
            ahead: VecDeque::new(),
            rest: Some(incoming),
            left: limit,
            client: Some(client.clone()),
            fed: None,
        }
    }

    /// Whether all of it was read from the client.
    pub fn is_read(&self) -> bool {
        self.rest.is_none()
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let (Some(rest), Some(client)) = (&mut self.rest, &self.client) else { return Poll::Ready(None) };
        let got = match Pin::new(&mut *rest).poll_frame(cx) {
            Poll::Pending => {
                client.wait_for_body();
                return Poll::Pending;
            }
            Poll::Ready(got) => got,
        };
        let frame = match got {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                client.fail_body(BodyFault::ClientGone);
                return Poll::Ready(Some(Err(Broken)));
            }
            None => {
                self.rest = None;
                client.body_read();
                return Poll::Ready(None);
            }
        };
        if let Some(data) = frame.data_ref() {
            let bytes = data.len() as u64;
            client.add_received(bytes);
            let Some(left) = self.left.checked_sub(bytes) else {
                client.fail_body(BodyFault::TooLarge);
                return Poll::Ready(Some(Err(Broken)));
            };
            self.left = left;
        }
        if rest.is_end_stream() {
            self.rest = None;
            client.body_read();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// The next piece, for whoever reads a body to its end as it comes.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(frame) = self.ahead.pop_front() {
            return Ok(frame.into_data().ok());
        }
        if let Some(client) = &self.client
            && client.phase() != Phase::Body
        {
            client.enter(Phase::Body);
        }
        loop {
            let got = poll_fn(|cx| {
                if self.client.as_ref().is_some_and(|c| c.is_expired()) {
                    return Poll::Ready(Some(Err(Broken)));
                }
                self.poll_rest(cx)
            });
            match got.await.transpose()? {
                // Trailers say nothing to anybody here.
                Some(frame) if frame.is_trailers() => {}
                Some(frame) => return Ok(frame.into_data().ok()),
                None => return Ok(None),
            }
        }
    }

    /// Reads the whole body if it has at most `most` bytes; `None` if it has more. The instance still gets
    /// all of it.
    pub async fn read_ahead(&mut self, most: u64) -> Result<Option<Vec<u8>>, Broken> {
        if self.size_hint().lower() > most {
            return Ok(None);
        }
        if let Some(client) = &self.client {
            client.enter(Phase::Body);
        }
        let mut size = 0;
        loop {
            let got = poll_fn(|cx| {
                if self.client.as_ref().is_some_and(|c| c.is_expired()) {
                    return Poll::Ready(Some(Err(Broken)));
                }
                self.poll_rest(cx)
            });
            let Some(frame) = got.await.transpose()? else { break };
            size += frame.data_ref().map_or(0, |data| data.len() as u64);
            self.ahead.push_back(frame);
            if size > most {
                return Ok(None);
            }
        }
        let parts = self.ahead.iter().filter_map(|frame| frame.data_ref());
        Ok(Some(parts.flat_map(|data| data.iter().copied()).collect()))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let got = match self.ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => match &mut self.fed {
                Some(fed) => fed.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
                None => self.poll_rest(cx),
            },
        };
        if let Some(client) = &self.client
            && got.is_ready()
            && self.is_end_stream()
        {
            client.body_sent();
        }
        got
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.rest.is_none() && self.fed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: u64 = self.ahead.iter().filter_map(|f| f.data_ref()).map(|d| d.len() as u64).sum();
        if self.fed.is_some() {
            return SizeHint::default();
        }
        let Some(rest) = &self.rest else { return SizeHint::with_exact(ahead) };
        let rest = rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(ahead + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(ahead + upper);
        }
        hint
    }
}
