//! The gateway as a process: the sockets it is passed, signals, READY and the end.
use crate::gateway::access_log::Level;
use crate::gateway::control_socket::{self, Bound};
use crate::gateway::credentials;
use crate::gateway::deadlines;
use crate::gateway::health;
use crate::gateway::instance::FirstHealth;
use crate::gateway::jobs::service;
use crate::gateway::metrics_port;
use crate::gateway::notify;
use crate::gateway::orders;
use crate::gateway::router::check_table;
use crate::gateway::scaling;
use crate::gateway::server::{self, Leave};
use crate::gateway::settings;
use crate::gateway::shared::{Ending, Gateway};
use crate::gateway::successor::Successor;
use crate::protocol::control::Table;
use crate::sys::descriptors;
use crate::sys::error::{Error, Kind, Result};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// When it is stopped: `idle` is for requests that are already on their way, `most` for those that are open.
const STOP: Leave = Leave { idle: Duration::from_millis(200), most: Duration::from_secs(10), tunnels: false };
/// After a hand-over nobody waits for this process to end.
const HANDED_OVER_IDLE: Duration = Duration::from_secs(2);

/// Runs a gateway until it is stopped or another process has taken over.
pub fn run(settings_file: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(|e| Error::new(Kind::Io, "cannot start the runtime").caused_by(e))?;
    let result = runtime.block_on(serve(settings_file));
    // A journal that does not read must not delay the end.
    runtime.shutdown_background();
    result
}

async fn serve(settings_file: &Path) -> Result<()> {
    let passed = notify::passed()?;
    let mut successor = passed.handover.map(Successor::new).transpose()?;
    let started = start(settings_file, passed.listener, &mut successor).await;
    let (gateway, control, listener) = match started {
        Ok(started) => started,
        Err(e) => {
            if let Some(successor) = &mut successor {
                successor.failed(&e.to_string()).await;
            }
            return Err(e);
        }
    };
    let mut stop = signals(&gateway)?;
    if let Some(successor) = &mut successor {
        successor.ready(&gateway).await?;
    }
    // The process before this one has closed the database by now.
    if let Some(jobs) = gateway.active().settings.jobs.clone() {
        match service::start(&gateway, &jobs) {
            Ok(_) => {}
            // The process before this one goes on with them.
            Err(e) if successor.is_some() => return Err(e),
            Err(e) => service::start_later(&gateway, jobs, &e),
        }
    }
    let control = control.take_place()?;
    if let Some(successor) = successor {
        successor.taken(&gateway).await?;
    }
    let log = tokio::spawn(gateway.log.clone().run());
    let tasks = [
        tokio::spawn(deadlines::run(gateway.clone())),
        tokio::spawn(control_socket::serve(gateway.clone(), control)),
        tokio::spawn(scaling::run::run(gateway.clone())),
        match gateway.active().settings.metrics {
            Some(address) => tokio::spawn(metrics_port::serve(gateway.clone(), address)),
            None => tokio::spawn(async {}),
        },
    ];
    notify::notify("READY=1");
    gateway.log.note(Level::Info, &format!("ready: process {}", std::process::id()));
    server::accept(&gateway, listener).await;
    gateway.close_listener();
    // The successor has these now, or nobody needs them. The deadlines are kept until the end.
    tasks[1..].iter().for_each(|task| task.abort());
    if let Some(Ending::HandedOver(most)) = gateway.ending() {
        let how = Leave { idle: HANDED_OVER_IDLE, most, tunnels: true };
        tokio::select! {
            () = server::leave(&gateway, &how) => {}
            _ = stop.recv() => {}
        }
    }
    if gateway.ending() == Some(Ending::Stopped) {
        notify::notify("STOPPING=1");
        server::leave(&gateway, &STOP).await;
    }
    control_socket::answered(&gateway).await;
    gateway.log.note(Level::Info, &format!("ends: process {}", std::process::id()));
    log.abort();
    gateway.log.flush();
    Ok(())
}

/// Everything up to the moment at which it could accept.
async fn start(
    settings_file: &Path,
    passed: Option<std::net::TcpListener>,
    successor: &mut Option<Successor>,
) -> Result<(Arc<Gateway>, Bound, TcpListener)> {
    // What it creates belongs to its user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let active = settings::read(settings_file)?;
    let (listen, control) = (active.settings.listen, active.settings.control.clone());
    let (table, idle) =
        (active.settings.table.clone(), Duration::from_millis(active.settings.limits.idle_ms));
    let listener = passed.map_or_else(|| server::bind(listen), Ok)?;
    let failed = |e: std::io::Error| Error::new(Kind::Io, "cannot use the listening socket").caused_by(e);
    server::prepare(&listener, idle).map_err(failed)?;
    let spare = listener.try_clone().map_err(failed)?;
    let gateway = Arc::new(Gateway::new(settings_file.to_path_buf(), active, spare.into()));
    gateway.set_secrets(credentials::read());
    raise_descriptors(&gateway);
    match successor {
        Some(successor) => successor.learn(&gateway).await?,
        None => read_table(&gateway, &table),
    }
    let control = Bound::new(&control)?;
    Ok((gateway, control, TcpListener::from_std(listener).map_err(failed)?))
}

/// The table of the last `set`. Without one, or with a damaged one, requests wait for the agent's next.
fn read_table(gateway: &Arc<Gateway>, file: &Path) {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => {
            gateway.log.note(Level::Error, &format!("cannot read {}: {e}", file.display()));
            return;
        }
    };
    let table = serde_json::from_slice::<Table>(&bytes).map_err(|e| e.to_string());
    match table.and_then(|table| check_table(&table).map(|()| table)) {
        Ok(table) => {
            let fresh = gateway.router.set(&table.targets, FirstHealth::Unknown);
            health::watch(gateway, fresh);
        }
        Err(why) => {
            gateway.log.note(Level::Error, &format!("{} is not a table: {why}", file.display()));
        }
    }
}

/// systemd gives a service 1,024 descriptors unless it asks for more, and each request may take two.
fn raise_descriptors(gateway: &Gateway) {
    let wanted = 2 * gateway.active().settings.limits.connections as u64 + 256;
    let have = descriptors::raise();
    if have < wanted {
        let text = format!("{have} descriptors may not be enough for the limit of connections: {wanted}");
        gateway.log.note(Level::Warning, &text);
    }
}

/// SIGTERM and SIGINT stop it; SIGHUP reads the settings again. The receiver hears of a stop.
fn signals(gateway: &Arc<Gateway>) -> Result<tokio::sync::mpsc::Receiver<()>> {
    let failed = |e: std::io::Error| Error::new(Kind::Io, "cannot listen for signals").caused_by(e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let (tell, stopped) = tokio::sync::mpsc::channel(1);
    let gateway = gateway.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    if let Err(why) = orders::reload(&gateway).await {
                        gateway.log.note(Level::Error, &why);
                    }
                }
            }
        }
        gateway.end(Ending::Stopped);
        // Only the wait after a hand-over listens to it.
        let _ = tell.send(()).await;
    });
    Ok(stopped)
}
