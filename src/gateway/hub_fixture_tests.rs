//! What the hub's tests stand on: a listener that answers every request with `Hub::accept`, and clients of another
//! library (`tokio-tungstenite`'s).
use super::*;
use crate::gateway::access::Access;
use crate::gateway::auth::Keys;
use crate::gateway::client::Client;
use crate::gateway::client_socket::ClientSocket;
use crate::gateway::hub_accept::Knock;
use crate::gateway::key::key;
use crate::gateway::origin::Names;
use crate::gateway::settings::Active;
use crate::gateway::share::{Source, Who};
use crate::gateway::shared::Gateway;
use crate::protocol::control::{Check, GATEWAY_VERSION, GatewaySettings, Limits};
use futures_util::{SinkExt, StreamExt};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message as Heard};
use tokio_tungstenite::{WebSocketStream, client_async};

pub type Peer = WebSocketStream<TcpStream>;

pub fn gateway() -> Arc<Gateway> {
    let settings = GatewaySettings {
        version: GATEWAY_VERSION,
        service: "demo".into(),
        listen: "127.0.0.1:1".parse().unwrap(),
        metrics: None,
        control: "/nowhere/control".into(),
        table: "/nowhere/table".into(),
        api_keys: vec![],
        callers: Default::default(),
        limits: Limits::default(),
        check: Check::default(),
        jobs: None,
        scaling: None,
    };
    let names = Names::new(&settings.callers, "host");
    let active = Active { settings, keys: Keys::parse(&[]).unwrap(), names };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Arc::new(Gateway::new("/nowhere".into(), active, listener.into()))
}

/// Answers every request with `Hub::accept`, in the name of the API key that the header `key` names.
pub async fn served() -> (Arc<Gateway>, SocketAddr) {
    let gateway = gateway();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = gateway.clone();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let client = Arc::new(Client::new(peer.ip(), None));
            let gateway = serving.clone();
            tokio::spawn(async move {
                let answer = |mut request: Request<hyper::body::Incoming>| {
                    let client_side = hyper::upgrade::on(&mut request);
                    let of_key = request.headers().get("key").map(|name| key(name.to_str().unwrap()));
                    let who = Who { source: Source::of(client.ip), key: of_key, keys: 2 };
                    let mut access = Some(Access::new(&gateway, client.ip, request.method(), request.uri()));
                    let (subprotocol, seat) = (None, client.clone());
                    let client_side = Some(client_side);
                    let knock = Knock { request: &request, client_side, who: &who, subprotocol, seat };
                    let response = gateway.hub.accept(knock, &mut access).unwrap_or_else(|refusal| {
                        assert!(access.is_some());
                        let mut response =
                            Response::new(crate::gateway::answer::AnswerBody::Own(refusal.body("demo")));
                        *response.status_mut() = refusal.fault.status();
                        response
                    });
                    std::future::ready(Ok::<_, Infallible>(response))
                };
                let io = TokioIo::new(ClientSocket::new(stream, client.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service_fn(answer))
                    .with_upgrades();
                let _ = connection.await;
            });
        }
    });
    (gateway, address)
}

pub async fn try_connect(address: SocketAddr, query: &str, of_key: Option<&str>) -> Result<Peer, Error> {
    let mut request = format!("ws://{address}/ws{query}").into_client_request().unwrap();
    if let Some(of_key) = of_key {
        request.headers_mut().insert("key", of_key.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(request, stream).await.map(|(peer, _)| peer)
}

/// Connects, and reads the first message.
pub async fn connect(address: SocketAddr, id: &str) -> Peer {
    let mut peer = try_connect(address, &format!("?clientId={id}"), None).await.unwrap();
    assert_eq!(json(&mut peer).await["data"]["sid"], id);
    peer
}

pub async fn heard(peer: &mut Peer) -> Heard {
    let next = tokio::time::timeout(Duration::from_secs(10), peer.next());
    next.await.expect("something comes").expect("it goes on").unwrap()
}

pub async fn json(peer: &mut Peer) -> Value {
    serde_json::from_str(heard(peer).await.to_text().unwrap()).unwrap()
}

/// Everything that has been sent to it by now.
pub async fn rest(peer: &mut Peer) -> Vec<Heard> {
    peer.send(Heard::Ping("end".into())).await.unwrap();
    let mut all = Vec::new();
    loop {
        match heard(peer).await {
            Heard::Pong(payload) if payload == "end" => return all,
            other => all.push(other),
        }
    }
}

pub async fn closed(peer: &mut Peer) -> (u16, String) {
    loop {
        if let Heard::Close(Some(frame)) = heard(peer).await {
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}

pub async fn until(what: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to that");
}

pub fn client(id: &str) -> ClientRef {
    ClientRef::new(None, id)
}

pub fn message(kind: &str, n: u64) -> Message {
    Message::json(&json!({"type": kind, "data": {"prompt_id": "p", "n": n}}))
}

/// The head of an answer.
pub async fn asked(address: SocketAddr, path: &str, headers: &[&str]) -> String {
    let (head, _) = raw(address, path, headers).await;
    head
}

pub async fn raw(address: SocketAddr, path: &str, headers: &[&str]) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n{}\r\n\r\n", headers.join("\r\n"));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

/// A client that has said nothing yet, and whose first message was not read.
pub async fn plain(address: SocketAddr, id: &str) -> TcpStream {
    let headers =
        ["upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg=="];
    raw(address, &format!("/ws?clientId={id}"), &headers).await.1
}

/// A preview of this size, with a number in it.
pub fn preview(n: u32, size: usize) -> Message {
    let mut bytes = vec![0; size.max(12)];
    bytes[..8].copy_from_slice(b"\0\0\0\x01\0\0\0\x01");
    bytes[8..12].copy_from_slice(&n.to_be_bytes());
    Message::Binary(bytes.into())
}
