//! A request that came over a connection which this process still has, after another one took the jobs over: it is
//! asked of that one, over the public address, as its client asked it.
use crate::gateway::answer::AnswerBody;
use crate::gateway::body::RequestBody;
use crate::gateway::jobs::engine::Engine;
use crate::gateway::link::Link;
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::shared::{Ending, Gateway};
use crate::sys::address::Address;
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// An upgrade that is not over by then has failed, and says so to the agent.
const DECIDED: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: usize = 256 << 20;

/// A request with the headers that it came with.
pub struct Original {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

/// Who has the jobs once it is decided.
pub enum Owner {
    Here(Arc<Engine>),
    Successor,
}

/// Waits while another process is about to take over.
pub async fn owner(gateway: &Gateway) -> Option<Owner> {
    let until = Instant::now() + DECIDED;
    loop {
        match gateway.jobs() {
            Some(engine) if !engine.is_paused() => return Some(Owner::Here(engine)),
            _ if matches!(gateway.ending(), Some(Ending::HandedOver(_))) => return Some(Owner::Successor),
            _ if Instant::now() > until || gateway.ending().is_some() => return None,
            _ => sleep(LOOK).await,
        }
    }
}

fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

pub async fn ask(
    gateway: &Gateway,
    original: Original,
    body: Bytes,
) -> Result<Response<AnswerBody>, Refusal> {
    let failed = |why: &str| {
        let message = format!("the process that took the jobs over did not answer: {why}");
        Refusal::new(Fault::GatewayFailed, message)
    };
    let address = Address::Tcp(reachable(gateway.active().settings.listen));
    let mut link = Link::connect(&address, CONNECT).await.map_err(|e| failed(&format!("{e:?}")))?;
    let length = body.len();
    let mut request = Request::new(if length > 0 { RequestBody::whole(body) } else { RequestBody::empty() });
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
        (original.method, original.uri, original.headers);
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    headers.remove(CONNECTION);
    if length > 0 {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let response = match link.send(request, || None::<()>).await {
        Ok(response) => response,
        Err(_) => return Err(failed("the connection ended")),
    };
    let (head, incoming) = response.into_parts();
    let mut body = pin!(Limited::new(incoming, ANSWER).collect());
    let read = poll_fn(|cx| {
        if let Poll::Ready(read) = body.as_mut().poll(cx) {
            return Poll::Ready(read);
        }
        let _ = link.poll(cx);
        body.as_mut().poll(cx)
    })
    .await
    .map_err(|e| failed(&e.to_string()))?;
    let mut response = Response::new(AnswerBody::Own(read.to_bytes()));
    *response.status_mut() = head.status;
    for name in [CONTENT_TYPE, hyper::header::RETRY_AFTER] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_asked_over_loopback() {
        for (listen, asked) in
            [("0.0.0.0:8188", "127.0.0.1:8188"), ("[::]:1", "[::1]:1"), ("10.0.0.5:2", "10.0.0.5:2")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
