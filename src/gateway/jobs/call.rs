//! A question of the gateway's own to an instance: JSON there, JSON back, over a connection of its own, with a
//! limit of time. What may have reached the instance is told from what cannot have.
use crate::gateway::body::RequestBody;
use crate::gateway::instance::Instance;
use crate::gateway::link::{ConnectError, Link, SendError};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use serde_json::Value;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// The longest answer that is read. A history with pictures in it is text, and ComfyUI's own clients read it whole.
const ANSWER: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(2);
/// ComfyUI answers late while a node holds Python's lock.
pub const PATIENT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// Nothing listens there: its process is gone, and with it whatever it had.
    Gone,
    /// Nothing of the question was sent.
    NotSent(String),
    /// It may have had the question.
    Unknown(String),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failed::Gone => f.write_str("nothing listens there"),
            Failed::NotSent(why) | Failed::Unknown(why) => f.write_str(why),
        }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

pub async fn get(instance: &Instance, path: &str) -> Result<Answer, Failed> {
    ask(instance, Method::GET, path, None, PATIENT).await
}

pub async fn post(instance: &Instance, path: &str, body: &Value) -> Result<Answer, Failed> {
    ask(instance, Method::POST, path, Some(Bytes::from(body.to_string())), PATIENT).await
}

/// The same with bytes that are JSON already.
pub async fn post_bytes(instance: &Instance, path: &str, body: Bytes) -> Result<Answer, Failed> {
    ask(instance, Method::POST, path, Some(body), PATIENT).await
}

pub async fn ask(
    instance: &Instance,
    method: Method,
    path: &str,
    body: Option<Bytes>,
    limit: Duration,
) -> Result<Answer, Failed> {
    let mut link = match Link::connect(&instance.target.address, CONNECT).await {
        Ok(link) => link,
        Err(ConnectError::Refused) => return Err(Failed::Gone),
        Err(ConnectError::Slow) => {
            return Err(Failed::NotSent(format!("no connection within {} ms", CONNECT.as_millis())));
        }
        Err(ConnectError::Other(e)) => return Err(Failed::NotSent(format!("cannot connect: {e}"))),
    };
    let sent = tokio::time::timeout(limit, exchange(&mut link, instance, method, path, body)).await;
    sent.unwrap_or_else(|_| Err(Failed::Unknown(format!("no answer within {} s", limit.as_secs()))))
}

async fn exchange(
    link: &mut Link,
    instance: &Instance,
    method: Method,
    path: &str,
    body: Option<Bytes>,
) -> Result<Answer, Failed> {
    let mut request = Request::new(RequestBody::empty());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| Failed::NotSent(format!("{path:?} is not a path")))?;
    let headers = request.headers_mut();
    headers.insert(HOST, instance.host.clone());
    headers.insert(USER_AGENT, HeaderValue::from_static("stillframe-gateway"));
    if let Some(body) = body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        *request.body_mut() = RequestBody::whole(body);
    }
    let response = match link.send(request, || None::<()>).await {
        Ok(response) => response,
        Err(SendError::NotSent(_)) => return Err(Failed::NotSent("the connection ended at once".into())),
        Err(SendError::Ended(why) | SendError::Garbled(why)) => return Err(Failed::Unknown(why)),
        Err(SendError::Stopped(())) => return Err(Failed::Unknown("it was stopped".into())),
    };
    let status = response.status();
    let mut body = pin!(Limited::new(response.into_body(), ANSWER).collect());
    let read = poll_fn(|cx| {
        if let Poll::Ready(read) = body.as_mut().poll(cx) {
            return Poll::Ready(read);
        }
        // The connection moves only when it is asked to.
        let _ = link.poll(cx);
        body.as_mut().poll(cx)
    })
    .await;
    match read {
        Ok(body) => Ok(Answer { status, body: body.to_bytes() }),
        Err(e) => Err(Failed::Unknown(format!("its answer broke off: {e}"))),
    }
}
