//! The control socket, the table on disk, settings that change, keys.
use crate::client::{WebSocket, full, get, get_with, request, send};
use crate::harness::{Gateway, Options, table, wait, with};
use crate::standin::StandIn;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::slice;
use stillframe::protocol::control::{Reply, Request, Table};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// SHA-256 of "secret" and of "other", from sha256sum.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const OTHER: &str = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

#[tokio::test]
async fn set_writes_the_table_before_it_answers() {
    let (a, b) = (StandIn::start(0, 1).await, StandIn::start(0, 2).await);
    let mut gateway = Gateway::serving(&[&a], json!({})).await;
    let on_disk = |gateway: &Gateway| -> Table {
        serde_json::from_slice(&std::fs::read(gateway.dir.path().join("table.json")).unwrap()).unwrap()
    };
    assert_eq!(on_disk(&gateway), table(slice::from_ref(&a.target)));
    let reply = gateway.ask(&Request::Set { table: table(slice::from_ref(&b.target)) }).await;
    assert_eq!(on_disk(&gateway), table(slice::from_ref(&b.target)));
    assert_eq!(reply.targets[0].id, "s0-g2");
    assert!(reply.targets[0].healthy);
    assert_eq!(get(gateway.address, "/queue").await.instance(), "s0-g2");
    // A restarted gateway routes as the last one did. Nobody vouches for the instance any more.
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
    b.state.ill.store(true, std::sync::atomic::Ordering::SeqCst);
    let again = Gateway::start(Options { table: on_disk(&gateway).targets, ..Options::default() }).await;
    wait("it to be looked at", || async { b.state.checks.load(std::sync::atomic::Ordering::SeqCst) > 0 })
        .await;
    assert!(!again.status().await.targets[0].healthy);
    b.state.ill.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(get(again.address, "/queue").await.instance(), "s0-g2");
}

#[tokio::test]
async fn a_table_that_cannot_be_is_refused_and_a_damaged_one_waited_over() {
    let a = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&a], json!({})).await;
    let refused = async |table: Table| gateway.ask(&Request::Set { table }).await.error.unwrap();
    let twice = table(&[a.target.clone(), a.target.clone()]);
    assert_eq!(refused(twice).await, "the table names s0-g1 twice");
    let newer = Table { version: 2, ..table(&[]) };
    assert_eq!(refused(newer).await, "the table is of version 2, this gateway knows 1");
    assert_eq!(get(gateway.address, "/queue").await.status, 200);
    drop(gateway);
    let gateway = Gateway::start(with(json!({ "table": "/proc/nowhere/table.json" }))).await;
    let error = gateway.ask(&Request::Set { table: table(&[]) }).await.error.unwrap();
    assert!(error.starts_with("the table is as before: cannot create directory /proc/nowhere"), "{error}");
    // A file that is no table.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("table.json"), "{").unwrap();
    let gateway = Gateway::start(with(json!({ "table": dir.path().join("table.json") }))).await;
    gateway.log_with("is not a table").await;
    gateway.set(&[&a]).await;
    assert_eq!(get(gateway.address, "/queue").await.status, 200);
}

#[tokio::test]
async fn the_socket_is_private_and_takes_many_requests() {
    let gateway = Gateway::start(Options::default()).await;
    let mode = std::fs::metadata(gateway.control()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nothing else lies beside it.
    let mut names: Vec<_> = std::fs::read_dir(gateway.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["control", "log", "settings.json"]);
    let error: Value = serde_json::from_str(&gateway.ask_raw("nonsense").await).unwrap();
    assert!(error["error"].as_str().unwrap().starts_with("this is not a request: "));
    assert_eq!(error["targets"], json!([]));
    let error = gateway.ask_raw(r#"{"op":"explode"}"#).await;
    assert!(error.contains("unknown variant `explode`"), "{error}");
    // Several at once, each with several requests.
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(BufReader::new(UnixStream::connect(gateway.control()).await.unwrap()));
    }
    for _ in 0..3 {
        for stream in &mut streams {
            stream.write_all(b"{\"op\":\"status\"}\n").await.unwrap();
        }
        for stream in &mut streams {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap().held, 0);
        }
    }
}

#[tokio::test]
async fn a_socket_file_that_a_dead_gateway_left_is_replaced() {
    let mut gateway = Gateway::start(Options::default()).await;
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
    assert!(gateway.control().exists() && UnixStream::connect(gateway.control()).await.is_err());
    gateway.start_again().await;
    assert_eq!(gateway.status().await.error, None);
}

#[tokio::test]
async fn a_reload_changes_limits_and_keys_or_nothing() {
    let a = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&a], json!({})).await;
    let upload = || request("POST", "/test/sink", &[], full(vec![0; 100]));
    assert_eq!(send(gateway.address, upload()).await.status, 200);
    gateway.change_settings(&json!({ "limits": { "body": 10 }, "listen": "127.0.0.1:1" }));
    assert_eq!(gateway.ask(&Request::Reload).await.error, None);
    assert_eq!(send(gateway.address, upload()).await.status, 413);
    gateway.log_with("<4>listen changes when the gateway is started again").await;
    // By signal, too.
    gateway.change_settings(&json!({ "limits": { "body": 1000 }, "api_keys": [SECRET] }));
    gateway.signal("-HUP");
    wait("the key to be asked for", || async { get(gateway.address, "/queue").await.status == 401 }).await;
    // What is wrong changes nothing.
    for (change, why) in [
        (json!({ "limits": { "idle_ms": 0 } }), "limits.idle_ms must not be 0"),
        (json!({ "limits": { "idle_ms": "x" } }), "these are not the settings of a gateway"),
        (json!({ "api_keys": ["plain"] }), "an API key is not the SHA-256 of one, in hex"),
    ] {
        let before = std::fs::read(gateway.settings_file()).unwrap();
        gateway.change_settings(&change);
        let error = gateway.ask(&Request::Reload).await.error.unwrap();
        assert!(error.starts_with("the settings are as before: ") && error.contains(why), "{error}");
        std::fs::write(gateway.settings_file(), before).unwrap();
    }
    assert_eq!(get_with(gateway.address, "/queue", &[("x-api-key", "secret")]).await.status, 200);
}

#[tokio::test]
async fn keys() {
    let a = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&a], json!({ "api_keys": [OTHER, SECRET] })).await;
    let answer = get(gateway.address, "/queue").await;
    let asked = (401, "not-allowed".to_string(), "this service asks for an API key".to_string());
    assert_eq!(answer.error(), asked);
    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"stillframe demo\"");
    for header in [
        ("authorization", "Bearer secret"),
        ("authorization", "Bearer other"),
        ("x-api-key", "secret"),
        // "anyone:secret"
        ("authorization", "Basic YW55b25lOnNlY3JldA=="),
    ] {
        let answer = get_with(gateway.address, "/test/headers", &[header]).await;
        assert_eq!(answer.status, 200, "{header:?}");
        assert_eq!(answer.json()["headers"].get(header.0), None);
    }
    let both = [("x-api-key", "secret"), ("authorization", "Bearer of-the-instance")];
    let answer = get_with(gateway.address, "/test/headers", &both).await;
    assert_eq!(answer.json()["headers"]["authorization"], json!(["Bearer of-the-instance"]));
    assert_eq!(answer.json()["headers"].get("x-api-key"), None);
    for header in [("authorization", "Bearer wrong"), ("x-api-key", ""), ("authorization", "Basic secret")] {
        assert_eq!(get_with(gateway.address, "/queue", &[header]).await.error(), asked);
    }
    // An upload that is refused is not taken first.
    let upload = request("POST", "/test/sink", &[], crate::client::zeros(20_000_000));
    assert_eq!(send(gateway.address, upload).await.error(), asked);
    // WebSockets and our own pages; who looks whether it lives has no key.
    assert!(WebSocket::open(gateway.address, "/ws?clientId=a").await.is_err());
    let with_key =
        WebSocket::open_with(gateway.address, "/ws?clientId=a", "authorization: Bearer secret\r\n");
    with_key.await.unwrap().close().await.unwrap();
    assert_eq!(get(gateway.address, "/-/health").await.status, 200);
    assert_eq!(get(gateway.address, "/-/ready").await.status, 200);
    assert_eq!(get(gateway.address, "/-/instances").await.error(), asked);
    assert_eq!(get(gateway.address, "/-/other").await.error(), asked);
    assert_eq!(get_with(gateway.address, "/-/instances", &[("x-api-key", "secret")]).await.status, 200);
    let log = gateway.log_with("status=401").await;
    assert!(!log.contains("secret") && !log.contains("c2VjcmV0"));
}
