//! What passes: methods, headers, bodies of every kind, both ways.
use crate::client::{Connection, full, get, get_with, post, request, send, talk, zeros};
use crate::harness::{Gateway, wait};
use crate::standin::{StandIn, slowly};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Frame;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn one() -> (StandIn, Gateway) {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    (instance, gateway)
}

#[tokio::test]
async fn comfyui_through_the_gateway() {
    let (instance, gateway) = one().await;
    let answer = post(gateway.address, "/prompt", &json!({ "prompt": {}, "client_id": "c" })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.instance(), "s0-g7");
    let id = answer.json()["prompt_id"].as_str().unwrap().to_string();
    let history = get(gateway.address, &format!("/history/{id}")).await;
    assert_eq!(history.json()[&id]["client_id"], "c");
    assert_eq!(get(gateway.address, "/api/queue").await.json()["queue_running"], json!([]));
    let seen = ["POST /prompt".to_string(), format!("GET /history/{id}"), "GET /api/queue".to_string()];
    assert_eq!(instance.state.seen(), seen);
    let status = gateway.status().await.targets;
    assert_eq!((status[0].served, status[0].failed, status[0].requests), (3, 0, 0));
}

#[tokio::test]
async fn headers_on_the_way_to_the_instance() {
    let (_instance, gateway) = one().await;
    let headers = [
        ("host", "localhost:8188"),
        ("connection", "keep-alive, x-private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip"),
        ("cookie", "a=b"),
        ("authorization", "Bearer of-the-instance"),
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "elsewhere.example"),
        ("x-real-ip", "9.9.9.9"),
        ("forwarded", "for=9.9.9.9"),
    ];
    let answer = get_with(gateway.address, "/test/headers?x=%20y", &headers).await;
    let seen = answer.json()["headers"].clone();
    let expected = json!({
        "host": ["localhost:8188"], "cookie": ["a=b"], "authorization": ["Bearer of-the-instance"],
        "x-forwarded-for": ["127.0.0.1"], "x-forwarded-proto": ["http"],
        "x-forwarded-host": ["localhost:8188"],
    });
    assert_eq!(seen, expected);
    assert_eq!(answer.json()["version"], "HTTP/1.1");
}

#[tokio::test]
async fn http_1_0_and_absolute_targets() {
    let (_instance, gateway) = one().await;
    let answer = talk(gateway.address, b"GET /test/headers HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains(r#""version":"HTTP/1.1""#) && answer.contains(r#""host":["localhost"]"#),
        "{answer}"
    );
    let absolute =
        b"GET http://other.localhost/test/headers?q HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = talk(gateway.address, absolute).await;
    assert!(answer.contains(r#""host":["other.localhost"]"#), "{answer}");
}

#[tokio::test]
async fn statuses_and_methods_without_a_body() {
    let (_instance, gateway) = one().await;
    let mut connection = Connection::open(gateway.address).await.unwrap();
    for status in [200, 204, 304, 400, 404, 500, 503] {
        let path = format!("/test/status/{status}");
        let answer = connection.send(request("GET", &path, &[], full(""))).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.text(), if matches!(status, 204 | 304) { "" } else { "text" });
        assert_eq!(answer.header("etag"), "\"x\"");
        let answer = connection.send(request("HEAD", &path, &[], full(""))).await.unwrap();
        assert_eq!((answer.status, answer.text()), (status, ""));
        let length = if matches!(status, 204 | 304) { "" } else { "4" };
        assert_eq!(answer.header("content-length"), length, "{status}");
    }
    for method in ["OPTIONS", "DELETE", "PATCH", "PROPFIND"] {
        let answer = connection.send(request(method, "/test/x", &[], full(""))).await.unwrap();
        assert_eq!(answer.text(), "s0-g7 /test/x");
    }
}

#[tokio::test]
async fn an_answer_comes_as_the_instance_sends_it() {
    let (_instance, gateway) = one().await;
    let mut connection = Connection::open(gateway.address).await.unwrap();
    let response = connection.stream(request("GET", "/test/stream?ms=150", &[], full(""))).await.unwrap();
    assert_eq!(response.headers()["transfer-encoding"], "chunked");
    let mut body = response.into_body();
    for n in 0..3 {
        // One by one: each is here before the next is sent.
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("part {n}\n"));
        if n < 2 {
            assert_eq!(gateway.status().await.targets[0].requests, 1);
        }
    }
    assert!(body.frame().await.is_none());
    wait("the request to end", || async { gateway.status().await.targets[0].requests == 0 }).await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (_instance, gateway) = one().await;
    let mut connection = Connection::open(gateway.address).await.unwrap();
    let asked = request("GET", "/test/trailers", &[("te", "trailers"), ("connection", "te")], full(""));
    let body = connection.stream(asked).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "42");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let parts = vec![Frame::data(Bytes::from("abc")), Frame::trailers(trailers)];
    let body = slowly(parts, Duration::ZERO);
    let answer = connection.send(request("POST", "/test/sink", &[("trailer", "x-sum")], body)).await.unwrap();
    assert_eq!(answer.json(), json!({ "bytes": 3, "trailers": { "x-sum": ["7"] } }));
}

#[tokio::test]
async fn uploads_of_known_and_unknown_length() {
    let (_instance, gateway) = one().await;
    let answer = send(gateway.address, request("POST", "/test/sink", &[], full(vec![1; 300_000]))).await;
    assert_eq!(answer.json()["bytes"], 300_000);
    let answer = send(gateway.address, request("POST", "/test/sink", &[], zeros(3_000_000))).await;
    assert_eq!(answer.json()["bytes"], 3_000_000);
    let parts = (0..4).map(|_| Frame::data(Bytes::from("part"))).collect();
    let body = slowly(parts, Duration::from_millis(20));
    let answer = send(gateway.address, request("PUT", "/test/echo", &[], body)).await;
    assert_eq!(answer.text(), "partpartpartpart");
    // A body that begins before the answer and ends after it.
    let parts = (0..3).map(|_| Frame::data(Bytes::from(vec![b'x'; 200_000]))).collect();
    let answer =
        send(gateway.address, request("POST", "/test/echo", &[], slowly(parts, Duration::from_millis(30))))
            .await;
    assert_eq!(answer.body.len(), 600_000);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue() {
    let (instance, gateway) = one().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /test/sink HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let go_on = crate::client::read_head(&mut stream).await;
    assert_eq!(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let answer = crate::client::read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(r#"{"bytes":5,"trailers":null}"#));
    assert_eq!(instance.state.received.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn many_requests_on_one_connection_and_pipelined_ones() {
    let (_instance, gateway) = one().await;
    let mut connection = Connection::open(gateway.address).await.unwrap();
    for n in 0..200 {
        let path = format!("/test/{n}");
        let answer = connection.send(request("GET", &path, &[], full(""))).await.unwrap();
        assert_eq!(answer.text(), format!("s0-g7 {path}"));
    }
    let two =
        "GET /test/a HTTP/1.1\r\nhost: x\r\n\r\nGET /test/b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = talk(gateway.address, two.as_bytes()).await;
    let (a, b) = (answers.find("s0-g7 /test/a").unwrap(), answers.find("s0-g7 /test/b").unwrap());
    assert!(a < b);
}

/// A connection without a request is put to rest after a second: nothing may be lost by that.
#[tokio::test]
async fn connections_that_rested_go_on() {
    let (_instance, gateway) = one().await;
    let mut fresh = TcpStream::connect(gateway.address).await.unwrap();
    let mut kept = Connection::open(gateway.address).await.unwrap();
    kept.send(request("GET", "/queue", &[], full(""))).await.unwrap();
    // A request, and the start of the next in the same piece.
    let mut half = TcpStream::connect(gateway.address).await.unwrap();
    half.write_all(b"GET /test/a HTTP/1.1\r\nhost: x\r\n\r\nGET /test/b HT").await.unwrap();
    // An answer that its client does not read.
    let mut unread = TcpStream::connect(gateway.address).await.unwrap();
    unread
        .write_all(b"GET /test/big?bytes=30000000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(kept.send(request("GET", "/queue", &[], full(""))).await.unwrap().status, 200);
    fresh.write_all(b"GET /test/c HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(crate::client::read_all(&mut fresh).await.ends_with("s0-g7 /test/c"));
    half.write_all(b"TP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(crate::client::read_all(&mut half).await.ends_with("s0-g7 /test/b"));
    assert!(crate::client::read_all(&mut unread).await.len() > 30_000_000);
}

#[tokio::test]
async fn an_answer_before_the_upload_is_over() {
    let (_instance, gateway) = one().await;
    for _ in 0..5 {
        let answer = send(gateway.address, request("POST", "/test/early", &[], zeros(200_000_000))).await;
        assert_eq!((answer.status, answer.text()), (403, "not this one"));
        // It is not read to its end, so nothing can follow.
        assert_eq!(answer.header("connection"), "close");
    }
}

#[tokio::test]
async fn large_bodies_never_lie_in_memory() {
    let (instance, gateway) = one().await;
    let size: u64 = 256 << 20;
    let answer = send(gateway.address, request("POST", "/test/sink", &[], zeros(size))).await;
    assert_eq!(answer.json()["bytes"], size);
    let mut connection = Connection::open(gateway.address).await.unwrap();
    for chunked in ["", "&chunked=1"] {
        let path = format!("/test/big?bytes={size}{chunked}");
        let mut body = connection.stream(request("GET", &path, &[], full(""))).await.unwrap().into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.unwrap().data_ref().map_or(0, |d| d.len() as u64);
        }
        assert_eq!(bytes, size);
    }
    // A client that does not read, and an instance that reads slowly: both sides are held back.
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    idle.write_all(format!("GET /test/big?bytes={size} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!("POST /test/sink?ms=100 HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    let before = instance.state.received.load(Ordering::SeqCst);
    let chunk = vec![0; 1 << 20];
    let sent = tokio::time::timeout(Duration::from_millis(1500), async {
        loop {
            slow.write_all(&chunk).await.unwrap();
        }
    });
    assert!(sent.await.is_err());
    assert!(instance.state.received.load(Ordering::SeqCst) - before < 16 << 20);
    idle.read_u8().await.unwrap();
    assert!(gateway.peak() < 24 << 10, "{} KiB", gateway.peak());
}
