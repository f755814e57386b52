//! The hub over real connections.
use super::fixture::*;
use super::*;
use crate::gateway::clock;
use crate::gateway::key::key;
use futures_util::{SinkExt, StreamExt};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Error, Message as Heard};

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
