//! One instance in the foreground: assemble a slot, start the program, wait until it answers, pass
//! signals on, list what it wrote, throw the slot away.
use crate::formats::comfy::api::paths;
pub use crate::host::placed::without;
use crate::host::{placed, slot, socket};
use crate::protocol::launch::{Launch, Values};
use crate::sys::address::Address;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::http;
use crate::sys::observe::{Observed, Places, Watch};
use crate::sys::seal::Seal;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long an instance may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Between two questions whether it answers: each costs a refused connection on loopback.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// What ComfyUI answers once its imports are done.
const READY: &str = paths::SYSTEM_STATS;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub struct Instance {
    pub child: Child,
    pub url: String,
    address: Address,
    pub slot: PathBuf,
    started: Instant,
    group: Option<rustix::process::Pid>,
    watch: Option<Watch>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.end_group();
        // Whoever is left would wait for answers to its calls.
        drop(self.watch.take().map(Watch::end));
    }
}

/// A loopback port nobody listens on now. Another process may take it before the instance does; the
/// instance then ends with its own error, which is shown.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")
        .map_err(|e| Error::new(Kind::Io, "no free loopback port").caused_by(e))?;
    Ok(listener.local_addr().map_err(|e| Error::new(Kind::Io, "no free loopback port").caused_by(e))?.port())
}

/// A port of the user's choice: whoever listens there would answer in the place of what is started.
pub fn unused(port: u16) -> Result<u16> {
    std::net::TcpListener::bind(("127.0.0.1", port)).map(|_| port).map_err(|e| {
        Error::new(Kind::Input, format!("cannot listen on port {port} of 127.0.0.1"))
            .caused_by(e)
            .hint("end what listens there, or name another port; without --port a free one is taken")
    })
}

/// Has the server write its routes into a file, whose path is the answer; `None` from `routes` where it did not.
pub fn note_routes(launch: &mut Launch, values: &Values) -> Result<PathBuf> {
    socket::note_routes(launch, values)
}

pub fn routes(file: &Path) -> Option<BTreeSet<String>> {
    socket::read_routes(file)
}

/// What is around an instance.
pub struct Around<'a> {
    /// What it finds read-only.
    pub seal: &'a Seal,
    /// What of the files that it uses is not worth a note.
    pub places: Places,
    /// Secrets as files of the instance's own tree: values by their place in the environment.
    pub placed: &'a BTreeMap<String, String>,
}

/// Starts the program with nothing of this process's environment but a short list, and observed.
pub fn start(
    launch: &Launch,
    values: &Values,
    (log, log_err): (Stdio, Stdio),
    around: Around<'_>,
) -> Result<Instance> {
    let listen: IpAddr = values.listen.parse().map_err(|e| {
        Error::new(Kind::Input, format!("{} is not an IP address", values.listen)).caused_by(e)
    })?;
    let address = SocketAddr::new(listen, values.port);
    // What the slot costs is part of what its user waits for.
    let started = Instant::now();
    slot::assemble(launch, values)?;
    for (at, value) in around.placed {
        placed::put(launch, Path::new(&values.slot), at, value.as_bytes())?;
    }
    let mut command = Command::new(&launch.program);
    command
        .args(launch.arguments.iter().map(|a| values.fill(a)))
        .current_dir(Path::new(&values.slot).join(&launch.directory))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_err)
        // What it starts goes down with it, however it ends.
        .process_group(0)
        .kill_on_drop(true);
    for name in ["TERM", "TZ", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"] {
        // The driver's libraries are the host's, not the snapshot's: the caller says where they are.
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(slot::environment(launch, values, &BTreeMap::new()));
    around.seal.apply(command.as_std_mut());
    let watch = Watch::over(command.as_std_mut(), around.places);
    die_with_us(&mut command);
    let child = command.spawn().map_err(|e| Error::io("start", &launch.program, e))?;
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
    Ok(Instance {
        child,
        group,
        url: format!("http://{address}"),
        address: address.into(),
        slot: PathBuf::from(&values.slot),
        started,
        watch: Some(watch),
    })
}

/// An instance in the foreground is nobody's once this process is gone, however that ends. (The kernel
/// watches the thread that starts it: the main one.)
fn die_with_us(command: &mut Command) {
    use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
    let us: Pid = getpid();
    let ask = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before the kernel was asked.
        if getppid() == Some(us) { Ok(()) } else { Err(std::io::ErrorKind::NotConnected.into()) }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated, no lock taken.
    unsafe { command.pre_exec(ask) };
}

impl Instance {
    /// Waits until the server answers.
    pub async fn ready(&mut self, limit: Duration) -> Result<Duration> {
        loop {
            if let Some(status) = self.exited()? {
                return Err(Error::new(
                    Kind::Environment,
                    format!("the server ended before it answered: {status}"),
                )
                .hint("its own messages are above"));
            }
            if http::get(&self.address, READY, ANSWER_LIMIT).await.is_ok_and(|r| r.status.is_success()) {
                return Ok(self.started.elapsed());
            }
            if self.started.elapsed() > limit {
                return Err(Error::new(
                    Kind::Environment,
                    format!("{}{READY} did not answer within {} s", self.url, limit.as_secs()),
                ));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::new(Kind::Io, "cannot wait for the server").caused_by(e))
    }

    /// Ends the instance: SIGTERM, then SIGKILL after a limit; and whatever it started and left behind.
    pub async fn stop(&mut self) -> Result<()> {
        use rustix::process::{Signal, kill_process};
        if let Some(pid) = self.child.id().and_then(|p| rustix::process::Pid::from_raw(p as i32)) {
            // It may have ended by itself in this moment: then there is nothing to signal.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            self.child
                .kill()
                .await
                .map_err(|e| Error::new(Kind::Io, "cannot stop the server").caused_by(e))?;
        }
        self.end_group();
        Ok(())
    }

    /// What it used, once it has ended.
    pub fn observed(&mut self) -> Observed {
        self.end_group();
        self.watch.take().map(Watch::end).unwrap_or_default()
    }

    fn end_group(&mut self) {
        if let Some(group) = self.group.take() {
            // Mostly nobody is left in it.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
