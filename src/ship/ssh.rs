//! SSH to a host through the user's own `ssh`: their configuration, keys, known hosts. One master
//! connection a host; every command is a channel of it.
//!
//! Host keys are always checked. Arguments are quoted by the `openssh` crate, one by one; every command
//! has a time limit; an error ends with the tail of what the command said.
use crate::ship::send::Channel;
use crate::sys::error::{Error, Kind, Result};
use openssh::{ControlPersist, KnownHosts, Session, SessionBuilder, Stdio};
use parking_lot::{Condvar, Mutex};
use std::io::{BufReader, Read};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How a host is reached. What is empty is left to the user's ssh configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The host's name here.
    pub name: String,
    /// A host name, an address, or an alias of ssh_config.
    pub address: String,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub identity: Option<PathBuf>,
    pub jump: Option<String>,
    /// In place of `~/.ssh/config`.
    pub config: Option<PathBuf>,
}

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A silent connection is asked this often, and given up after three times without an answer.
const ALIVE: Duration = Duration::from_secs(10);
/// Of an ended command, its last words.
const TAIL: usize = 4096;

pub struct Remote {
    pub name: String,
    /// `None` once it is closed.
    session: Option<Arc<Session>>,
    runtime: Runtime,
    /// Put before every command that needs root's rights.
    elevate: Vec<String>,
    target: Target,
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// The tail of a channel's standard error; filled while it runs.
#[derive(Debug, Clone, Default)]
pub struct LastWords(Arc<(Mutex<Said>, Condvar)>);

#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    ended: bool,
}

/// How long the last words of an ended command may be on their way.
const ON_THEIR_WAY: Duration = Duration::from_secs(1);

impl LastWords {
    /// What an ended command said on its standard error.
    pub fn text(&self) -> String {
        let (said, changed) = &*self.0;
        let mut said = said.lock();
        changed.wait_while_for(&mut said, |said| !said.ended, ON_THEIR_WAY);
        String::from_utf8_lossy(&said.bytes).trim().to_string()
    }

    fn hear(&self, mut errors: impl Read) {
        let (said, changed) = &*self.0;
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = errors.read(&mut buffer) {
            let mut said = said.lock();
            said.bytes.extend_from_slice(&buffer[..n]);
            let extra = said.bytes.len().saturating_sub(TAIL);
            said.bytes.drain(..extra);
        }
        said.lock().ended = true;
        changed.notify_all();
    }
}

impl Remote {
    pub fn connect(target: &Target) -> Result<Remote> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Io, "cannot start the network threads").caused_by(e))?;
        let mut builder = SessionBuilder::default();
        builder
            .known_hosts_check(KnownHosts::Strict)
            .connect_timeout(CONNECT_LIMIT)
            .server_alive_interval(ALIVE)
            // Not for ever: a killed stillframe must not leave a connection behind.
            .control_directory(control_directory())
            .control_persist(ControlPersist::IdleFor(NonZeroUsize::MIN.saturating_add(59)));
        if let Some(user) = &target.user {
            builder.user(user.clone());
        }
        if let Some(port) = target.port {
            builder.port(port);
        }
        if let Some(identity) = &target.identity {
            builder.keyfile(identity);
        }
        if let Some(jump) = &target.jump {
            builder.jump_hosts([jump]);
        }
        if let Some(config) = &target.config {
            builder.config_file(config);
        }
        // Besides the limit of ssh itself, which does not count what a jump host takes.
        let connected = runtime.block_on(async {
            tokio::time::timeout(CONNECT_LIMIT * 2, builder.connect(&target.address)).await
        });
        let session = match connected {
            Ok(Ok(session)) => session,
            Ok(Err(e)) => return Err(unreachable(target, &e)),
            Err(_) => {
                let message = format!(
                    "{}: no SSH connection to {} within {} s",
                    target.name,
                    target.address,
                    CONNECT_LIMIT.as_secs() * 2
                );
                return Err(Error::new(Kind::Host, message).hint(reach_hint(target)));
            }
        };
        Ok(Remote {
            name: target.name.clone(),
            session: Some(Arc::new(session)),
            runtime,
            elevate: Vec::new(),
            target: target.clone(),
        })
    }

    /// From now on commands that need root's rights are run so (`sudo -n`); none for root itself.
    pub fn elevate_by(&mut self, words: &[&str]) {
        self.elevate = words.iter().map(|w| (*w).to_string()).collect();
    }

    fn session(&self) -> Result<&Arc<Session>> {
        self.session
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Host, format!("{}: the connection is closed", self.name)))
    }

    fn shown(&self, words: &[&str]) -> String {
        self.elevate.iter().map(String::as_str).chain(words.iter().copied()).collect::<Vec<_>>().join(" ")
    }

    /// Runs a command with root's rights to its end. `input` is given to it.
    pub fn run(&self, words: &[&str], input: &[u8], limit: Duration) -> Result<Output> {
        let shown = self.shown(words);
        let words: Vec<&str> = self.elevate.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let session = self.session()?.clone();
        let failed = |e: openssh::Error| self.lost(&shown, &e);
        self.runtime.block_on(async {
            let mut command = session.arc_command(words[0].to_string());
            command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().await.map_err(failed)?;
            let stdin = child.stdin().take();
            let work = async {
                use tokio::io::AsyncWriteExt;
                if let Some(mut stdin) = stdin {
                    // A command may end without reading all of it.
                    let _ = stdin.write_all(input).await;
                    let _ = stdin.shutdown().await;
                }
                child.wait_with_output().await
            };
            match tokio::time::timeout(limit, work).await {
                Ok(Ok(output)) => Ok(Output {
                    code: output.status.code().unwrap_or(-1),
                    stdout: output.stdout,
                    stderr: String::from_utf8_lossy(tail(&output.stderr)).trim().to_string(),
                }),
                Ok(Err(e)) => Err(failed(e)),
                Err(_) => Err(Error::new(
                    Kind::Host,
                    format!("{}: `{shown}` did not end within {} s", self.name, limit.as_secs()),
                )
                .hint(format!("look at the host: ssh {}", self.target.address))),
            }
        })
    }

    /// The same, and a status other than 0 is an error.
    pub fn must(&self, words: &[&str], input: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let output = self.run(words, input, limit)?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        let said = if output.stderr.is_empty() { String::new() } else { format!(": {}", output.stderr) };
        Err(Error::new(
            Kind::Host,
            format!("{}: `{}` failed with status {}{said}", self.name, self.shown(words), output.code),
        ))
    }

    /// Starts a command with root's rights: a conversation with it, and what it says on its standard error.
    pub fn channel(&self, words: &[&str]) -> Result<(Channel, LastWords)> {
        let session = self.session()?.clone();
        let shown = self.shown(words);
        let pipe = || std::io::pipe().map_err(|e| Error::new(Kind::Io, "cannot make a pipe").caused_by(e));
        let ((stdin, input), (output, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
        // As between us and a daemon: larger than the default, or both sides sleep and wake all the time.
        let _ = rustix::pipe::fcntl_setpipe_size(&input, 1 << 20);
        let all: Vec<String> =
            self.elevate.iter().cloned().chain(words.iter().map(|w| (*w).to_string())).collect();
        let child = self.runtime.block_on(async {
            let mut command = session.arc_command(all[0].clone());
            command
                .args(&all[1..])
                .stdin(Stdio::from(OwnedFd::from(stdin)))
                .stdout(Stdio::from(OwnedFd::from(stdout)))
                .stderr(Stdio::from(OwnedFd::from(stderr)));
            command.spawn().await.map_err(|e| self.lost(&shown, &e))
        })?;
        // It ends when its input does; until then it belongs to the session.
        self.runtime.spawn(async move {
            let _ = child.wait().await;
        });
        let last_words = LastWords::default();
        let keep = last_words.clone();
        std::thread::spawn(move || keep.hear(errors));
        let channel = Channel {
            input: Box::new(BufReader::with_capacity(64 * 1024, output)),
            output: Box::new(input),
            host: self.name.clone(),
        };
        Ok((channel, last_words))
    }

    fn lost(&self, shown: &str, e: &openssh::Error) -> Error {
        let cause = std::error::Error::source(e).map(|s| format!(": {s}")).unwrap_or_default();
        Error::new(Kind::Host, format!("{}: cannot run `{shown}`: {e}{cause}", self.name))
            .hint(reach_hint(&self.target))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The last to hold it ends the master; where something still runs over it, it ends by itself later.
        if let Some(session) = self.session.take().and_then(Arc::into_inner) {
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(5), session.close()).await });
        }
    }
}

/// A short path, because a socket's may have 108 bytes only (unix(7)), that exists.
fn control_directory() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_dir());
    runtime.unwrap_or_else(std::env::temp_dir)
}

fn tail(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(TAIL)..]
}

fn reach_hint(target: &Target) -> String {
    let user = target.user.as_deref().map(|u| format!("{u}@")).unwrap_or_default();
    format!("try it by hand: ssh {user}{}", target.address)
}

/// What ssh said, and what to do about it.
fn unreachable(target: &Target, e: &openssh::Error) -> Error {
    let said = match e {
        openssh::Error::Master(e) | openssh::Error::Connect(e) | openssh::Error::Ssh(e) => e.to_string(),
        other => other.to_string(),
    };
    let said = said.trim();
    let has = |text: &str| said.contains(text);
    let hint = if has("REMOTE HOST IDENTIFICATION HAS CHANGED")
        || has("Host key verification failed") && has("changed")
    {
        format!(
            "the host's key is not the known one: if it was installed anew, remove the old key (ssh-keygen -R {0}) and \
             accept the new one by hand (ssh {0}); if not, do not connect",
            target.address
        )
    } else if has("Host key verification failed") || has("host key is known") {
        format!(
            "the host's key is not known here: compare it and accept it by hand once: ssh {}",
            target.address
        )
    } else if has("Permission denied") {
        format!(
            "the host does not accept your key: check the user and the key, or add it with ssh-copy-id {}",
            target.address
        )
    } else {
        reach_hint(target)
    };
    // The last line says it; those before it are drawn with frames.
    let line = said.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("ssh gave no reason");
    Error::new(Kind::Host, format!("{}: cannot connect to {}: {line}", target.name, target.address))
        .hint(hint)
}
