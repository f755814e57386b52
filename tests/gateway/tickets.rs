//! Keys of pages in browsers, which choose no headers for a WebSocket: tickets and subprotocols.
use crate::client::{Answer, HANDSHAKE, WebSocket, full, get, get_with, read_head, request, send};
use crate::harness::Gateway;
use crate::standin::{StandIn, raw};
use serde_json::json;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;

/// "secret", as sha256sum has it.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const KEY: (&str, &str) = ("authorization", "Bearer secret");
const PAGE: &str = "/stillframe/ticket";

async fn ask_for_one(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    send(gateway.address, request("POST", PAGE, headers, full(""))).await
}

async fn ticket(gateway: &Gateway) -> String {
    let answer = ask_for_one(gateway, &[KEY]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{answer:?}");
    assert_eq!(answer.json()["expires"], 30);
    answer.json()["ticket"].as_str().unwrap().to_string()
}

async fn refused(gateway: &Gateway, path: &str, headers: &str) -> String {
    WebSocket::open_with(gateway.address, path, headers).await.err().unwrap().to_string()
}

#[tokio::test]
async fn a_ticket_lets_one_request_in() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "api_keys": [SECRET] })).await;
    assert_eq!(ask_for_one(&gateway, &[]).await.status, 401);
    assert_eq!(get_with(gateway.address, PAGE, &[KEY]).await.error().1, "bad-request");
    let site = [KEY, ("host", "localhost"), ("origin", "https://evil.example")];
    assert_eq!(ask_for_one(&gateway, &site).await.error().1, "cross-site");
    // A WebSocket, which the instance sees without it.
    let one = ticket(&gateway).await;
    let path = format!("/ws?clientId=a&ticket={one}&b=c");
    let socket = WebSocket::open(gateway.address, &path).await.unwrap();
    assert!(refused(&gateway, &path, "").await.starts_with("HTTP/1.1 401 "));
    // A picture; a ticket changes nothing.
    let two = ticket(&gateway).await;
    let path = format!("/queue?ticket={two}");
    assert_eq!(send(gateway.address, request("POST", &path, &[], full("{}"))).await.status, 401);
    assert_eq!(get(gateway.address, &path).await.status, 200);
    assert_eq!(get(gateway.address, &path).await.status, 401);
    assert_eq!(instance.state.seen(), ["GET /ws?clientId=a&b=c", "GET /queue"]);
    // A page of another site has none, and could not use one.
    let three = ticket(&gateway).await;
    let path = format!("/ws?ticket={three}");
    let foreign = refused(&gateway, &path, "origin: https://evil.example\r\n").await;
    assert!(foreign.starts_with("HTTP/1.1 403 "), "{foreign}");
    socket.close().await.unwrap();
    // A key that was taken back lets nobody in by its tickets.
    gateway.change_settings(&json!({ "api_keys": ["0".repeat(64)] }));
    gateway.ask(&stillframe::protocol::control::Request::Reload).await;
    assert!(refused(&gateway, &path, "").await.starts_with("HTTP/1.1 401 "));
    let log = gateway.log_with("path=/ws status=401").await;
    assert!([one, two, three].iter().all(|ticket| !log.contains(ticket)));
}

/// Any page may have its visitor's browser ask for a picture by an address.
#[tokio::test]
async fn an_unknown_ticket_is_no_guess_at_a_key() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "api_keys": [SECRET] })).await;
    for n in 0..60 {
        let answer = get(gateway.address, &format!("/view?ticket=made-up-{n}")).await;
        assert_eq!(answer.status, 401, "{n}: {answer:?}");
    }
    assert_eq!(get_with(gateway.address, "/queue", &[KEY]).await.status, 200);
}

#[tokio::test]
async fn a_key_among_the_subprotocols() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "api_keys": [SECRET] })).await;
    for (offered, answered) in [
        ("stillframe, stillframe.key.c2VjcmV0", "stillframe"),
        ("stillframe.key.c2VjcmV0", "stillframe.key.c2VjcmV0"),
        ("comfy,stillframe.key.c2VjcmV0", "stillframe.key.c2VjcmV0"),
    ] {
        let headers = format!("sec-websocket-protocol: {offered}\r\n");
        let mut socket = WebSocket::open_with(gateway.address, "/ws?clientId=a", &headers).await.unwrap();
        assert!(socket.head.contains(&format!("sec-websocket-protocol: {answered}\r\n")), "{}", socket.head);
        assert_eq!(socket.instance().await, "s0-g7");
    }
    for offered in ["stillframe.key.d3Jvbmc", "stillframe.key.", "stillframe"] {
        let headers = format!("sec-websocket-protocol: {offered}\r\n");
        let answer = refused(&gateway, "/ws?clientId=a", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{offered}: {answer}");
    }
    // Only a WebSocket's counts, and without any nothing is answered.
    let header = ("sec-websocket-protocol", "stillframe.key.c2VjcmV0");
    assert_eq!(get_with(gateway.address, "/queue", &[header]).await.status, 401);
    let plain =
        WebSocket::open_with(gateway.address, "/ws?clientId=b", "x-api-key: secret\r\n").await.unwrap();
    assert!(!plain.head.contains("sec-websocket-protocol"), "{}", plain.head);
}

#[tokio::test]
async fn an_instance_sees_the_other_subprotocols_and_chooses() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let instance = raw(0, move |mut stream, head| {
        seen.lock().unwrap().push(head);
        async move {
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                           sec-websocket-protocol: b\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({ "api_keys": [SECRET] })).await;
    let mut stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let offered =
        "sec-websocket-protocol: a, stillframe\r\nsec-websocket-protocol: stillframe.key.c2VjcmV0, b\r\n";
    let request = format!("GET /ws HTTP/1.1\r\nhost: x\r\n{HANDSHAKE}{offered}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    assert_eq!(answer.matches("sec-websocket-protocol: b\r\n").count(), 1, "{answer}");
    let head = heads.lock().unwrap().pop().unwrap();
    assert!(head.contains("sec-websocket-protocol: a, b\r\n"), "{head}");
    assert!(!head.contains("c2VjcmV0") && !head.contains("stillframe"), "{head}");
}
