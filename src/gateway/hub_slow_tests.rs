//! Clients that do not read, and how much memory many take.
use super::fixture::*;
use super::*;
use crate::gateway::hub_queue::BYTES;
use crate::sys::descriptors;
use std::sync::atomic::Ordering;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message as Heard;

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
        assert!(gateway.hub.load.load(Ordering::Relaxed) <= 2 * BYTES);
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
    // What the kernel holds comes on top of what we do.
    let mut most = 0;
    for _ in 0..64 {
        gateway.hub.to_client(&client("slow"), &Message::json(&large));
        tokio::time::sleep(Duration::from_millis(2)).await;
        let load = gateway.hub.load.load(Ordering::Relaxed);
        if load < most {
            break;
        }
        most = load;
    }
    assert!(most <= BYTES + 64, "{most}");
    assert_eq!(closed(&mut slow).await, (1013, "the client reads too slowly".into()));
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
