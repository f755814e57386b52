//! Finding the store: the daemon's socket, or a `nix-daemon --stdio` of our own where root has a store
//! without a daemon (or where a scratch store is asked for).
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::patient::Patient;
use crate::sys::programs;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// As NIX_REMOTE: `local?root=/path` for a scratch store.
    pub remote: Option<String>,
    /// In place of `nix-daemon --stdio`.
    pub daemon: Option<Vec<String>>,
    pub store_dir: StoreDir,
    /// The names of paths that are not what was registered: a snapshot that has one of them looks at all of its own.
    pub doubts: Option<PathBuf>,
}

impl StoreConfig {
    /// What the environment says; `remote` comes before NIX_REMOTE.
    pub fn from_environment(remote: Option<&str>) -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        StoreConfig {
            remote: remote
                .map(String::from)
                .or_else(|| text("NIX_REMOTE"))
                .filter(|r| r != "daemon" && r != "auto"),
            daemon: text("STILLFRAME_NIX_DAEMON").map(|t| t.split_whitespace().map(String::from).collect()),
            store_dir: text("NIX_STORE_DIR").map(StoreDir).unwrap_or_default(),
            doubts: None,
        }
    }

    pub fn absolute(&self, path: &StorePath) -> String {
        path.to_absolute(&self.store_dir)
    }

    /// Whether the store's files are this machine's, at the places that `on_disk` says.
    pub fn lies_here(&self) -> bool {
        match self.remote.as_deref() {
            None | Some("local") => true,
            Some(remote) => remote
                .strip_prefix("local?")
                .is_some_and(|options| !options.split('&').any(|option| option.starts_with("real="))),
        }
    }

    /// Remembers paths that are not what was registered. Not remembered, they are found again where they are looked for.
    pub fn doubt<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) {
        let known = self.doubted();
        let mut all = known.clone();
        all.extend(paths.into_iter().cloned());
        self.remember(&known, &all);
    }

    pub fn doubted(&self) -> BTreeSet<StorePath> {
        let text = self.doubts.as_deref().and_then(|file| std::fs::read_to_string(file).ok());
        text.unwrap_or_default().lines().filter_map(|name| StorePath::from_base_name(name).ok()).collect()
    }

    /// These were looked at, and are what was registered.
    pub fn trust<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) {
        let known = self.doubted();
        let mut left = known.clone();
        for path in paths {
            left.remove(path);
        }
        self.remember(&known, &left);
    }

    fn remember(&self, before: &BTreeSet<StorePath>, now: &BTreeSet<StorePath>) {
        let Some(file) = self.doubts.as_ref().filter(|_| before != now) else { return };
        let text: String = now.iter().map(|path| format!("{path}\n")).collect();
        if let Err(error) = files::write_atomic(file, text.as_bytes()) {
            tracing::debug!("not remembered: {}", error.full());
        }
    }

    /// Where a path's files lie: with `local?root=DIR` not where its name says.
    pub fn on_disk(&self, path: &StorePath) -> PathBuf {
        self.folder().join(path.to_string())
    }

    /// The store's folder on disk.
    pub fn folder(&self) -> PathBuf {
        let options = self.remote.as_deref().and_then(|remote| remote.split_once('?'));
        let root =
            options.and_then(|(_, all)| all.split('&').find_map(|option| option.strip_prefix("root=")));
        match root {
            Some(root) => Path::new(root).join(self.store_dir.0.trim_start_matches('/')),
            None => PathBuf::from(&self.store_dir.0),
        }
    }

    fn socket() -> PathBuf {
        let text = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        text("NIX_DAEMON_SOCKET_PATH").unwrap_or_else(|| {
            text("NIX_STATE_DIR")
                .unwrap_or_else(|| PathBuf::from("/nix/var/nix"))
                .join("daemon-socket/socket")
        })
    }
}

/// Both directions of a connection, and the daemon that belongs to it, if we started one.
pub struct Stream {
    pub input: Box<dyn Read + Send>,
    pub output: Box<dyn Write + Send>,
    pub child: Option<Daemon>,
    /// For messages: where this store is.
    pub at: String,
}

pub struct Daemon {
    child: Child,
    /// The last it said on its standard error.
    said: Arc<Mutex<Vec<u8>>>,
    /// Closed when it can say no more.
    silent: mpsc::Receiver<()>,
}

const TAIL: usize = 4096;

const PIPE: usize = 1 << 20;
/// How long to wait for the last words of a daemon that has ended the connection.
const PATIENCE: Duration = Duration::from_secs(1);

impl Daemon {
    /// What it said before it ended.
    pub fn last_words(&mut self) -> String {
        // It is ending, and they are on their way; one that stays is not waited for.
        let _ = self.silent.recv_timeout(PATIENCE);
        let said = self.said.lock();
        String::from_utf8_lossy(&said).trim().to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its input is closed by now and it ends by itself; a stuck one is killed, by its own id only.
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn open(config: &StoreConfig) -> Result<Stream> {
    if config.remote.is_none() && config.daemon.is_none() {
        let path = StoreConfig::socket();
        match UnixStream::connect(&path) {
            Ok(socket) => {
                let input = socket.try_clone().map_err(|e| Error::io("use", &path, e))?;
                let at = path.display().to_string();
                return Ok(Stream {
                    input: Box::new(Patient(input)),
                    output: Box::new(socket),
                    child: None,
                    at,
                });
            }
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Error::io("connect to the Nix daemon at", &path, e).hint(
                    "your user may not use Nix here: see `allowed-users` in nix.conf and the socket's mode",
                ));
            }
            Err(_) if rustix::process::geteuid().is_root() => {}
            Err(e) => {
                return Err(Error::io("connect to the Nix daemon at", &path, e).hint(
                    "install Nix (Debian: apt-get install nix-setup-systemd), or start its daemon: systemctl start nix-daemon.socket",
                ));
            }
        }
    }
    spawn(config)
}

fn not_started(shown: &str, e: std::io::Error) -> Error {
    let hint = if e.kind() == std::io::ErrorKind::NotFound {
        "Nix is not installed, or not on PATH (Debian: apt-get install nix-bin)"
    } else {
        "check that the program may be executed"
    };
    Error::new(Kind::Store, format!("cannot start `{shown}`")).caused_by(e).hint(hint)
}

fn program(word: &str, shown: &str) -> Result<PathBuf> {
    if word.contains('/') {
        return Ok(word.into());
    }
    programs::find(word).ok_or_else(|| {
        let error = not_started(shown, rustix::io::Errno::NOENT.into());
        match programs::passed_over(word) {
            None => error,
            Some(at) => error.hint(format!(
                "{} is not used: wheels install their scripts beside it; STILLFRAME_NIX_DAEMON can name it",
                at.display()
            )),
        }
    })
}

fn spawn(config: &StoreConfig) -> Result<Stream> {
    let words = config.daemon.clone().unwrap_or_else(|| vec!["nix-daemon".into(), "--stdio".into()]);
    let shown = words.join(" ");
    let mut command = Command::new(program(&words[0], &shown)?);
    command.env("PATH", programs::path());
    command.args(&words[1..]).env("NIX_REMOTE", config.remote.as_deref().unwrap_or("local"));
    command.env("NIX_STORE_DIR", &config.store_dir.0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A Ctrl-C is ours to handle: the daemon must finish what it is writing.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|e| not_started(&shown, e))?;
    let missing = || Error::new(Kind::Store, format!("cannot talk to `{shown}`"));
    let input = child.stdout.take().ok_or_else(missing)?;
    let output = child.stdin.take().ok_or_else(missing)?;
    // The most an unprivileged process may have; with the default of 64 KiB both sides sleep and wake a
    // thousand times for each 64 MiB. Where the system says no, the pipe works as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(&output, PIPE);
    let mut errors = child.stderr.take().ok_or_else(missing)?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let keep = said.clone();
    let (speaking, silent) = mpsc::channel();
    std::thread::spawn(move || {
        let _speaking: mpsc::Sender<()> = speaking;
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = errors.read(&mut buffer) {
            let mut said = keep.lock();
            said.extend_from_slice(&buffer[..n]);
            let extra = said.len().saturating_sub(TAIL);
            said.drain(..extra);
        }
    });
    Ok(Stream {
        input: Box::new(Patient(input)),
        output: Box::new(output),
        child: Some(Daemon { child, said, silent }),
        at: format!("`{shown}`"),
    })
}
