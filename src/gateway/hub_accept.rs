//! A client's WebSocket from the request for it to its end.
use crate::formats::comfy::api::ids;
use crate::gateway::access::{Access, Taken};
use crate::gateway::answer::AnswerBody;
use crate::gateway::client::Client;
use crate::gateway::client_socket::ClientSocket;
use crate::gateway::hub::{ClientRef, Given, Hub, OF_CLIENT, Place, new_id};
use crate::gateway::hub_frame::Decoder;
use crate::gateway::hub_given::{Handed, Left};
use crate::gateway::hub_socket::{Happened, Wire};
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::seating;
use crate::gateway::share::{Source, Who};
use crate::gateway::shared::Gateway;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A longer id is no id. ComfyUI's own have 32 letters.
const ID: usize = 1_024;

/// A request for a WebSocket, let in.
pub struct Knock<'a, B> {
    pub request: &'a Request<B>,
    /// None where the request does not ask for another protocol.
    pub client_side: Option<OnUpgrade>,
    pub who: &'a Who,
    /// To answer, if the client offered any of ours.
    pub subprotocol: Option<HeaderValue>,
    /// Whose connection it is; its place is taken until the socket is closed.
    pub seat: Arc<Client>,
}

impl Hub {
    /// Answers `GET /ws` with its 101 and runs the socket in a task of its own, since the task of the client's
    /// connection ends with that answer. `access` is taken then, and left where the request is refused.
    pub fn accept<B>(
        self: &Arc<Self>,
        knock: Knock<'_, B>,
        access: &mut Option<Access>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let accept = handshake(knock.request)?;
        let Some(client_side) = knock.client_side else {
            return Err(bad("the connection is not to become a WebSocket"));
        };
        let id = match knock.request.uri().query().and_then(ids::client_id) {
            Some(id) if id.len() > ID => return Err(bad(&format!("a clientId has at most {ID} bytes"))),
            Some(id) => id,
            None => new_id().map_err(|e| Refusal::new(Fault::GatewayFailed, e.to_string()))?,
        };
        let place = self.enter(ClientRef::new(knock.who.key, &id)).map_err(|_| {
            let message = format!("{OF_CLIENT} WebSockets of this clientId are open already");
            Refusal::new(Fault::TooManyRequests, message)
        })?;
        let Some(mut access) = access.take() else {
            return Err(Refusal::new(Fault::GatewayFailed, "the request was answered already"));
        };
        access.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        access.upgrade = true;
        access.gateway.metrics.own_answer(access.status);
        tokio::spawn(upgrade(place, client_side, access, knock.seat));
        let mut response = Response::new(AnswerBody::Own(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(subprotocol) = knock.subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        Ok(response)
    }
}

fn bad(message: &str) -> Refusal {
    Refusal::new(Fault::BadRequest, message)
}

/// What to answer to the client's key (RFC 6455, 4.2.1).
fn handshake<B>(request: &Request<B>) -> Result<HeaderValue, Refusal> {
    if request.method() != Method::GET {
        return Err(bad("a WebSocket is asked for with GET"));
    }
    let headers = request.headers();
    if !has_token(headers, "websocket") {
        return Err(bad("the only protocol to change to here is websocket"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(bad("Sec-WebSocket-Version is not 13"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        HeaderValue::from_str(&derive_accept_key(key))
            .map_err(|e| Refusal::new(Fault::GatewayFailed, e.to_string()))
    } else {
        Err(bad("Sec-WebSocket-Key is not 16 bytes in base64"))
    }
}

fn has_token(headers: &HeaderMap, protocol: &str) -> bool {
    let lines = headers.get_all(UPGRADE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case(protocol))
}

async fn upgrade(place: Place, client_side: OnUpgrade, access: Access, seat: Arc<Client>) {
    if let Ok(upgraded) = client_side.await
        && let Ok(parts) = upgraded.downcast::<TokioIo<ClientSocket>>()
    {
        let wire = Wire::new(parts.io.into_inner().stream, Decoder::default(), &parts.read_buf);
        drop(parts.read_buf);
        run(place, wire, access, seat).await;
    }
}

/// Serves a socket until it ends, or another process goes on with it.
pub async fn run(mut place: Place, mut wire: Wire, mut access: Access, seat: Arc<Client>) {
    let gateway = access.gateway.clone();
    loop {
        match poll_fn(|cx| wire.poll(cx, &place.socket)).await {
            Happened::Said(text) => {
                if !gateway.hub.heard(&place.socket, &text) {
                    wire.decoder.listen_no_more();
                }
            }
            Happened::Over => break,
            Happened::Leaves => {
                (access.bytes, access.received) = (wire.sent, wire.received);
                match give(place, wire, &access) {
                    Some(back) => (place, wire) = back,
                    None => return,
                }
            }
        }
    }
    (access.bytes, access.received) = (wire.sent, wire.received);
    // The line in the log comes before whoever waits for the last socket goes on.
    drop(access);
    drop(place);
    drop(seat);
}

/// Gives a socket to the process that takes over; it comes back where that has ended.
fn give(place: Place, wire: Wire, access: &Access) -> Option<(Place, Wire)> {
    let (received, sent) = (wire.received, wire.sent);
    let (stream, decoder, waits) = wire.give_up(&place.socket);
    let (ip, uri) = access.asked();
    let left = Left {
        client: place.socket.client.clone(),
        metadata: place.socket.knows_metadata(),
        asked: (ip, uri.to_string()),
        stream,
        decoder,
        waits,
    };
    let Given { left, place } = *access.gateway.hub.give(Given { left, place }).err()?;
    place.socket.come_back(left.waits);
    let mut wire = Wire::new(left.stream, left.decoder, &[]);
    (wire.received, wire.sent) = (received, sent);
    Some((place, wire))
}

/// Goes on with a socket of the process before this one.
pub fn go_on(gateway: &Arc<Gateway>, handed: Handed, stream: OwnedFd) -> std::io::Result<()> {
    let stream = TcpStream::from_std(stream.into())?;
    let peer = stream.peer_addr()?.ip();
    let seat = seating::seat(gateway, peer);
    let trusted = seat.as_ref().is_some_and(|seat| seat.trusted);
    let uri = handed.uri.parse().unwrap_or_default();
    let status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
    let mut access = Access::of_websocket(gateway, (handed.ip, uri), status);
    let client = handed.client();
    // It had these shares already, and keeps them.
    let of_client = || gateway.of_clients.take(Source::of(handed.ip), usize::MAX, usize::MAX).ok();
    let of_key = |key| gateway.of_keys.take(key, usize::MAX, usize::MAX).ok();
    access.shares =
        Taken { client: if trusted { of_client() } else { None }, key: client.scope.and_then(of_key) };
    let place = gateway.hub.go_on(client, handed.metadata, handed.waits);
    let wire = Wire::new(stream, handed.decoder, &[]);
    tokio::spawn(run(place, wire, access, Arc::new(Client::new(peer, seat))));
    Ok(())
}
