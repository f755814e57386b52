//! Handing the listening socket to another version of this program, without a moment in which nobody
//! accepts. The new process is started, learns what this one knows, says that it is ready, takes the control
//! socket's place and accepts; then this one stops accepting and goes on with what it has.
//!
//! What the two say to each other is in `handover`, the new one's end in `successor`. As long as the old
//! process has something open the new one asks it: an instance is idle only when both say so.
use crate::gateway::access_log::Level;
use crate::gateway::affinity::Learned;
use crate::gateway::faults;
use crate::gateway::handover::{Ask, Hears, Known, ToNew, ToOld, say, say_with};
use crate::gateway::hub::Given;
use crate::gateway::jobs::service;
use crate::gateway::notify::{HANDOVER, notify};
use crate::gateway::orders;
use crate::gateway::shared::{Ending, Gateway};
use crate::protocol::control::{GATEWAY_VERSION, Reply};
use crate::sys::error::{Error, Kind, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A new process that is not ready by then is given up.
const READY: Duration = Duration::from_secs(10);
/// Clients that have not read by then what waits for them stay with this process.
const SETTLED: Duration = Duration::from_secs(2);
/// How many ids go in one line.
const BATCH: usize = 2_000;

/// Starts `program` in this process's place.
pub async fn hand_over(gateway: &Arc<Gateway>, program: &str, limit: Duration) -> Result<(), String> {
    let _turn = gateway.turn.lock().await;
    if gateway.ending().is_some() {
        return Err("another process has taken over".into());
    }
    faults::point(gateway, "gateway/upgrade").await?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| e.to_string())?;
    ours.set_nonblocking(true).map_err(|e| e.to_string())?;
    let (hears, mut says) = UnixStream::from_std(ours).map_err(|e| e.to_string())?.into_split();
    let mut hears = Hears::new(hears);
    let child = start(gateway, program, theirs.into())
        .map_err(|e| format!("{program} cannot be started: {e}; this process goes on"))?;
    let process = child.id().unwrap_or_default();
    let (tell, learned) = mpsc::unbounded_channel();
    let done = match timeout(READY, introduce(gateway, tell, &mut hears, &mut says)).await {
        Ok(done) => done,
        Err(_) => Err(format!("was not ready within {} s", READY.as_secs())),
    };
    let sockets = match done {
        Ok(sockets) => sockets,
        Err(why) => return Err(given_up(gateway, program, child, &why).await),
    };
    // The new one serves already; this one leaves, whatever is broken here.
    let _ = faults::point(gateway, "gateway/taken").await;
    // systemd watches the new process from now on (NotifyAccess=all).
    notify(&format!("MAINPID={process}"));
    gateway.log.note(Level::Info, &format!("process {process} took over"));
    tokio::spawn(answer(gateway.clone(), hears, says, (learned, sockets)));
    gateway.end(Ending::HandedOver(limit));
    let _ = faults::point(gateway, "gateway/upgraded").await;
    Ok(())
}

/// Ends a process that did not take over. Says why.
async fn given_up(
    gateway: &Arc<Gateway>,
    program: &str,
    mut child: tokio::process::Child,
    why: &str,
) -> String {
    gateway.affinity.keep_to_itself();
    // It may have ended by itself, and then its status says more.
    let ended = timeout(Duration::from_millis(200), child.wait()).await;
    let status = ended.ok().and_then(|s| s.ok()).map(|s| format!(" ({s})")).unwrap_or_default();
    let _ = child.kill().await;
    // Not before: it may have had the database open.
    let jobs = service::resume(gateway);
    format!("{program} {why}{status}; this process goes on{jobs}")
}

fn start(gateway: &Gateway, program: &str, theirs: OwnedFd) -> std::io::Result<tokio::process::Child> {
    let listener = gateway.listener().ok_or_else(|| std::io::Error::other("there is no listening socket"))?;
    // By way of this very program (see `become_program`): LISTEN_PID must hold the new process's id, which
    // only that process itself knows.
    tokio::process::Command::new("/proc/self/exe")
        .arg0("stillframe-agent")
        .args(["gateway", "--become", program, "--settings"])
        .arg(&gateway.settings_file)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::from(theirs))
        .spawn()
}

/// The new process up to the moment at which it has taken over. Says whether it goes on with clients' WebSockets.
async fn introduce(
    gateway: &Gateway,
    tell: mpsc::UnboundedSender<Learned>,
    hears: &mut Hears,
    says: &mut OwnedWriteHalf,
) -> Result<bool, String> {
    let targets = gateway.router.all().into_iter().map(|(instance, draining)| Known {
        target: instance.target.clone(),
        draining,
        healthy: instance.is_healthy(),
    });
    let begin = ToNew::Begin { version: GATEWAY_VERSION, targets: targets.collect() };
    let known = batches(gateway.affinity.hand_over(tell));
    for message in std::iter::once(begin).chain(known).chain([ToNew::Prepare]) {
        if say(says, &message).await.is_err() {
            // It has ended, perhaps after saying why.
            return expect(hears, |_| None).await;
        }
    }
    let sockets = expect(hears, |m| match m {
        ToOld::Ready { sockets } => Some(sockets),
        _ => None,
    })
    .await?;
    faults::point(gateway, "gateway/ready").await?;
    if let Some(engine) = gateway.jobs() {
        // The database has one owner: the new process opens it as soon as it is told to take over.
        service::pause(&engine).await;
    }
    // If it cannot be told, it does not answer either.
    let _ = say(says, &ToNew::Take { sockets }).await;
    expect(hears, |m| matches!(m, ToOld::Taken).then_some(sockets)).await
}

async fn expect(hears: &mut Hears, wanted: impl Fn(ToOld) -> Option<bool>) -> Result<bool, String> {
    match hears.next::<ToOld>().await {
        Some(ToOld::Failed { message }) => Err(format!("is not ready: {message}")),
        Some(message) => wanted(message).ok_or_else(|| "said something unexpected".into()),
        None => Err("ended before it was ready".into()),
    }
}

/// Ids of the same kind and instance go together.
fn batches(mut all: Vec<Learned>) -> Vec<ToNew> {
    all.sort_by(|a, b| (a.prompt, &a.instance).cmp(&(b.prompt, &b.instance)));
    let same = |a: &Learned, b: &Learned| a.prompt == b.prompt && a.instance == b.instance;
    all.chunk_by(same)
        .flat_map(|run| run.chunks(BATCH))
        .filter_map(|run| {
            let first = run.first()?;
            let keys = run.iter().map(|l| l.key).collect();
            Some(ToNew::Learned { prompt: first.prompt, instance: first.instance.to_string(), keys })
        })
        .collect()
}

/// The old process's end, until it or the new one has ended: it answers, passes on what it learns, and gives its
/// clients' WebSockets away where the new one goes on with them.
pub async fn answer(
    gateway: Arc<Gateway>,
    mut hears: Hears,
    mut says: OwnedWriteHalf,
    (mut learned, sockets): (mpsc::UnboundedReceiver<Learned>, bool),
) {
    let (tell, mut answers) = mpsc::unbounded_channel();
    let (give, mut given) = mpsc::unbounded_channel();
    let speaker = tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                biased;
                Some(given) = given.recv() => {
                    if send(&mut says, given).await.is_err() {
                        return;
                    }
                    continue;
                }
                answer = answers.recv() => answer,
                Some(l) = learned.recv() => batches(vec![l]).pop(),
            };
            let Some(message) = message else { return };
            if say(&mut says, &message).await.is_err() {
                return;
            }
        }
    });
    if sockets {
        for running in gateway.hub.hand_over(give) {
            // The new process may have ended, which is seen below.
            let _ = tell.send(ToNew::Running { running });
        }
        tokio::spawn(settle(gateway.clone(), tell.clone()));
    }
    while let Some(ToOld::Ask { ask, what }) = hears.next().await {
        let (gateway, tell) = (gateway.clone(), tell.clone());
        // Each in a task of its own: closing a WebSocket may take two seconds.
        tokio::spawn(async move {
            let reply = match act(&gateway, what).await {
                Ok(reply) => reply,
                Err(error) => Reply::failed(error),
            };
            // The new process may have ended.
            let _ = tell.send(ToNew::Answer { ask, reply });
        });
    }
    gateway.affinity.keep_to_itself();
    gateway.hub.keep();
    speaker.abort();
}

/// A client's WebSocket on its way. It counts here until it is sent.
async fn send(says: &mut OwnedWriteHalf, given: Given) -> std::io::Result<()> {
    // One that cannot be read any more is no reason not to send the others.
    let Ok((socket, connection)) = given.left.parts() else { return Ok(()) };
    say_with(says, &ToNew::Socket { socket: Box::new(socket) }, connection.as_fd()).await
}

/// Says that all WebSockets are sent, but those whose clients do not read.
async fn settle(gateway: Arc<Gateway>, tell: mpsc::UnboundedSender<ToNew>) {
    let sent = async {
        loop {
            let fewer = gateway.hub.fewer.notified();
            tokio::pin!(fewer);
            fewer.as_mut().enable();
            if gateway.hub.count() == 0 {
                return;
            }
            fewer.await;
        }
    };
    let _ = timeout(SETTLED, sent).await;
    let _ = tell.send(ToNew::Settled);
}

async fn act(gateway: &Arc<Gateway>, what: Ask) -> Result<Reply, String> {
    let before = gateway.predecessor();
    match what {
        Ask::Status => {}
        Ask::Set { table } => {
            orders::apply(gateway, &table);
            if let Some(before) = before {
                before.set(table).await?;
            }
        }
        Ask::Cut { id } => {
            orders::cut_here(gateway, &id)?;
            if let Some(before) = before {
                before.cut(&id).await?;
            }
        }
        Ask::MakeWay { instance, key } => {
            if let Some(older) = gateway.affinity.socket(key, &instance) {
                older.make_way().await;
            }
            if let Some(before) = before {
                before.make_way(key, &instance).await;
            }
        }
    }
    orders::status(gateway).await
}

/// The step between the old process and the new one: standard input is the listening socket, standard output
/// the stream to the old process. They become descriptors 3 and 4 of sd_listen_fds(3), and the program is
/// executed. Returns only if that fails, with the reason.
pub fn become_program(program: &str, settings: &Path) -> Error {
    let failed = |text: &str| Error::new(Kind::Io, text.to_string());
    let place = |from: rustix::fd::BorrowedFd<'_>, number| -> Result<OwnedFd> {
        let fd = rustix::io::fcntl_dupfd_cloexec(from, number)
            .map_err(|e| failed("cannot pass a socket on").caused_by(e))?;
        if fd.as_raw_fd() != number {
            return Err(failed(&format!("descriptor {number} is taken")));
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())
            .map_err(|e| failed("cannot pass a socket on").caused_by(e))?;
        Ok(fd)
    };
    let placed = place(std::io::stdin().as_fd(), 3).and_then(|listener| {
        let stream = place(std::io::stdout().as_fd(), 4)?;
        let log = std::io::stderr().as_fd().try_clone_to_owned();
        Ok((listener, stream, log.map_err(|e| failed("cannot pass stderr on").caused_by(e))?))
    });
    let (_listener, _stream, log) = match placed {
        Ok(placed) => placed,
        Err(e) => return e,
    };
    let cause = std::process::Command::new(program)
        .arg("gateway")
        .arg("--settings")
        .arg(settings)
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", format!("http:{HANDOVER}"))
        .stdin(Stdio::null())
        .stdout(Stdio::from(log))
        .exec();
    failed(&format!("cannot execute {program}")).caused_by(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_in_few_lines() {
        let learned = |n: u64| Learned {
            prompt: !n.is_multiple_of(3),
            key: (n, n),
            instance: if n.is_multiple_of(2) { "s0-g1" } else { "s1-g1" }.into(),
        };
        let sent = batches((0..10_000).map(learned).collect());
        let mut keys = Vec::new();
        for message in &sent {
            let line = serde_json::to_string(message).unwrap();
            let ToNew::Learned { prompt, instance, keys: some } = serde_json::from_str(&line).unwrap() else {
                panic!("{line}");
            };
            assert!(some.len() <= BATCH);
            for key in some {
                assert_eq!(learned(key.0), Learned { prompt, key, instance: instance.as_str().into() });
                keys.push(key.0);
            }
        }
        keys.sort_unstable();
        assert_eq!(keys, (0..10_000).collect::<Vec<u64>>());
        assert!(sent.len() < 10);
    }
}
