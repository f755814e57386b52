//! A gateway process with a directory of its own.
use crate::standin::StandIn;
use serde_json::{Value, json};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use stillframe::protocol::control::{GATEWAY_VERSION, Reply, Request, Table, Target};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

pub const AGENT: &str = env!("CARGO_BIN_EXE_stillframe-agent");

pub struct Gateway {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    pub child: Child,
}

/// Settings of a test: what differs from the usual.
pub struct Options {
    pub settings: Value,
    pub table: Vec<Target>,
    pub environment: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Options { settings: json!({}), table: Vec::new(), environment: Vec::new() }
    }
}

pub fn with(settings: Value) -> Options {
    Options { settings, ..Options::default() }
}

/// A port that nobody has at the moment.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        match into.get_mut(key) {
            Some(old) if old.is_object() && value.is_object() => merge(old, value),
            _ => drop(into.as_object_mut().unwrap().insert(key.clone(), value.clone())),
        }
    }
}

pub fn settings(dir: &Path, listen: SocketAddr, metrics: SocketAddr, change: &Value) -> Value {
    let mut settings = json!({
        "version": GATEWAY_VERSION, "service": "demo", "listen": listen, "metrics": metrics,
        "control": dir.join("control"), "table": dir.join("table.json"), "api_keys": [],
        // What requests by hand call it.
        "callers": { "hosts": ["x"] },
        "limits": { "hold_ms": 5000, "connect_ms": 1000, "response_ms": 20000 },
        "check": { "path": "/system_stats", "interval_ms": 100, "timeout_ms": 1000, "failures": 3 },
    });
    merge(&mut settings, change);
    settings
}

pub fn table(targets: &[Target]) -> Table {
    Table { version: GATEWAY_VERSION, targets: targets.to_vec(), ..Table::default() }
}

impl Gateway {
    pub async fn start(options: Options) -> Gateway {
        let (listen, metrics) = (free_port(), free_port());
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), listen, metrics, &options.settings);
        std::fs::write(dir.path().join("settings.json"), settings.to_string()).unwrap();
        if !options.table.is_empty() {
            let text = serde_json::to_string(&table(&options.table)).unwrap();
            std::fs::write(dir.path().join("table.json"), text).unwrap();
        }
        let child = command(dir.path()).envs(options.environment).spawn().unwrap();
        let gateway = Gateway { dir, address: listen, metrics, child };
        gateway.wait_for_control().await;
        gateway
    }

    /// With the same files, after the process ended.
    pub async fn start_again(&mut self) {
        self.child = command(self.dir.path()).spawn().unwrap();
        self.wait_for_control().await;
    }

    pub async fn serving(instances: &[&StandIn], change: Value) -> Gateway {
        let gateway = Gateway::start(with(change)).await;
        gateway.set(instances).await;
        gateway
    }

    pub async fn wait_for_control(&self) {
        wait("the control socket", || async { UnixStream::connect(self.control()).await.is_ok() }).await;
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    pub fn settings_file(&self) -> PathBuf {
        self.dir.path().join("settings.json")
    }

    pub fn change_settings(&self, change: &Value) {
        let mut settings: Value =
            serde_json::from_slice(&std::fs::read(self.settings_file()).unwrap()).unwrap();
        merge(&mut settings, change);
        std::fs::write(self.settings_file(), settings.to_string()).unwrap();
    }

    pub async fn ask(&self, request: &Request) -> Reply {
        let line = serde_json::to_string(request).unwrap();
        serde_json::from_str(&self.ask_raw(&line).await).unwrap()
    }

    pub async fn ask_raw(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.control()).await.unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await.unwrap();
        answer
    }

    pub async fn set(&self, instances: &[&StandIn]) {
        let targets: Vec<Target> = instances.iter().map(|i| i.target.clone()).collect();
        let reply = self.ask(&Request::Set { table: table(&targets) }).await;
        assert_eq!(reply.error, None);
    }

    pub async fn status(&self) -> Reply {
        self.ask(&Request::Status).await
    }

    /// (id, draining, healthy, requests, websockets) of each.
    pub async fn open(&self) -> Vec<(String, bool, bool, u64, u64)> {
        let targets = self.status().await.targets;
        targets.into_iter().map(|t| (t.id, t.draining, t.healthy, t.requests, t.websockets)).collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Lines are collected before they are written.
    pub async fn log_with(&self, text: &str) -> String {
        wait(&format!("{text:?} in the log"), || async { self.log().contains(text) }).await;
        self.log()
    }

    /// Peak resident memory, in KiB.
    pub fn peak(&self) -> u64 {
        peak(self.child.id())
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Processes of upgrades are not our children: those that were started with our settings file.
    fn kill_successors(&self) {
        let file = self.settings_file();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if command.split(|b| *b == 0).any(|word| word == file.as_os_str().as_encoded_bytes()) {
                let _ = Command::new("kill").arg("-KILL").arg(entry.file_name()).status();
            }
        }
    }

    pub async fn ended(&mut self) -> ExitStatus {
        ended(&mut self.child).await
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(AGENT);
    command.arg("gateway").arg("--settings").arg(dir.join("settings.json")).stderr(log_file(dir));
    command
}

pub fn log_file(dir: &Path) -> Stdio {
    Stdio::from(File::options().create(true).append(true).open(dir.join("log")).unwrap())
}

pub fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub async fn ended(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.kill_successors();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log:\n{}", self.log());
        }
    }
}

/// Waits until something is so.
pub async fn wait<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
