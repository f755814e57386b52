//! Sockets that go from one process to the next.
use super::fixture::*;
use super::*;
use crate::gateway::handover::{Hears, ToNew, ToOld, say};
use crate::gateway::key::key;
use crate::gateway::shared::Gateway;
use crate::gateway::successor::Successor;
use crate::gateway::upgrade;
use futures_util::SinkExt;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message as Heard;

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
    assert_eq!(new.hub.clients.lock().all[&me].missed().len(), 1);
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
