//! No client has all of what there is only so much of. Clients are addresses of loopback here.
use crate::client::{HANDSHAKE, read_all, read_head};
use crate::harness::{Gateway, wait, with};
use crate::standin::StandIn;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// "secret" and "another", as sha256sum has them.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const ANOTHER: &str = "ae448ac86c4e8e4dec645729708ef41873ae79c6dff84eff73360989487f08e5";

async fn connect(client: u8, gateway: &Gateway) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("127.0.0.{client}:0").parse().unwrap()).unwrap();
    socket.connect(gateway.address).await.unwrap()
}

/// Begun, and not ended.
async fn begin(client: u8, gateway: &Gateway, path: &str, headers: &str) -> TcpStream {
    let mut stream = connect(client, gateway).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The status and the whole answer.
async fn ask(client: u8, gateway: &Gateway, path: &str, headers: &str) -> (u16, String) {
    let mut stream = begin(client, gateway, path, &format!("connection: close\r\n{headers}")).await;
    let answer = read_all(&mut stream).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{client} {path}: {answer:?}")), answer)
}

async fn slow(client: u8, gateway: &Gateway, headers: &str) -> TcpStream {
    let before = gateway.status().await.targets[0].requests;
    let stream = begin(client, gateway, "/test/slow?ms=60000", headers).await;
    wait("it to be open", || async { gateway.status().await.targets[0].requests > before }).await;
    stream
}

#[tokio::test]
async fn idle_connections_of_one_client_keep_nobody_out() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let mut idle = Vec::new();
    for _ in 0..4_200 {
        idle.push(connect(1, &gateway).await);
    }
    for client in [2, 1] {
        assert_eq!(ask(client, &gateway, "/queue", "").await.0, 200);
        assert_eq!(ask(client, &gateway, "/-/health", "").await.0, 200);
    }
    // Those that were idle longest have gone.
    assert_eq!(read_all(&mut idle[0]).await, "");
    let last = idle.last_mut().unwrap();
    last.write_all(b"GET /queue HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_all(last).await.starts_with("HTTP/1.1 200 "));
    assert!(gateway.peak() < 64 << 10, "{} KiB", gateway.peak());
}

#[tokio::test]
async fn when_all_are_taken_the_idle_go_first() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "limits": { "connections": 6 } })).await;
    let mut idle = vec![connect(2, &gateway).await];
    for _ in 0..3 {
        idle.push(connect(1, &gateway).await);
    }
    let _busy = (slow(3, &gateway, "").await, slow(3, &gateway, "").await);
    // Full: a new client has the place of the one with the most idle ones, not that of the longest idle.
    assert_eq!(ask(4, &gateway, "/queue", "").await.0, 200);
    assert_eq!(read_all(&mut idle[1]).await, "");
    idle[0].write_all(b"GET /queue HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = read_all(&mut idle[0]).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_full_service_still_says_how_it_is() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "limits": { "connections": 3 } })).await;
    let mut busy = vec![slow(1, &gateway, "").await, slow(1, &gateway, "").await];
    // A WebSocket is a connection too.
    busy.push(begin(1, &gateway, "/ws?clientId=a", HANDSHAKE).await);
    assert!(read_head(&mut busy[2]).await.starts_with("HTTP/1.1 101 "));
    let (status, answer) = ask(2, &gateway, "/queue", "").await;
    assert_eq!(status, 503);
    assert!(answer.contains("too-many-connections") && answer.contains("3 connections are open already"));
    assert!(answer.contains("retry-after: 1\r\n") && answer.contains("connection: close\r\n"), "{answer}");
    // Nor does it help to take the places that are kept for that.
    let mut idle = Vec::new();
    for n in 0..400 {
        idle.push(connect(10 + (n % 50) as u8, &gateway).await);
    }
    for client in [2, 1, 10] {
        assert_eq!(ask(client, &gateway, "/-/health", "").await.0, 200);
        assert_eq!(ask(client, &gateway, "/-/instances", "").await.0, 200);
        assert_eq!(ask(client, &gateway, "/queue", "").await.0, 503);
    }
    // They are not for staying.
    wait("the idle ones to end", || async { idle[399].try_read(&mut [0]).is_ok_and(|n| n == 0) }).await;
    busy.pop();
    wait("its place to be free", || async { ask(2, &gateway, "/queue", "").await.0 == 200 }).await;
    let answer = crate::client::get(gateway.metrics, "/metrics").await;
    assert!(answer.text().contains("errors_total{kind=\"too-many-connections\"} "));
}

#[tokio::test]
async fn a_client_has_a_share_of_the_connections() {
    let instance = StandIn::start(0, 7).await;
    let change = json!({ "limits": { "connections": 100, "client_connections": 2 } });
    let gateway = Gateway::serving(&[&instance], change).await;
    let mut busy = vec![slow(1, &gateway, "").await, slow(1, &gateway, "").await];
    let (status, answer) = ask(1, &gateway, "/queue", "").await;
    assert_eq!(status, 503);
    assert!(answer.contains("127.0.0.1 has 2 connections open") && answer.contains("connections-per-client"));
    assert_eq!(ask(1, &gateway, "/-/health", "").await.0, 200);
    assert_eq!(ask(2, &gateway, "/queue", "").await.0, 200);
    busy.pop();
    wait("its place to be free", || async { ask(1, &gateway, "/queue", "").await.0 == 200 }).await;
}

#[tokio::test]
async fn one_client_does_not_fill_the_hold() {
    let gateway = Gateway::start(with(json!({ "limits": { "hold_ms": 20_000 } }))).await;
    let mut waiting = Vec::new();
    for _ in 0..256 {
        waiting.push(begin(1, &gateway, "/queue", "connection: close\r\n").await);
    }
    let mut refused = 0;
    for stream in &mut waiting[64..] {
        let answer = read_all(stream).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("waiting-per-client"), "{answer}");
        refused += 1;
    }
    assert_eq!((refused, gateway.status().await.held), (192, 64));
    let mut other = begin(2, &gateway, "/queue", "connection: close\r\n").await;
    wait("the other's to be held", || async { gateway.status().await.held == 65 }).await;
    let instance = StandIn::start(0, 7).await;
    gateway.set(&[&instance]).await;
    assert!(read_all(&mut other).await.starts_with("HTTP/1.1 200 "));
    assert!(read_all(&mut waiting[0]).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(gateway.status().await.held, 0);
}

#[tokio::test]
async fn a_key_has_a_share_where_there_are_several() {
    let instance = StandIn::start(0, 7).await;
    let change = json!({ "api_keys": [SECRET, ANOTHER], "limits": { "key_requests": 1 } });
    let gateway = Gateway::serving(&[&instance], change).await;
    let (one, other) = ("x-api-key: secret\r\n", "x-api-key: another\r\n");
    let busy = slow(1, &gateway, one).await;
    let (status, answer) = ask(2, &gateway, "/queue", one).await;
    assert!(status == 429 && answer.contains("too-many-requests") && answer.contains("requests-per-key"));
    assert_eq!(ask(1, &gateway, "/queue", other).await.0, 200);
    drop(busy);
    wait("its place to be free", || async { ask(2, &gateway, "/queue", one).await.0 == 200 }).await;
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_have_shares_of_their_own() {
    let instance = StandIn::start(0, 7).await;
    let change = json!({
        "callers": { "trusted_proxies": ["127.0.0.1"] },
        "limits": { "client_connections": 2, "client_held": 2 },
    });
    let gateway = Gateway::serving(&[&instance], change).await;
    let (one, other) = ("x-forwarded-for: 9.9.9.9\r\n", "x-forwarded-for: 8.8.8.8\r\n");
    let _busy = (slow(1, &gateway, one).await, slow(1, &gateway, one).await);
    let (status, answer) = ask(1, &gateway, "/queue", one).await;
    assert!(status == 429 && answer.contains("2 requests of 9.9.9.9 are open already"), "{answer}");
    assert_eq!(ask(1, &gateway, "/queue", other).await.0, 200);
    // Nobody believes the same of another peer.
    assert_eq!(ask(2, &gateway, "/queue", one).await.0, 200);
}

#[tokio::test]
async fn wrong_keys_are_answered_later_and_logged_together() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "api_keys": [SECRET] })).await;
    let right = "x-api-key: secret\r\n";
    assert_eq!(ask(3, &gateway, "/queue", right).await.0, 200);
    for client in [1, 3] {
        for n in 0..100 {
            let (status, answer) = ask(client, &gateway, "/queue", &format!("x-api-key: guess{n}\r\n")).await;
            assert_eq!(status, if n < 20 { 401 } else { 429 }, "{n}: {answer}");
            assert_eq!(answer.contains("retry-after: "), status == 429, "{answer}");
            assert_eq!(answer.contains("too-many-wrong-keys"), status == 429, "{answer}");
        }
    }
    // Whether the next guess is right is not told; who was right from there before is not locked out.
    assert_eq!(ask(1, &gateway, "/queue", right).await.0, 429);
    assert_eq!(ask(3, &gateway, "/queue", right).await.0, 200);
    assert_eq!(ask(2, &gateway, "/queue", right).await.0, 200);
    assert_eq!(ask(1, &gateway, "/-/health", "").await.0, 200);
    // A program that goes on with an old key is no guesser.
    for n in 0..30 {
        let status = ask(4, &gateway, "/queue", "authorization: Bearer old\r\n").await.0;
        assert_eq!(status, if n < 20 { 401 } else { 429 });
    }
    assert_eq!(ask(4, &gateway, "/queue", right).await.0, 200);
    let log = gateway.log_with("client=127.0.0.4 method=GET path=/queue status=200").await;
    assert_eq!(log.matches("status=401").count(), 60);
    assert_eq!(log.matches("status=429").count(), 0);
    assert!(!log.contains("guess"));
}
