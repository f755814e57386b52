//! The agent's way in: a unix socket, one JSON document a line, one answer a line.
use crate::gateway::access_log::Level;
use crate::gateway::instance::FirstHealth;
use crate::gateway::router::check_table;
use crate::gateway::{Gateway, health, settings, upgrade};
use crate::protocol::control::{Reply, Request, Table, TargetStatus};
use crate::sys::error::{Error, Result};
use crate::sys::files;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// A longer line is not a request.
const LINE: u64 = 4 << 20;

/// A socket that is bound beside its place. A rename puts it there, over one that a dead process left.
pub struct Bound {
    listener: UnixListener,
    beside: PathBuf,
    path: PathBuf,
}

impl Bound {
    pub fn new(path: &Path) -> Result<Bound> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io("create directory", dir, e))?;
        }
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        // Left by a process of the same number that was killed here.
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside).map_err(|e| Error::io("bind", &beside, e))?;
        std::fs::set_permissions(&beside, Permissions::from_mode(0o600))
            .map_err(|e| Error::io("set the mode of", &beside, e))?;
        Ok(Bound { listener, beside, path: path.to_path_buf() })
    }

    /// From now on those who connect reach this process.
    pub fn take_place(self) -> Result<UnixListener> {
        std::fs::rename(&self.beside, &self.path).map_err(|e| Error::io("replace", &self.path, e))?;
        Ok(self.listener)
    }
}

pub async fn serve(gateway: Arc<Gateway>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(talk(gateway.clone(), stream))),
            Err(e) => {
                gateway.log.note(Level::Error, &format!("control socket: {e}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn talk(gateway: Arc<Gateway>, stream: UnixStream) {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    loop {
        let mut line = Vec::new();
        match (&mut input).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let whole = line.ends_with(b"\n");
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => act(&gateway, request).await,
            Err(e) => Err(format!("this is not a request: {e}")),
        };
        let reply = match answer {
            Ok(reply) => reply,
            Err(message) => Reply { error: Some(message), targets: Vec::new(), held: 0 },
        };
        let Ok(mut bytes) = serde_json::to_vec(&reply) else { return };
        bytes.push(b'\n');
        if output.write_all(&bytes).await.is_err() || !whole {
            return;
        }
    }
}

async fn act(gateway: &Arc<Gateway>, request: Request) -> Result<Reply, String> {
    if gateway.ending().is_some() {
        return Err("this process leaves; another one has, or will have, the socket".into());
    }
    match request {
        Request::Status => {}
        Request::Set { table } => set(gateway, table).await?,
        Request::Cut { id } => cut(gateway, &id).await?,
        Request::Reload => reload(gateway).await?,
        Request::Upgrade { program, limit_ms } => {
            upgrade::hand_over(gateway, &program, Duration::from_millis(limit_ms)).await?;
        }
    }
    status(gateway).await
}

/// What this process and the one before it have.
pub async fn status(gateway: &Gateway) -> Result<Reply, String> {
    let mut reply = Reply { error: None, targets: gateway.router.status(), held: gateway.waiting.count() };
    if let Some(before) = gateway.predecessor()
        && let Some(its) = before.status().await?
    {
        reply.held += its.held;
        add(&mut reply.targets, its.targets);
    }
    Ok(reply)
}

fn add(ours: &mut Vec<TargetStatus>, theirs: Vec<TargetStatus>) {
    for its in theirs {
        if let Some(same) = ours.iter_mut().find(|t| t.id == its.id) {
            same.requests += its.requests;
            same.websockets += its.websockets;
            same.served += its.served;
            same.failed += its.failed;
        } else if its.requests + its.websockets > 0 {
            ours.push(TargetStatus { draining: true, healthy: false, ..its });
        }
    }
}

async fn set(gateway: &Arc<Gateway>, table: Table) -> Result<(), String> {
    let _turn = gateway.turn.lock().await;
    if gateway.ending().is_some() {
        return Err("another process has taken over".into());
    }
    check_table(&table)?;
    let file = gateway.active().settings.table.clone();
    let bytes = serde_json::to_vec_pretty(&table).map_err(|e| e.to_string())?;
    // Syncing takes milliseconds, in which requests go on.
    let written = tokio::task::spawn_blocking(move || files::write_atomic(&file, &bytes)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(e)) => {
            let cause = e.source.as_deref().map(|s| format!(": {s}")).unwrap_or_default();
            return Err(format!("the table is as before: {e}{cause}"));
        }
        Err(e) => return Err(format!("the table is as before: {e}")),
    }
    apply(gateway, &table);
    let ids: Vec<&str> = table.targets.iter().map(|t| t.id.as_str()).collect();
    gateway.log.note(Level::Info, &format!("the table is now: {}", ids.join(" ")));
    if let Some(before) = gateway.predecessor() {
        before.set(table).await?;
    }
    Ok(())
}

/// Swaps the table, without writing it.
pub fn apply(gateway: &Arc<Gateway>, table: &Table) {
    let fresh = gateway.router.set(&table.targets, FirstHealth::Well);
    health::watch(gateway, fresh);
}

async fn cut(gateway: &Arc<Gateway>, id: &str) -> Result<(), String> {
    cut_here(gateway, id)?;
    if let Some(before) = gateway.predecessor() {
        before.cut(id).await?;
    }
    gateway.log.note(Level::Warning, &format!("{id} was cut"));
    Ok(())
}

pub fn cut_here(gateway: &Gateway, id: &str) -> Result<(), String> {
    let gone = gateway.router.cut(id)?;
    gateway.connections.each(|client| {
        if gone.iter().any(|instance| client.is_served_by(instance.number)) {
            // Its client may not read: then nothing else would end it.
            client.expire(crate::gateway::client::Phase::Stream);
        }
    });
    gateway.connections.wake_all();
    gateway.tunnels.end(|tunnel| tunnel.instance.is_cut());
    Ok(())
}

/// Reads the settings file again.
pub async fn reload(gateway: &Gateway) -> Result<(), String> {
    let _turn = gateway.turn.lock().await;
    let new = settings::read(&gateway.settings_file).map_err(|e| {
        let cause = e.source.as_deref().map(|s| format!(": {s}")).unwrap_or_default();
        format!("the settings are as before: {e}{cause}")
    })?;
    let (new, kept) = settings::renew(&gateway.active().settings, new);
    gateway.set_active(new);
    for name in kept {
        gateway.log.note(Level::Warning, &format!("{name} changes when the gateway is started again"));
    }
    gateway.log.note(Level::Info, "the settings were read again");
    Ok(())
}
