//! Upgraded connections.
use crate::client::{ReadFrame, WebSocket, get, read_all, read_head, talk};
use crate::harness::{Gateway, wait};
use crate::standin::{StandIn, raw};
use serde_json::json;
use std::time::{Duration, Instant};
use stillframe::protocol::control::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn messages_of_every_size_both_ways() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let mut socket = WebSocket::open(gateway.address, "/ws?clientId=a").await.unwrap();
    assert!(socket.head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(socket.head.contains("x-stillframe-instance: s0-g7\r\n"));
    assert_eq!(socket.instance().await, "s0-g7");
    for size in [0, 1, 125, 126, 70_000, 3_000_000] {
        let text = "x".repeat(size);
        let (mut reader, mut writer) = socket.stream.split();
        let frame = crate::client::frame(1, text.as_bytes(), Some([9, 8, 7, 6]));
        let (sent, heard) = tokio::join!(writer.write_all(&frame), reader.read_frame());
        sent.unwrap();
        assert_eq!(heard.unwrap(), (1, text.into_bytes()));
    }
    assert_eq!(gateway.open().await, [("s0-g7".into(), false, true, 0, 1)]);
    socket.close().await.unwrap();
    wait("it to be over", || async { gateway.status().await.targets[0].websockets == 0 }).await;
    gateway.log_with("path=/ws status=101").await;
    let log = gateway.log_with("upgrade=yes").await;
    assert!(!log.contains("clientId"));
}

#[tokio::test]
async fn bytes_right_behind_the_handshake_are_not_lost() {
    let instance = raw(0, |mut stream, _| async move {
        // In one piece with the 101, and read in one piece with the request.
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nearly";
        stream.write_all(answer).await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let handshake = "GET /x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nhello";
    let answer = talk(gateway.address, handshake.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nearlyhello"), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_is_refused_is_an_answer() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let refused = WebSocket::open(gateway.address, "/ws?refuse=1").await.err().unwrap().to_string();
    assert!(
        refused.starts_with("HTTP/1.1 400 ") && refused.contains("x-stillframe-instance: s0-g7"),
        "{refused}"
    );
    // Without Connection: upgrade it is a request like any other.
    assert_eq!(get(gateway.address, "/ws?clientId=a").await.text(), "no handshake");
}

#[tokio::test]
async fn one_side_that_ends_ends_both() {
    let instance = raw(0, |mut stream, _| async move {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        // Half closed by the client: the rest still comes.
        let heard = read_all(&mut stream).await;
        stream.write_all(format!("heard {heard}").as_bytes()).await.unwrap();
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream
        .write_all(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nbye")
        .await
        .unwrap();
    read_head(&mut stream).await;
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "heard bye");
    wait("it to be over", || async { gateway.status().await.targets[0].websockets == 0 }).await;
}

#[tokio::test]
async fn a_quiet_one_is_not_cut() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "limits": { "idle_ms": 200 } })).await;
    let mut socket = WebSocket::open(gateway.address, "/ws?clientId=a").await.unwrap();
    socket.instance().await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    socket.say("still here").await.unwrap();
    assert_eq!(socket.hear().await.unwrap(), "still here");
}

/// ComfyUI's bug, which the stand-in has too: see `standin::socket`.
#[tokio::test]
async fn a_client_that_comes_again_is_heard() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    for path in ["/ws?clientId=a", "/api/ws?clientId=a"] {
        instance.state.socket_events.lock().unwrap().clear();
        // The first one is half dead: its client is gone and nobody knows.
        let mut first = WebSocket::open(gateway.address, path).await.unwrap();
        first.instance().await;
        let start = Instant::now();
        let mut second = WebSocket::open(gateway.address, path).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        second.instance().await;
        assert_eq!(*instance.state.socket_events.lock().unwrap(), ["open a", "close a", "open a"]);
        second.say("poke").await.unwrap();
        assert_eq!(second.hear().await.as_deref(), Some("poked"));
        // The instance's Close frame reached the old client.
        assert_eq!(first.stream.read_frame().await, Some((8, 1001u16.to_be_bytes().to_vec())));
        assert_eq!(first.stream.read_frame().await, None);
        second.close().await.unwrap();
        wait("all to be over", || async { gateway.status().await.targets[0].websockets == 0 }).await;
    }
    // Others are left alone.
    let mut b = WebSocket::open(gateway.address, "/ws?clientId=b").await.unwrap();
    let mut c = WebSocket::open(gateway.address, "/ws?clientId=c").await.unwrap();
    for socket in [&mut b, &mut c] {
        socket.instance().await;
        socket.say("poke").await.unwrap();
        assert_eq!(socket.hear().await.as_deref(), Some("poked"));
    }
}

#[tokio::test]
async fn an_instance_that_does_not_close_is_not_waited_for_long() {
    // It takes the first WebSocket and says nothing any more.
    let instance = raw(0, |mut stream, _| async move {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let mut first = WebSocket::open(gateway.address, "/ws?clientId=a").await.unwrap();
    let start = Instant::now();
    let _second = WebSocket::open(gateway.address, "/ws?clientId=a").await.unwrap();
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1_500) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(read_all(&mut first.stream).await, "");
}

#[tokio::test]
async fn they_go_on_after_a_deploy_until_they_are_cut() {
    let (old, new) = (StandIn::start(0, 1).await, StandIn::start(0, 2).await);
    let gateway = Gateway::serving(&[&old], json!({})).await;
    let mut socket = WebSocket::open(gateway.address, "/ws?clientId=a").await.unwrap();
    socket.instance().await;
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    slow.write_all(b"GET /test/slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut unread = TcpStream::connect(gateway.address).await.unwrap();
    unread.write_all(b"GET /test/big?bytes=100000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    wait("both to be there", || async { gateway.status().await.targets[0].requests == 2 }).await;
    assert_eq!(
        gateway.ask(&Request::Cut { id: "s0-g1".into() }).await.error.as_deref(),
        Some("s0-g1 is in the table; only an instance that left it can be cut")
    );
    gateway.set(&[&new]).await;
    socket.say("on the old one").await.unwrap();
    assert_eq!(socket.hear().await.unwrap(), "on the old one");
    assert_eq!(
        gateway.open().await,
        [("s0-g2".into(), false, true, 0, 0), ("s0-g1".into(), true, false, 2, 1)]
    );
    let reply = gateway.ask(&Request::Cut { id: "s0-g1".into() }).await;
    assert_eq!(reply.error, None);
    assert_eq!(socket.hear().await, None);
    let answer = read_head(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    wait("nothing to be open", || async { gateway.open().await.len() == 1 }).await;
    assert_eq!(gateway.ask(&Request::Cut { id: "s9-g9".into() }).await.error, None);
    drop(unread);
}
