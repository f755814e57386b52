//! The agent's way in: a unix socket that takes one JSON document per line and answers each with a line.
use crate::gateway::access_log::Level;
use crate::gateway::jobs::operator;
use crate::gateway::orders;
use crate::gateway::shared::Gateway;
use crate::gateway::upgrade;
use crate::protocol::control::{Reply, Request};
use crate::sys::error::{Error, Result};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// The longest line that is read.
const LINE: u64 = 4 << 20;

/// A socket bound under a temporary name. A rename puts it in its place, over one that a dead process left.
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
        // Left by an earlier process with this one's id that was killed right here.
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside).map_err(|e| Error::io("bind", &beside, e))?;
        std::fs::set_permissions(&beside, Permissions::from_mode(0o600))
            .map_err(|e| Error::io("set the mode of", &beside, e))?;
        Ok(Bound { listener, beside, path: path.to_path_buf() })
    }

    /// From now on whoever connects reaches this process.
    pub fn take_place(self) -> Result<UnixListener> {
        std::fs::rename(&self.beside, &self.path).map_err(|e| Error::io("replace", &self.path, e))?;
        Ok(self.listener)
    }
}

pub async fn serve(gateway: Arc<Gateway>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            // An instance may leave a link to this socket where its own should be: then the gateway itself would come in.
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) => {
                drop(tokio::spawn(talk(gateway.clone(), stream)));
            }
            Ok(_) => {
                gateway.log.note(Level::Warning, "control socket: a caller that is not root was turned away")
            }
            Err(e) => {
                gateway.log.note(Level::Error, &format!("control socket: {e}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// A request that has no answer yet: the process does not end before it is written.
struct Answering<'a>(&'a Gateway);

impl<'a> Answering<'a> {
    fn new(gateway: &'a Gateway) -> Answering<'a> {
        gateway.answering.fetch_add(1, Ordering::SeqCst);
        Answering(gateway)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until every request has its answer: who handed over with nothing open would end before it said so.
pub async fn answered(gateway: &Gateway) {
    let all = async {
        while gateway.answering.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Who asks and does not read is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
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
        let _answering = Answering::new(&gateway);
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => act(&gateway, request).await,
            Err(e) => Err(format!("this is not a request: {e}")),
        };
        let reply = answer.unwrap_or_else(Reply::failed);
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
        Request::Set { table } => orders::set(gateway, table).await?,
        Request::Cut { id } => orders::cut(gateway, &id).await?,
        Request::Reload => orders::reload(gateway).await?,
        Request::Secrets { secrets } => {
            gateway.set_secrets(secrets);
            if let Some(engine) = gateway.jobs() {
                engine.deliveries_again();
            }
        }
        Request::Upgrade { program, limit_ms } => {
            upgrade::hand_over(gateway, &program, Duration::from_millis(limit_ms)).await?;
        }
        Request::Jobs { ask } => {
            let jobs = Some(Box::pin(operator::answer(gateway, ask)).await?);
            return Ok(Reply { jobs, ..Reply::default() });
        }
    }
    orders::status(gateway).await
}
