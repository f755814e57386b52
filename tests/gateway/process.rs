//! The gateway as a process: systemd's sockets, signals, hand-overs.
use crate::client::{Connection, WebSocket, full, get, post, read_all, request};
use crate::harness::{AGENT, Gateway, Options, ended, free_port, log_file, settings, table, wait, with};
use crate::load::{Kind, Load};
use crate::standin::StandIn;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stillframe::protocol::control::Request;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What systemd was told, so far.
fn told(socket: &UnixDatagram) -> Vec<String> {
    socket.set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(n) = socket.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    all
}

/// Starts a gateway as a `.socket` unit does: the listening socket is descriptor 3.
fn by_socket(dir: &Path, listener: &std::net::TcpListener) -> Child {
    let listener: OwnedFd = listener.try_clone().unwrap().into();
    Command::new("sh")
        .arg("-c")
        .arg(r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" gateway --settings "$1" 3<&0 0</dev/null"#)
        .arg(AGENT)
        .arg(dir.join("settings.json"))
        .stdin(Stdio::from(listener))
        .stderr(log_file(dir))
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_refuse_nobody() {
    let (a, b) = (StandIn::start(0, 1).await, StandIn::start(1, 1).await);
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let text = settings(dir.path(), free_port(), free_port(), &json!({}));
    std::fs::write(dir.path().join("settings.json"), text.to_string()).unwrap();
    let targets = serde_json::to_string(&table(&[a.target.clone(), b.target.clone()])).unwrap();
    std::fs::write(dir.path().join("table.json"), targets).unwrap();
    let mut gateway = by_socket(dir.path(), &listener);
    let load = Load::start(
        address,
        &[Kind::Get, Kind::Get, Kind::Kept, Kind::Kept, Kind::Slow, Kind::Upload, Kind::Job],
    );
    for _ in 0..8 {
        load.more(40).await;
        let status = Command::new("kill").arg("-TERM").arg(gateway.id().to_string()).status();
        assert!(status.unwrap().success());
        assert!(ended(&mut gateway).await.success());
        gateway = by_socket(dir.path(), &listener);
    }
    load.more(40).await;
    let (done, failures) = load.end().await;
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    assert!(failures.is_empty(), "{} of {done} failed: {failures:#?}", failures.len());
}

#[tokio::test]
async fn systemd_is_told_and_a_stop_lets_requests_finish() {
    let instance = StandIn::start(0, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let options = Options {
        table: vec![instance.target.clone()],
        environment: vec![("NOTIFY_SOCKET", path.to_str().unwrap().to_string())],
        ..Options::default()
    };
    let mut gateway = Gateway::start(options).await;
    wait("READY", || async { told(&systemd) == ["READY=1"] }).await;
    let address = gateway.address;
    let mut socket = WebSocket::open(address, "/ws?clientId=a").await.unwrap();
    socket.instance().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    let slow = tokio::spawn(async move { get(address, "/test/slow?ms=1000").await });
    let mut kept = Connection::open(address).await.unwrap();
    kept.send(request("GET", "/queue", &[], full(""))).await.unwrap();
    wait("the slow one to be there", || async { gateway.status().await.targets[0].requests == 1 }).await;
    let start = Instant::now();
    gateway.signal("-TERM");
    wait("STOPPING", || async { told(&systemd) == ["STOPPING=1"] }).await;
    // A request on a connection from before is answered, and told that it is the last.
    let last = kept.send(request("GET", "/queue", &[], full(""))).await.unwrap();
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    assert_eq!(read_all(&mut idle).await, "");
    assert!(TcpStream::connect(address).await.is_err());
    let slow = slow.await.unwrap();
    assert_eq!((slow.status, slow.text()), (200, "s0-g1"));
    // The WebSocket did not keep it.
    assert_eq!(socket.hear().await, None);
    assert!(gateway.ended().await.success());
    assert!(start.elapsed() < Duration::from_secs(8));
    assert!(gateway.log().contains("path=/test/slow status=200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_load() {
    let (a, b) = (StandIn::start(0, 1).await, StandIn::start(1, 1).await);
    let notify_dir = tempfile::tempdir().unwrap();
    let path = notify_dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let options = Options {
        table: vec![a.target.clone(), b.target.clone()],
        environment: vec![("NOTIFY_SOCKET", path.to_str().unwrap().to_string())],
        ..Options::default()
    };
    let mut gateway = Gateway::start(options).await;
    let address = gateway.address;
    let job = post(address, "/prompt", &json!({ "prompt": {}, "client_id": "c" })).await;
    let id = job.json()["prompt_id"].as_str().unwrap().to_string();
    let mut socket = WebSocket::open(address, "/ws?clientId=open").await.unwrap();
    let on = socket.instance().await;
    let load = Load::start(
        address,
        &[Kind::Get, Kind::Get, Kind::Kept, Kind::Kept, Kind::Slow, Kind::Upload, Kind::Job, Kind::Socket],
    );
    load.more(50).await;
    let _ = told(&systemd);
    let reply = gateway.ask(&Request::Upgrade { program: AGENT.into(), limit_ms: 20_000 }).await;
    assert_eq!(reply.error, None);
    let said = told(&systemd);
    let main = said.iter().find_map(|s| s.strip_prefix("MAINPID=")).unwrap_or_else(|| panic!("{said:?}"));
    let successor: u32 = main.parse().unwrap();
    assert_ne!(successor, gateway.child.id());
    load.more(100).await;
    // The WebSocket goes on in the old process, and the new one counts it.
    socket.say("still here").await.unwrap();
    assert_eq!(socket.hear().await.unwrap(), "still here");
    assert_eq!(gateway.child.try_wait().unwrap(), None);
    let (done, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {done} failed: {failures:#?}", failures.len());
    wait("the load to be over", || async {
        gateway.open().await.iter().map(|t| (t.3, t.4)).fold((0, 0), |s, t| (s.0 + t.0, s.1 + t.1)) == (0, 1)
    })
    .await;
    // What was learned is not forgotten.
    let history = get(address, &format!("/history/{id}")).await;
    assert_eq!((history.instance(), &history.json()[&id]["client_id"]), (job.instance(), &json!("c")));
    let job = post(address, "/prompt", &json!({ "prompt": {}, "client_id": "open" })).await;
    assert_eq!(job.instance(), on);
    // A deploy after the upgrade: an instance is idle when neither process has anything on it.
    let c = StandIn::start(0, 2).await;
    gateway.set(&[&c]).await;
    let open = gateway.open().await;
    assert_eq!(open, [("s0-g2".into(), false, true, 0, 0), (on.clone(), true, false, 0, 1)]);
    // The same client comes to the new process: the old one's is closed first. On another instance it may stay.
    gateway.set(&[if on == "s0-g1" { &a } else { &b }]).await;
    let mut again = WebSocket::open(address, "/ws?clientId=open").await.unwrap();
    assert_eq!(again.instance().await, on);
    again.say("poke").await.unwrap();
    assert_eq!(again.hear().await.as_deref(), Some("poked"));
    assert_eq!(socket.stream_ended().await, ());
    // With its last WebSocket gone the old process ends, and the new one does not mind.
    assert!(gateway.ended().await.success());
    wait("the end to be known", || async { gateway.open().await == [(on.clone(), false, true, 0, 1)] }).await;
    let status = Command::new("kill").arg(successor.to_string()).status().unwrap();
    assert!(status.success());
    wait("the successor to end", || async { !Path::new(&format!("/proc/{successor}")).exists() }).await;
}

#[tokio::test]
async fn an_upgrade_again_and_one_that_is_cut() {
    let a = StandIn::start(0, 1).await;
    let mut gateway = Gateway::serving(&[&a], json!({})).await;
    let address = gateway.address;
    let mut sockets = Vec::new();
    for n in 0..2 {
        let mut socket = WebSocket::open(address, &format!("/ws?clientId=c{n}")).await.unwrap();
        socket.instance().await;
        sockets.push(socket);
        let reply = gateway.ask(&Request::Upgrade { program: AGENT.into(), limit_ms: 60_000 }).await;
        assert_eq!(reply.error, None);
    }
    // Three processes: the first two have one WebSocket each.
    assert_eq!(gateway.open().await, [("s0-g1".into(), false, true, 0, 2)]);
    let b = StandIn::start(0, 2).await;
    gateway.set(&[&b]).await;
    assert_eq!(gateway.open().await[1], ("s0-g1".into(), true, false, 0, 2));
    assert_eq!(gateway.ask(&Request::Cut { id: "s0-g1".into() }).await.error, None);
    for socket in &mut sockets {
        assert_eq!(socket.hear().await, None);
    }
    assert!(gateway.ended().await.success());
    wait("both to be over", || async { gateway.open().await.len() == 1 }).await;
    assert_eq!(get(address, "/queue").await.instance(), "s0-g2");
}

#[tokio::test]
async fn an_upgrade_that_fails_changes_nothing() {
    let a = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&a], json!({})).await;
    let ask = async |program: &str| {
        let request = Request::Upgrade { program: program.into(), limit_ms: 1_000 };
        gateway.ask(&request).await.error.unwrap()
    };
    let error = ask("/nowhere/agent").await;
    assert_eq!(error, "/nowhere/agent ended before it was ready (exit status: 1); this process goes on");
    gateway.log_with("cannot execute /nowhere/agent").await;
    let error = ask("/bin/true").await;
    assert_eq!(error, "/bin/true ended before it was ready (exit status: 0); this process goes on");
    // Settings that the new one does not take: it says why.
    let before = std::fs::read(gateway.settings_file()).unwrap();
    gateway.change_settings(&json!({ "limits": { "idle_ms": 0 } }));
    let error = ask(AGENT).await;
    assert!(error.contains("is not ready: ") && error.contains("limits.idle_ms must not be 0"), "{error}");
    std::fs::write(gateway.settings_file(), before).unwrap();
    let b = StandIn::start(0, 2).await;
    gateway.set(&[&b]).await;
    assert_eq!(get(gateway.address, "/queue").await.instance(), "s0-g2");
    assert_eq!(get(gateway.address, "/-/health").await.status, 200);
    let reply = gateway.ask(&Request::Upgrade { program: AGENT.into(), limit_ms: 1_000 }).await;
    assert_eq!(reply.error, None);
    assert_eq!(get(gateway.address, "/queue").await.instance(), "s0-g2");
}

#[tokio::test]
async fn what_is_open_at_the_end_of_its_time_is_ended() {
    let a = StandIn::start(0, 1).await;
    let mut gateway = Gateway::serving(&[&a], json!({})).await;
    let mut socket = WebSocket::open(gateway.address, "/ws?clientId=a").await.unwrap();
    socket.instance().await;
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    slow.write_all(b"GET /test/slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    wait("the slow one to be there", || async { gateway.status().await.targets[0].requests == 1 }).await;
    let reply = gateway.ask(&Request::Upgrade { program: AGENT.into(), limit_ms: 500 }).await;
    assert_eq!(reply.error, None);
    assert!(gateway.ended().await.success());
    assert_eq!(socket.hear().await, None);
    assert_eq!(read_all(&mut slow).await, "");
    gateway.log_with("<4>time is up: 1 connections and 1 tunnels are cut").await;
    assert_eq!(get(gateway.address, "/queue").await.status, 200);
}

#[tokio::test]
async fn settings_that_cannot_be_end_it_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("settings.json");
    let run = || Command::new(AGENT).arg("gateway").arg("--settings").arg(&file).output().unwrap();
    let output = run();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read"));
    let text = settings(dir.path(), free_port(), free_port(), &json!({ "version": 9 }));
    std::fs::write(&file, text.to_string()).unwrap();
    let stderr = String::from_utf8(run().stderr).unwrap();
    assert!(stderr.contains("version 9, and this gateway knows 1"), "{stderr}");
    // A port that another has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = settings(dir.path(), taken.local_addr().unwrap(), free_port(), &json!({}));
    std::fs::write(&file, text.to_string()).unwrap();
    let stderr = String::from_utf8(run().stderr).unwrap();
    assert!(stderr.contains(&format!("cannot listen on {}", taken.local_addr().unwrap())), "{stderr}");
    let gateway = Gateway::start(with(json!({}))).await;
    drop(gateway);
}
