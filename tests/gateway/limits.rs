//! Every limit, and what is said when it is reached.
use crate::client::{full, get, read_all, read_head, request, send, talk, zeros};
use crate::harness::{Gateway, wait, with};
use crate::standin::{StandIn, raw, slowly};
use bytes::Bytes;
use hyper::body::Frame;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn limits(limits: serde_json::Value) -> serde_json::Value {
    json!({ "limits": limits })
}

#[tokio::test]
async fn a_body_that_is_too_large() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], limits(json!({ "body": 1000 }))).await;
    let answer = send(gateway.address, request("POST", "/test/sink", &[], full(vec![0; 1000]))).await;
    assert_eq!(answer.status, 200);
    let too_large =
        (413, "body-too-large".to_string(), "the body of a request may have 1000 bytes".to_string());
    // By its length: not a byte of it goes on, and none is asked for.
    let head = "POST /test/sink HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n";
    let answer = talk(gateway.address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
    let answer = send(gateway.address, request("POST", "/test/sink", &[], full(vec![0; 100_000]))).await;
    assert_eq!(answer.error(), too_large);
    assert_eq!(instance.state.seen().len(), 1);
    // By counting. The client still sends while it is told.
    let answer = send(gateway.address, request("POST", "/test/sink", &[], zeros(50_000_000))).await;
    assert_eq!(answer.error(), too_large);
    assert!(instance.state.received.load(Ordering::SeqCst) <= 2000);
    assert_eq!(gateway.status().await.targets[0].failed, 0);
}

#[tokio::test]
async fn a_head_that_does_not_end() {
    let gateway = Gateway::start(with(limits(json!({ "head_ms": 300 })))).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let start = Instant::now();
    // A byte now and then does not help.
    let dripping = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if stream.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), dripping).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
    // Before the first byte the limit of idle connections counts.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    stream.write_all(b"GET /-/health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn heads_that_cannot_be() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let big = format!("GET / HTTP/1.1\r\nhost: x\r\nx-big: {}\r\n\r\n", "a".repeat(100_000));
    for (bytes, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (&big, 431),
    ] {
        let close = bytes.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        let answer = talk(gateway.address, close.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:.60}: {answer}");
    }
    assert!(instance.state.seen().is_empty());
    // With a length and chunks the chunks count (RFC 9112, 6.3), and no second request hides in between.
    let both = "POST /test/sink HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\n\r\nGET /test/hidden HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = talk(gateway.address, both.as_bytes()).await;
    assert!(answer.contains(r#""bytes":3"#), "{answer}");
    assert_eq!(instance.state.seen(), ["POST /test/sink"]);
}

#[tokio::test]
async fn an_instance_that_does_not_answer() {
    let instance = raw(0, |stream, _| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let gateway = Gateway::serving(&[&instance], limits(json!({ "response_ms": 300 }))).await;
    let slow = (504, "instance-slow".to_string(), "s0-g1 did not answer within 300 ms".to_string());
    let start = Instant::now();
    assert_eq!(get(gateway.address, "/queue").await.error(), slow);
    assert!(start.elapsed() >= Duration::from_millis(300));
    // The time counts from the request's end.
    let parts = (0..8).map(|_| Frame::data(Bytes::from("part"))).collect();
    let body = slowly(parts, Duration::from_millis(100));
    assert_eq!(send(gateway.address, request("POST", "/prompt", &[], body)).await.error(), slow);
    assert_eq!(instance.state.seen().len(), 2);
    let status = &gateway.status().await.targets[0];
    assert_eq!((status.requests, status.served, status.failed), (0, 0, 2));
}

#[tokio::test]
async fn an_instance_that_takes_no_connection() {
    // Its backlog is full: the kernel drops further SYNs.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _full: Vec<_> = (0..3)
        .map(|_| {
            let socket = rustix::net::socket_with(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::NONBLOCK,
                None,
            );
            let socket = socket.unwrap();
            let _ = rustix::net::connect(&socket, &address);
            socket
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    takes_none(crate::standin::target(0, 1, address)).await;
}

#[tokio::test]
async fn an_instance_whose_socket_takes_no_connection() {
    // With a backlog of 0 the kernel queues one, and turns away who does not want to wait.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _full = std::os::unix::net::UnixStream::connect(&path).unwrap();
    takes_none(crate::standin::target(0, 1, stillframe::protocol::control::Address::Unix(path))).await;
}

async fn takes_none(target: stillframe::protocol::control::Target) {
    let gateway = Gateway::start(with(json!({
        "limits": { "connect_ms": 300 }, "check": { "interval_ms": 60_000 },
    })))
    .await;
    let table = crate::harness::table(std::slice::from_ref(&target));
    gateway.ask(&stillframe::protocol::control::Request::Set { table: table.clone() }).await;
    let (status, kind, message) = get(gateway.address, "/queue").await.error();
    assert_eq!((status, &*kind), (504, "instance-slow"));
    assert_eq!(message, "s0-g1 did not take a connection within 300 ms");
    // Nothing was sent: another one may have it.
    let other = StandIn::start(1, 1).await;
    gateway
        .ask(&stillframe::protocol::control::Request::Set {
            table: crate::harness::table(&[target, other.target.clone()]),
        })
        .await;
    for _ in 0..3 {
        assert_eq!(
            send(gateway.address, request("POST", "/test/sink", &[], full("x"))).await.instance(),
            "s1-g1"
        );
    }
}

#[tokio::test]
async fn a_client_that_stops_within_its_body() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], limits(json!({ "idle_ms": 300 }))).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"POST /test/sink HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains(r#""kind":"client-slow","message":"nothing of the request's body came for 300 ms""#)
    );
    // The instance did not take it for whole, and is not to blame.
    assert_eq!(gateway.status().await.targets[0].failed, 0);
    let log = gateway.log_with("error=client-slow").await;
    assert!(log.contains("method=POST path=/test/sink status=408"));
}

#[tokio::test]
async fn connections_on_which_nothing_moves() {
    let stalls = raw(0, |mut stream, head| async move {
        let answer: &[u8] = if head.starts_with("GET /half") {
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"
        } else {
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
        };
        stream.write_all(answer).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let gateway =
        Gateway::serving(&[&stalls], limits(json!({ "idle_ms": 300, "response_ms": 60_000 }))).await;
    // Between two requests.
    let start = Instant::now();
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("ok"));
    assert!(start.elapsed() >= Duration::from_millis(300));
    // Within an answer: it ends early and visibly.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"GET /half HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("abc"));
    gateway.log_with("path=/half status=200 bytes=3").await;
    gateway.log_with("error=instance-slow").await;
    // A client that does not read its answer.
    let big = StandIn::start(1, 1).await;
    gateway.set(&[&big]).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"GET /test/big?bytes=100000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    wait("the answer to be given up", || async {
        gateway.log().contains("path=/test/big") && gateway.log().contains("error=client-gone")
    })
    .await;
    assert_eq!(gateway.status().await.targets[0].requests, 0);
    drop(stream);
}

#[tokio::test]
async fn requests_wait_for_an_instance() {
    let gateway = Gateway::start(with(limits(json!({ "hold_ms": 10_000, "held": 2 })))).await;
    let address = gateway.address;
    let waiting: Vec<_> = (0..2)
        .map(|n| {
            tokio::spawn(async move {
                send(address, request("POST", &format!("/test/{n}"), &[], full("x"))).await
            })
        })
        .collect();
    wait("two to be held", || async { gateway.status().await.held == 2 }).await;
    let answer = get(address, "/queue").await;
    assert_eq!(
        answer.error(),
        (503, "too-many-waiting".into(), "2 requests wait for an instance already".into())
    );
    assert_eq!(answer.header("retry-after"), "1");
    let instance = StandIn::start(0, 7).await;
    gateway.set(&[&instance]).await;
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().instance(), "s0-g7");
    }
    assert_eq!(gateway.status().await.held, 0);
}

#[tokio::test]
async fn a_request_does_not_wait_for_ever() {
    let gateway = Gateway::start(with(limits(json!({ "hold_ms": 300 })))).await;
    let start = Instant::now();
    let answer = get(gateway.address, "/queue").await;
    assert!(start.elapsed() >= Duration::from_millis(300));
    let why = "no instance was ready within 300 ms: no instance is in the table";
    assert_eq!(answer.error(), (503, "no-instance".into(), why.into()));
    assert_eq!(answer.header("retry-after"), "5");
    // One that goes away does not hold its place.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    gateway.change_settings(&limits(json!({ "hold_ms": 20_000 })));
    gateway.ask(&stillframe::protocol::control::Request::Reload).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    wait("it to be held", || async { gateway.status().await.held == 1 }).await;
    drop(stream);
    wait("its place to be free", || async { gateway.status().await.held == 0 }).await;
    gateway.log_with("path=/ status=499").await;
}
