//! Instances at their worst.
use crate::client::{Connection, full, get, post, request, send, talk};
use crate::harness::{Gateway, free_port, wait};
use crate::standin::{StandIn, raw};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_refused_connection_goes_to_another_at_once() {
    let mut first = StandIn::start(0, 1).await;
    let second = StandIn::start(1, 1).await;
    let gateway = Gateway::serving(&[&first, &second], json!({ "check": { "interval_ms": 60_000 } })).await;
    first.stop().await;
    for _ in 0..4 {
        let answer = post(gateway.address, "/prompt", &json!({ "prompt": {} })).await;
        assert_eq!((answer.status, answer.instance()), (200, "s1-g1"));
    }
    let targets = gateway.status().await.targets;
    assert_eq!((targets[0].healthy, targets[0].reason.as_deref()), (false, Some("connection refused")));
    assert!(targets[1].healthy);
    // It is looked at every 200 ms until it is back.
    let _first = StandIn::at(0, 1, &first.address()).await;
    wait("it to be well again", || async { gateway.status().await.targets[0].healthy }).await;
    gateway.log_with("<4>s0-g1 has no new requests until it is well again: connection refused").await;
    gateway.log_with("<6>s0-g1 is well").await;
}

#[tokio::test]
async fn with_nowhere_to_go_a_request_waits_for_the_restart() {
    let mut instance = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    instance.stop().await;
    let address = gateway.address;
    let waiting = tokio::spawn(async move { post(address, "/prompt", &json!({ "prompt": {} })).await });
    wait("it to be held", || async { gateway.status().await.held == 1 }).await;
    let again = StandIn::at(0, 1, &instance.address()).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(again.state.seen(), ["POST /prompt"]);
}

#[tokio::test]
async fn bad_answers_to_checks_count_in_a_row() {
    let instance = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&instance], json!({ "limits": { "hold_ms": 100 } })).await;
    instance.state.ill.store(true, Ordering::SeqCst);
    wait("it to be found ill", || async { !gateway.status().await.targets[0].healthy }).await;
    assert_eq!(gateway.status().await.targets[0].reason.as_deref(), Some("status 500"));
    let why = "no instance was ready within 100 ms: s0-g1: status 500";
    assert_eq!(get(gateway.address, "/queue").await.error(), (503, "no-instance".into(), why.into()));
    assert_eq!(get(gateway.address, "/-/ready").await.error().1, "no-instance");
    instance.state.ill.store(false, Ordering::SeqCst);
    wait("it to be well", || async { gateway.status().await.targets[0].healthy }).await;
    assert_eq!(get(gateway.address, "/queue").await.status, 200);
}

#[tokio::test]
async fn an_instance_that_hangs_is_found_out() {
    let answers = Arc::new(AtomicU64::new(0));
    let counted = answers.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = crate::standin::target(0, 1, listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            open.push(listener.accept().await.unwrap());
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let change = json!({ "check": { "timeout_ms": 100, "failures": 2, "interval_ms": 20 } });
    let gateway = Gateway::start(crate::harness::with(change)).await;
    let table = crate::harness::table(&[target]);
    gateway.ask(&stillframe::protocol::control::Request::Set { table }).await;
    wait("it to be found out", || async { !gateway.status().await.targets[0].healthy }).await;
    assert_eq!(gateway.status().await.targets[0].reason.as_deref(), Some("no answer within 100 ms"));
    assert!(answers.load(Ordering::SeqCst) >= 2);
}

/// What may act twice is sent once, whatever happens to it.
#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let dies = raw(0, |mut stream, _| async move {
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
    })
    .await;
    let other = StandIn::start(1, 1).await;
    let gateway = Gateway::serving(&[&dies, &other], json!({})).await;
    let mut ended = 0;
    for _ in 0..6 {
        let answer = send(gateway.address, request("POST", "/test/sink", &[], full("hello"))).await;
        if answer.status == 200 {
            assert_eq!(answer.instance(), "s1-g1");
            continue;
        }
        ended += 1;
        let (status, kind, message) = answer.error();
        assert_eq!((status, &*kind), (502, "instance-ended"));
        assert!(message.starts_with("s0-g1 ended the connection before it answered"), "{message}");
    }
    assert_eq!(dies.state.seen().len(), ended);
    assert_eq!(other.state.seen().len(), 6 - ended);
    assert!(ended > 0);
    assert_eq!(gateway.status().await.targets[0].failed, ended as u64);
}

/// An instance that closes a connection which it kept.
#[tokio::test]
async fn a_kept_connection_that_has_ended_fails_nothing() {
    let connections = Arc::new(AtomicU64::new(0));
    let counted = connections.clone();
    let instance = raw(0, move |mut stream, head| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let answer: &[u8] = match head.split(' ').next() {
                Some("HEAD") => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
                Some("POST") => {
                    let mut body = [0; 1];
                    stream.read_exact(&mut body).await.unwrap();
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
                }
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            };
            stream.write_all(answer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({ "check": { "interval_ms": 60_000 } })).await;
    for n in 0..30 {
        let (method, body) = [("HEAD", ""), ("POST", "x"), ("GET", "")][n % 3];
        let answer = send(gateway.address, request(method, "/a", &[], full(body))).await;
        assert_eq!(answer.status, 200, "{method}, request {n}");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let seen = instance.state.seen();
    assert_eq!(seen.iter().filter(|line| line.starts_with("POST")).count(), 10);
    assert_eq!((seen.len(), connections.load(Ordering::SeqCst)), (30, 30));
    assert_eq!(gateway.status().await.targets[0].failed, 0);
}

/// One that takes the next request on a kept connection and dies of it: the race that every proxy has.
#[tokio::test]
async fn what_is_lost_on_a_kept_connection_is_sent_again_only_if_that_is_safe() {
    let instance = raw(0, |mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        crate::client::read_head(&mut stream).await;
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({ "check": { "interval_ms": 60_000 } })).await;
    for _ in 0..5 {
        assert_eq!(get(gateway.address, "/a").await.status, 200);
    }
    let asked = request("DELETE", "/a", &[], full(""));
    assert_eq!(send(gateway.address, asked).await.error().1, "instance-ended");
    // It was on a kept connection, so the instance saw it there and nowhere else.
    assert_eq!(instance.state.seen().iter().filter(|line| line.starts_with("DELETE")).count(), 0);
    let asked = request("DELETE", "/a", &[], full(""));
    assert_eq!(send(gateway.address, asked).await.status, 200);
}

#[tokio::test]
async fn a_get_is_tried_once_more_and_not_for_ever() {
    let instance = raw(0, |_, _| async {}).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    assert_eq!(get(gateway.address, "/queue").await.error().1, "instance-ended");
    assert!(instance.state.seen().len() <= 2);
}

#[tokio::test]
async fn answers_that_are_not_http() {
    let instance = raw(0, |mut stream, head| async move {
        let answer: &[u8] = match head.split(' ').nth(1) {
            Some("/garbage") => b"\x00\x01\x02 what is this\r\n\r\n",
            Some("/head") => b"HTTP/1.1 200 OK\r\ncontent-len",
            Some("/length") => b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
            Some("/unasked") => {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
            }
            _ => b"",
        };
        let _ = stream.write_all(answer).await;
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    for (path, kind) in [
        ("/garbage", "instance-garbled"),
        ("/head", "instance-ended"),
        ("/length", "instance-garbled"),
        ("/unasked", "instance-garbled"),
        ("/nothing", "instance-ended"),
    ] {
        let error = get(gateway.address, path).await.error();
        assert_eq!((error.0, &*error.1), (502, kind), "{path}: {}", error.2);
    }
    assert_eq!(gateway.status().await.targets[0].failed, 5);
}

#[tokio::test]
async fn half_an_answer_is_not_taken_for_whole() {
    let instance = raw(0, |mut stream, head| async move {
        let answer: &[u8] = match head.split(' ').nth(1) {
            Some("/length") => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            Some("/chunked") => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            _ => b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        };
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    for path in ["/length", "/chunked"] {
        let mut connection = Connection::open(gateway.address).await.unwrap();
        assert!(connection.send(request("GET", path, &[], full(""))).await.is_err(), "{path}");
        gateway.log_with(&format!("path={path} status=200 bytes=3")).await;
    }
    let raw = talk(gateway.address, b"GET /chunked HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!raw.ends_with("0\r\n\r\n"), "{raw}");
    // One of HTTP/1.0 ends by closing, and that is its end.
    let answer = get(gateway.address, "/old").await;
    assert_eq!((answer.status, answer.text()), (200, "until the end"));
    assert_eq!(gateway.status().await.targets[0].failed, 3);
    gateway.log_with("error=instance-ended").await;
}

#[tokio::test]
async fn an_instance_that_dies_within_an_upload() {
    let instance = raw(0, |mut stream, _| async move {
        let mut some = vec![0; 100_000];
        stream.read_exact(&mut some).await.unwrap();
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let body = crate::client::zeros(30_000_000);
    let answer = send(gateway.address, request("POST", "/upload/image", &[], body)).await;
    assert_eq!(answer.error().1, "instance-ended");
    assert_eq!(instance.state.seen().len(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let instance = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let mut stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"GET /test/slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    wait("the request to be there", || async { gateway.status().await.targets[0].requests == 1 }).await;
    drop(stream);
    wait("it to be gone", || async { gateway.status().await.targets[0].requests == 0 }).await;
    gateway.log_with("path=/test/slow status=499").await;
}

#[tokio::test]
async fn nothing_listens_anywhere() {
    let gateway = Gateway::start(crate::harness::with(json!({ "limits": { "hold_ms": 200 } }))).await;
    let table = crate::harness::table(&[crate::standin::target(0, 1, free_port())]);
    gateway.ask(&stillframe::protocol::control::Request::Set { table }).await;
    let error = get(gateway.address, "/queue").await.error();
    let why = "no instance was ready within 200 ms: s0-g1: connection refused";
    assert_eq!(error, (503, "no-instance".into(), why.into()));
    tokio::time::sleep(Duration::from_millis(10)).await;
}
