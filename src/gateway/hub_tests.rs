//! The hub over real connections: a listener that answers every request with `Hub::accept`, and clients of another
//! library (`tokio-tungstenite`'s).
use super::*;
use crate::gateway::access::Access;
use crate::gateway::auth::Keys;
use crate::gateway::client::Client;
use crate::gateway::client_socket::ClientSocket;
use crate::gateway::clock;
use crate::gateway::handover::{Hears, ToNew, ToOld, say};
use crate::gateway::hub_accept::Knock;
use crate::gateway::key::key;
use crate::gateway::origin::Names;
use crate::gateway::settings::Active;
use crate::gateway::share::{Source, Who};
use crate::gateway::shared::Gateway;
use crate::gateway::successor::Successor;
use crate::gateway::upgrade;
use crate::protocol::control::{Check, GATEWAY_VERSION, GatewaySettings, Limits};
use crate::sys::descriptors;
use futures_util::{SinkExt, StreamExt};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message as Heard};
use tokio_tungstenite::{WebSocketStream, client_async};

type Peer = WebSocketStream<TcpStream>;

fn gateway() -> Arc<Gateway> {
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
    };
    let names = Names::new(&settings.callers, "host");
    let active = Active { settings, keys: Keys::parse(&[]).unwrap(), names };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Arc::new(Gateway::new("/nowhere".into(), active, listener.into()))
}

/// Answers every request with `Hub::accept`, in the name of the API key that the header `key` names.
async fn served() -> (Arc<Gateway>, SocketAddr) {
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

async fn try_connect(address: SocketAddr, query: &str, of_key: Option<&str>) -> Result<Peer, Error> {
    let mut request = format!("ws://{address}/ws{query}").into_client_request().unwrap();
    if let Some(of_key) = of_key {
        request.headers_mut().insert("key", of_key.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(request, stream).await.map(|(peer, _)| peer)
}

/// Connects, and reads the first message.
async fn connect(address: SocketAddr, id: &str) -> Peer {
    let mut peer = try_connect(address, &format!("?clientId={id}"), None).await.unwrap();
    assert_eq!(json(&mut peer).await["data"]["sid"], id);
    peer
}

async fn heard(peer: &mut Peer) -> Heard {
    let next = tokio::time::timeout(Duration::from_secs(10), peer.next());
    next.await.expect("something comes").expect("it goes on").unwrap()
}

async fn json(peer: &mut Peer) -> Value {
    serde_json::from_str(heard(peer).await.to_text().unwrap()).unwrap()
}

/// Everything that has been sent to it by now.
async fn rest(peer: &mut Peer) -> Vec<Heard> {
    peer.send(Heard::Ping("end".into())).await.unwrap();
    let mut all = Vec::new();
    loop {
        match heard(peer).await {
            Heard::Pong(payload) if payload == "end" => return all,
            other => all.push(other),
        }
    }
}

async fn closed(peer: &mut Peer) -> (u16, String) {
    loop {
        if let Heard::Close(Some(frame)) = heard(peer).await {
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to that");
}

fn client(id: &str) -> ClientRef {
    ClientRef::new(None, id)
}

fn message(kind: &str, n: u64) -> Message {
    Message::json(&json!({"type": kind, "data": {"prompt_id": "p", "n": n}}))
}

#[tokio::test]
async fn a_socket_is_greeted_as_by_comfyui() {
    let (gateway, address) = served().await;
    gateway.hub.set_remaining(7);
    let mut peer = try_connect(address, "?clientId=a%20b", None).await.unwrap();
    let hello = json!({"type": "status",
        "data": {"status": {"exec_info": {"queue_remaining": 7}}, "sid": "a b"}});
    assert_eq!(json(&mut peer).await, hello);
    assert!(gateway.hub.connected(&client("a b")));
    let mut nameless = try_connect(address, "", None).await.unwrap();
    let sid = json(&mut nameless).await["data"]["sid"].as_str().unwrap().to_string();
    assert!(sid.len() == 32 && sid.bytes().all(|b| b.is_ascii_hexdigit()), "{sid}");
    gateway.hub.to_client(&client(&sid), &message("executed", 1));
    assert_eq!(json(&mut nameless).await["data"]["n"], 1);
    assert_eq!(rest(&mut peer).await, []);
    assert_eq!(gateway.hub.count(), 2);
    peer.close(None).await.unwrap();
    until(|| gateway.hub.count() == 1).await;
    assert!(!gateway.hub.connected(&client("a b")));
    let counted = gateway.metrics.own[0].load(Ordering::Relaxed);
    assert_eq!((counted, gateway.metrics.open.load(Ordering::Relaxed)), (2, 1));
}

#[tokio::test]
async fn status_goes_to_all_when_it_changes() {
    let (gateway, address) = served().await;
    let (mut one, mut two) = (connect(address, "one").await, connect(address, "two").await);
    gateway.hub.set_remaining(0);
    gateway.hub.set_remaining(3);
    for peer in [&mut one, &mut two] {
        assert_eq!(json(peer).await["data"]["status"]["exec_info"]["queue_remaining"], 3);
    }
    gateway.hub.set_remaining(3);
    assert_eq!(rest(&mut one).await, []);
    // Where it changes quickly the last one is told in any case.
    (0..100).for_each(|n| gateway.hub.set_remaining(n));
    loop {
        if json(&mut two).await["data"]["status"]["exec_info"]["queue_remaining"] == 99 {
            break;
        }
    }
}

#[tokio::test]
async fn previews_go_out_as_each_socket_knows_them() {
    let (gateway, address) = served().await;
    gateway.hub.set_features(&json!({"supports_preview_metadata": true, "max_upload_size": 5}));
    let (mut new, mut old) = (connect(address, "a").await, connect(address, "a").await);
    // What is no message does not count as the first.
    new.send(Heard::text("{")).await.unwrap();
    new.send(Heard::text(r#"{"type": "feature_flags", "data": {"supports_preview_metadata": true}}"#))
        .await
        .unwrap();
    assert_eq!(
        json(&mut new).await,
        json!({"type": "feature_flags", "data": {"supports_preview_metadata": true, "max_upload_size": 5}})
    );
    // Only the first message counts.
    old.send(Heard::text(r#"{"type": "hello"}"#)).await.unwrap();
    old.send(Heard::text(r#"{"type": "feature_flags", "data": {"supports_preview_metadata": true}}"#))
        .await
        .unwrap();
    assert_eq!(rest(&mut old).await, []);
    let metadata = br#"{"image_type": "image/png"}"#;
    let preview = [b"\0\0\0\x04\0\0\0\x1b".as_slice(), metadata, b"PICTURE"].concat();
    gateway.hub.to_client(&client("a"), &Message::Binary(preview.clone().into()));
    assert_eq!(heard(&mut new).await, Heard::binary(preview));
    assert_eq!(heard(&mut old).await, Heard::binary(&b"\0\0\0\x01\0\0\0\x02PICTURE"[..]));
    let text = &b"\0\0\0\x03\0\0\0\x011hello"[..];
    gateway.hub.to_client(&client("a"), &Message::Binary(text.into()));
    assert_eq!(heard(&mut new).await, Heard::binary(text));
    assert_eq!(heard(&mut old).await, Heard::binary(text));
}

#[tokio::test]
async fn all_sockets_of_a_client_hear_the_same_and_one_that_ends_takes_nothing_with_it() {
    let (gateway, address) = served().await;
    let mut old = connect(address, "a").await;
    let mut new = connect(address, "a").await;
    gateway.hub.to_client(&client("a"), &message("executed", 1));
    assert_eq!(json(&mut old).await["data"]["n"], 1);
    assert_eq!(json(&mut new).await["data"]["n"], 1);
    // ComfyUI would forget the new one now.
    drop(old);
    until(|| gateway.hub.count() == 1).await;
    gateway.hub.to_client(&client("a"), &message("executed", 2));
    assert_eq!(json(&mut new).await["data"]["n"], 2);
}

#[tokio::test]
async fn another_keys_client_of_the_same_id_hears_nothing() {
    let (gateway, address) = served().await;
    let mut mine = try_connect(address, "?clientId=a", Some("mine")).await.unwrap();
    let mut theirs = try_connect(address, "?clientId=a", Some("theirs")).await.unwrap();
    let (me, them) = (ClientRef::new(Some(key("mine")), "a"), ClientRef::new(Some(key("theirs")), "a"));
    gateway.hub.of_job(&me, "p", "execution_start", &message("execution_start", 1));
    gateway.hub.to_client(&them, &message("executed", 2));
    for (peer, n) in [(&mut mine, 1), (&mut theirs, 2)] {
        assert_eq!(json(peer).await["data"]["sid"], "a");
        assert_eq!(json(peer).await["data"]["n"], n);
        assert_eq!(rest(peer).await, []);
    }
    drop(theirs);
    let mut again = try_connect(address, "?clientId=a", Some("theirs")).await.unwrap();
    assert_eq!(rest(&mut again).await.len(), 1);
    assert!(!gateway.hub.connected(&client("a")));
}

#[tokio::test]
async fn who_comes_again_is_told_what_runs() {
    let (gateway, address) = served().await;
    let (hub, me) = (&gateway.hub, client("a"));
    let of_job = |job: &str, kind: &str, n: u64| hub.of_job(&me, job, kind, &message(kind, n));
    of_job("p", "execution_start", 1);
    of_job("p", "execution_cached", 2);
    of_job("p", "progress_state", 3);
    of_job("p", "executing", 4);
    of_job("q", "execution_start", 5);
    of_job("p", "progress_state", 6);
    of_job("p", "progress", 7);
    of_job("p", "executed", 8);
    let told = |all: Vec<Heard>| -> Vec<u64> {
        let number = |heard: &Heard| {
            serde_json::from_str::<Value>(heard.to_text().unwrap()).unwrap()["data"]["n"].as_u64()
        };
        all.iter().map(|heard| number(heard).unwrap()).collect()
    };
    let mut peer = connect(address, "a").await;
    assert_eq!(told(rest(&mut peer).await), [1, 2, 6, 4, 5]);
    // Begun again after its instance ended.
    of_job("p", "execution_start", 9);
    hub.ended(&me, "q");
    assert_eq!(told(rest(&mut peer).await), [9]);
    let mut again = connect(address, "a").await;
    assert_eq!(told(rest(&mut again).await), [9]);
    hub.ended(&me, "p");
    drop((peer, again));
    until(|| hub.count() == 0).await;
    assert!(hub.clients.lock().all.is_empty());
}

#[tokio::test]
async fn a_client_has_so_many_sockets_and_no_more() {
    let (gateway, address) = served().await;
    let mut peers = Vec::new();
    for _ in 0..OF_CLIENT {
        peers.push(connect(address, "a").await);
    }
    let Err(Error::Http(refused)) = try_connect(address, "?clientId=a", None).await else { panic!() };
    assert_eq!(refused.status(), 429);
    connect(address, "b").await;
    drop(peers.pop());
    until(|| gateway.hub.count() < OF_CLIENT + 1).await;
    until(|| !gateway.hub.connected(&client("b"))).await;
    connect(address, "a").await;
}

#[tokio::test]
async fn what_asks_for_no_websocket_is_refused() {
    let (gateway, address) = served().await;
    let good =
        ["upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg=="];
    for (at, bad) in [
        (0, "upgrade: h2c"),
        (1, "sec-websocket-version: 8"),
        (2, "sec-websocket-key: c2hvcnQ="),
        (2, "x: y"),
    ] {
        let mut headers = good;
        headers[at] = bad;
        let answer = asked(address, "/ws", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad}: {answer}");
    }
    let long = format!("/ws?clientId={}", "x".repeat(2_000));
    assert!(asked(address, &long, &good).await.starts_with("HTTP/1.1 400"));
    assert_eq!(gateway.hub.count(), 0);
    // The key that RFC 6455 has as its example.
    let with_example = [good[0], good[1], "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="];
    let answer = asked(address, "/ws", &with_example).await;
    assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 101") && !answer.contains("extensions"), "{answer}");
}

/// The head of an answer.
async fn asked(address: SocketAddr, path: &str, headers: &[&str]) -> String {
    let (head, _) = raw(address, path, headers).await;
    head
}

async fn raw(address: SocketAddr, path: &str, headers: &[&str]) -> (String, TcpStream) {
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
async fn plain(address: SocketAddr, id: &str) -> TcpStream {
    let headers =
        ["upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg=="];
    raw(address, &format!("/ws?clientId={id}"), &headers).await.1
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_hears_why() {
    let (gateway, address) = served().await;
    for (bytes, code) in
        [(&b"\x81\x01x"[..], 1002), (b"\x83\x80\0\0\0\0", 1002), (b"\x81\x81\0\0\0\0\xff", 1007)]
    {
        let mut stream = plain(address, "a").await;
        // What comes behind it does not matter, and does not keep the reason from coming.
        stream.write_all(&[bytes, &[0x55; 5_000]].concat()).await.unwrap();
        let mut all = Vec::new();
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut all)).await;
        let close = all.windows(2).rposition(|two| two[0] == 0x88).unwrap();
        assert_eq!(all[close + 2..close + 4], u16::to_be_bytes(code), "{bytes:x?}");
        drop(stream);
        until(|| gateway.hub.count() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_closes_is_answered() {
    let (gateway, address) = served().await;
    let mut stream = plain(address, "a").await;
    stream.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all.ends_with(b"\x88\x02\x03\xe9"), "{all:x?}");
    // One that goes without a word is forgotten as well.
    let stream = plain(address, "b").await;
    until(|| gateway.hub.connected(&client("b"))).await;
    drop(stream);
    until(|| gateway.hub.count() == 0).await;
}

#[tokio::test]
async fn silent_sockets_are_pinged_and_all_are_told_of_the_end() {
    let (gateway, address) = served().await;
    let mut peer = connect(address, "a").await;
    let now = clock::now();
    gateway.hub.tick(now + 29_000);
    assert_eq!(rest(&mut peer).await, []);
    gateway.hub.tick(now + 60_000);
    gateway.hub.tick(now + 60_001);
    assert!(matches!(heard(&mut peer).await, Heard::Ping(_)));
    assert_eq!(rest(&mut peer).await, []);
    gateway.hub.to_client(&client("a"), &message("executed", 1));
    gateway.end_all();
    assert_eq!(json(&mut peer).await["data"]["n"], 1);
    assert_eq!(closed(&mut peer).await, (1012, "the service restarts".into()));
    assert!(peer.next().await.is_none());
    until(|| gateway.hub.count() == 0).await;
}

/// A preview of this size, with a number in it.
fn preview(n: u32, size: usize) -> Message {
    let mut bytes = vec![0; size.max(12)];
    bytes[..8].copy_from_slice(b"\0\0\0\x01\0\0\0\x01");
    bytes[8..12].copy_from_slice(&n.to_be_bytes());
    Message::Binary(bytes.into())
}

#[tokio::test]
async fn a_slow_reader_loses_previews_and_nothing_else() {
    let (gateway, address) = served().await;
    let (mut slow, mut quick) = (connect(address, "slow").await, connect(address, "quick").await);
    for n in 0..400 {
        for name in ["slow", "quick"] {
            gateway.hub.to_client(&client(name), &preview(n, 100_000));
            if n % 10 == 0 {
                gateway.hub.to_client(&client(name), &message("executed", u64::from(n)));
            }
        }
        let (mut previews, mut texts) = (0, 0);
        while previews == 0 || (n % 10 == 0 && texts == 0) {
            match heard(&mut quick).await {
                Heard::Binary(_) => previews += 1,
                _ => texts += 1,
            }
        }
        assert!(gateway.hub.load.load(Ordering::Relaxed) <= 2 * crate::gateway::hub_queue::BYTES);
    }
    let all = rest(&mut slow).await;
    let previews = all.iter().filter(|heard| heard.is_binary()).count();
    assert!(previews < 390, "{previews} previews");
    let texts: Vec<u64> = all
        .iter()
        .filter_map(|heard| heard.to_text().ok().and_then(|text| serde_json::from_str::<Value>(text).ok()))
        .map(|text| text["data"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!(texts, (0..400).step_by(10).collect::<Vec<u64>>());
    assert_eq!(gateway.hub.load.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn one_that_does_not_read_at_all_has_to_go() {
    let (gateway, address) = served().await;
    let mut slow = connect(address, "slow").await;
    let large = json!({"type": "executed", "data": {"text": "x".repeat(1 << 20)}});
    let before = Instant::now();
    // What the kernel holds comes on top of what we do.
    for _ in 0..64 {
        gateway.hub.to_client(&client("slow"), &Message::json(&large));
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(gateway.hub.load.load(Ordering::Relaxed) <= crate::gateway::hub_queue::BYTES + 64);
    }
    assert_eq!(closed(&mut slow).await, (1013, "the client reads too slowly".into()));
    assert!(before.elapsed() < Duration::from_secs(5));
    // Another never comes to read why: it is ended all the same.
    let never = plain(address, "never").await;
    until(|| gateway.hub.connected(&client("never"))).await;
    for _ in 0..64 {
        gateway.hub.to_client(&client("never"), &Message::json(&large));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until(|| !gateway.hub.connected(&client("never"))).await;
    assert_eq!(gateway.hub.load.load(Ordering::Relaxed), 0);
    drop(never);
}

/// Kibibytes of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// With both ends of each in this process, and other tests beside it.
#[tokio::test]
async fn two_thousand_sockets_take_little_memory() {
    if descriptors::raise() < 5_000 {
        eprintln!("this process may not have as many descriptors");
        return;
    }
    let (gateway, address) = served().await;
    let before = resident();
    let mut peers = Vec::new();
    for n in 0..2_000 {
        peers.push(plain(address, &format!("{n:032x}")).await);
    }
    until(|| gateway.hub.count() == 2_000).await;
    gateway.hub.set_remaining(1);
    let all = client(&format!("{:032x}", 1_999));
    gateway.hub.to_client(&all, &message("executed", 1));
    let mut bytes = vec![0; 1_000];
    let mut last = peers.pop().unwrap();
    let mut seen = Vec::new();
    while !seen.windows(8).any(|eight| eight == b"executed") {
        let n = last.read(&mut bytes).await.unwrap();
        seen.extend_from_slice(&bytes[..n]);
    }
    let taken = resident().saturating_sub(before);
    eprintln!("2000 sockets: {taken} KiB");
    assert!(taken < 60_000, "{taken} KiB");
}

/// Two gateways that are joined as the two processes of an upgrade are.
async fn joined(old: &Arc<Gateway>, new: &Arc<Gateway>) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (hears, mut says) = tokio::net::UnixStream::from_std(ours).unwrap().into_split();
    let mut hears = Hears::new(hears);
    let mut successor = Successor::new(theirs).unwrap();
    say(&mut says, &ToNew::Take { sockets: true }).await.unwrap();
    successor.ready(new).await.unwrap();
    assert!(matches!(hears.next().await, Some(ToOld::Ready { sockets: true })));
    successor.taken(new).await.unwrap();
    assert!(matches!(hears.next().await, Some(ToOld::Taken)));
    let (_, learned) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(upgrade::answer(old.clone(), hears, says, (learned, true)));
}

#[tokio::test]
async fn another_process_goes_on_with_the_sockets() {
    let (old, address) = served().await;
    let (new, _) = served().await;
    let flags = Heard::text(r#"{"type": "feature_flags", "data": {"supports_preview_metadata": true}}"#);
    let mut first = try_connect(address, "?clientId=a", Some("mine")).await.unwrap();
    assert_eq!(json(&mut first).await["data"]["sid"], "a");
    first.send(flags.clone()).await.unwrap();
    assert_eq!(json(&mut first).await["type"], "feature_flags");
    let mut second = connect(address, "b").await;
    let (me, other) = (ClientRef::new(Some(key("mine")), "a"), client("b"));
    old.hub.of_job(&me, "p", "executing", &message("executing", 1));
    // In the middle of a message from a client, and with much that waits for another.
    let mut third = plain(address, "c").await;
    until(|| old.hub.connected(&client("c"))).await;
    third.write_all(b"\x81\xfe\x00\x80\0\0\0\0{").await.unwrap();
    let mut behind = connect(address, "behind").await;
    for n in 0..6 {
        old.hub.to_client(&client("behind"), &preview(n, 1_000_000));
        old.hub.to_client(&client("behind"), &message("executed", u64::from(n)));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(old.hub.load.load(Ordering::Relaxed) > 0);
    joined(&old, &new).await;
    assert!(tokio::time::timeout(Duration::from_millis(20), new.hub.settled()).await.is_err());
    let reading = tokio::spawn(async move {
        let mut texts = Vec::new();
        while texts.len() < 7 {
            if let Heard::Text(text) = heard(&mut behind).await {
                texts.push(serde_json::from_str::<Value>(&text).unwrap()["data"]["n"].as_u64().unwrap());
            }
        }
        (texts, behind)
    });
    tokio::time::timeout(Duration::from_secs(5), new.hub.settled()).await.unwrap();
    assert_eq!((old.hub.count(), new.hub.count()), (0, 4));
    assert_eq!(old.metrics.open.load(Ordering::Relaxed), 0);
    new.hub.to_client(&client("behind"), &message("executed", 6));
    let (texts, _behind) = reading.await.unwrap();
    assert_eq!(texts, [0, 1, 2, 3, 4, 5, 6]);
    // It is the same connection, and what is known of it has come along.
    new.hub.to_client(&me, &message("executed", 2));
    new.hub.to_client(&other, &message("executed", 3));
    let metadata = &b"\0\0\0\x04\0\0\0\x02{}PICTURE"[..];
    new.hub.to_all(&Message::Binary(metadata.into()));
    assert_eq!(
        [json(&mut first).await, json(&mut first).await].map(|text| text["data"]["n"].clone()),
        [1, 2]
    );
    assert_eq!(heard(&mut first).await, Heard::binary(metadata));
    assert_eq!(json(&mut second).await["data"]["n"], 3);
    assert_eq!(heard(&mut second).await, Heard::binary(&b"\0\0\0\x01\0\0\0\x01PICTURE"[..]));
    // The first message of this one has come already, that of the other has not.
    first.send(flags.clone()).await.unwrap();
    second.send(flags).await.unwrap();
    assert_eq!(rest(&mut first).await, []);
    assert_eq!(rest(&mut second).await.len(), 1);
    third.write_all(&[&[b' '; 126][..], b"}", b"\x89\x80\0\0\0\0"].concat()).await.unwrap();
    let mut bytes = vec![0; 4_000];
    let mut seen = Vec::new();
    while !seen.ends_with(b"\x8a\x00") {
        let n = third.read(&mut bytes).await.unwrap();
        assert!(n > 0);
        seen.extend_from_slice(&bytes[..n]);
    }
    // What its client has to know of a running job is known here.
    new.hub.ended(&client("a"), "p");
    assert_eq!(new.hub.clients.lock().all[&me].running.len(), 1);
    drop((first, second, third));
    until(|| new.hub.count() == 1).await;
}

#[tokio::test]
async fn sockets_stay_where_nobody_takes_them() {
    let (old, address) = served().await;
    let mut peer = connect(address, "a").await;
    let (give, given) = tokio::sync::mpsc::unbounded_channel();
    drop(given);
    old.hub.hand_over(give);
    until(|| old.hub.count() == 1).await;
    old.hub.to_client(&client("a"), &message("executed", 1));
    assert_eq!(json(&mut peer).await["data"]["n"], 1);
    old.hub.keep();
    let mut late = connect(address, "a").await;
    old.hub.to_client(&client("a"), &message("executed", 2));
    for peer in [&mut peer, &mut late] {
        assert_eq!(json(peer).await["data"]["n"], 2);
        assert_eq!(rest(peer).await, []);
    }
    // No process was before this one.
    old.hub.settled().await;
}
