//! Which files a program uses, with all that it starts: opened, executed, or looked for as programs. A filter of its system
//! calls asks us about each of these (seccomp_unotify(2)), we note it and let the kernel go on with it. No rights are needed,
//! and it holds for every language. It is not safe against a program that hides something, and nothing relies on that.
//!
//! Where the kernel does not have it, or another filter forbids it, the program runs unobserved.
mod calls;
mod listener;
mod notes;
mod process;

pub use notes::{Code, Noted, Place, Places, Ways};

use crate::sys::process::Life;
use calls::{Call, Does, X_OK};
use libc::seccomp_notif;
use notes::Notes;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// For processes that were ended to be gone.
const GONE_LIMIT: Duration = Duration::from_millis(500);

/// Threads that are remembered. Of more, those that have ended are forgotten.
const THREADS: usize = 4096;

/// A program that is observed.
pub struct Watch {
    shared: Arc<Shared>,
    /// Disconnected when nobody is left to observe.
    over: Receiver<()>,
}

#[derive(Default)]
struct Shared {
    notes: Mutex<Notes>,
    /// Who was seen, so that none is left behind.
    lives: Mutex<HashMap<u32, Life>>,
    /// Why nothing is observed.
    failed: Mutex<Option<String>>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    pub noted: Vec<Noted>,
    /// There were too many for all to be kept.
    pub more: bool,
    /// Why it was not observed.
    pub failed: Option<String>,
}

impl Watch {
    /// Observes what `command` starts. Whoever spawns it drops it afterwards: until then it counts as about to start.
    pub fn over(command: &mut Command, places: Places) -> Watch {
        let shared = Arc::new(Shared::default());
        let (sender, over) = channel();
        let watch = Watch { shared: shared.clone(), over };
        if let Err(why) = begin(command, places, shared, sender) {
            *watch.shared.failed.lock() = Some(why.to_string());
        }
        watch
    }

    /// The program has ended and been waited for. What it left behind is ended too: nobody would answer its calls once this
    /// process is gone.
    pub fn end(self) -> Observed {
        let gone = |limit| {
            matches!(self.over.recv_timeout(limit), Err(std::sync::mpsc::RecvTimeoutError::Disconnected))
        };
        if !gone(GONE_LIMIT) {
            // One may start another meanwhile.
            for _ in 0..4 {
                self.shared.kill();
                if gone(GONE_LIMIT) {
                    break;
                }
            }
        }
        let mut notes = self.shared.notes.lock();
        Observed {
            noted: std::mem::take(&mut notes.all),
            more: notes.more,
            failed: self.shared.failed.lock().take(),
        }
    }
}

impl Shared {
    fn kill(&self) {
        use rustix::process::{Pid, Signal, kill_process};
        for (thread, life) in self.lives.lock().iter() {
            if let Some(pid) = i32::try_from(*thread).ok().and_then(Pid::from_raw).filter(|_| life.goes_on())
            {
                // It may have ended by itself in this moment.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn begin(
    command: &mut Command,
    places: Places,
    shared: Arc<Shared>,
    over: Sender<()>,
) -> std::io::Result<()> {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Before the program: its start is the first call that waits for us.
    thread::Builder::new().name("observer".into()).spawn(move || {
        let _over = over;
        match listener::receive(ours.as_fd()) {
            Ok(Some(listener)) => Observer { listener, places, shared, at_work: HashMap::new() }.observe(),
            // It was never started, which is said elsewhere.
            Ok(None) => {}
            Err(errno) => *shared.failed.lock() = Some(std::io::Error::from(errno).to_string()),
        }
    })?;
    let filter = calls::filter();
    // SAFETY: between fork and exec only system calls are made, on what was allocated before; no lock is taken.
    unsafe { command.pre_exec(move || listener::install(&filter, theirs.as_fd())) };
    Ok(())
}

struct Observer {
    listener: OwnedFd,
    places: Places,
    shared: Arc<Shared>,
    /// Whose code a thread loaded last; see `Places::loaded`.
    at_work: HashMap<u32, Option<Option<String>>>,
}

impl Observer {
    /// Until nobody is left. Whatever fails, the next call is answered: were the listener closed, every call would fail.
    fn observe(mut self) {
        while listener::wait(&self.listener) {
            match listener::next(&self.listener) {
                Ok(notice) => {
                    // While its call waits: a thread's first call may be its last.
                    self.at_work(notice.pid);
                    let seen = calls::of(&notice).and_then(|call| Seen::of(call, &notice));
                    let went_on = listener::go_on(&self.listener, &notice);
                    if let (Some(seen), Ok(())) = (seen, went_on) {
                        self.note(seen);
                    }
                }
                // The process was killed meanwhile, or we were interrupted.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn note(&mut self, seen: Seen) {
        let Seen { thread, path, ways } = seen;
        let mut at_work = self.at_work(thread);
        if ways.read {
            let after = self.places.loaded(&path, at_work.clone());
            if after != at_work {
                self.at_work.insert(thread, after.clone());
                at_work = after;
            }
        }
        // What starts the environment's interpreter is not the environment.
        let Some(after) = at_work else { return };
        if self.places.of(&path).is_some_and(|place| !(place.writes && ways.written)) {
            return;
        }
        if self.shared.notes.lock().knows(&path, ways) {
            return;
        }
        if ways.written || process::exists(thread, &path) {
            let program = process::program(thread);
            self.shared.notes.lock().add(Noted { path, ways, program, after });
        }
    }

    /// A new thread is at what its process is at, and a new process at what its parent is.
    fn at_work(&mut self, thread: u32) -> Option<Option<String>> {
        if let Some(known) = self.at_work.get(&thread) {
            return known.clone();
        }
        if self.at_work.len() >= THREADS {
            let mut lives = self.shared.lives.lock();
            lives.retain(|_, life| life.goes_on());
            self.at_work.retain(|thread, _| lives.contains_key(thread));
        }
        let from = process::origin(thread).and_then(|origin| self.at_work.get(&origin).cloned());
        let new = from.unwrap_or_default();
        self.at_work.insert(thread, new.clone());
        if let Some(life) = Life::of(thread) {
            self.shared.lives.lock().insert(thread, life);
        }
        new
    }
}

/// One use of one file.
struct Seen {
    thread: u32,
    path: std::path::PathBuf,
    ways: Ways,
}

impl Seen {
    /// While the call waits: later its memory may say something else.
    fn of(call: &Call, notice: &seccomp_notif) -> Option<Seen> {
        let argument = |at: usize| notice.data.args.get(at).copied().unwrap_or_default();
        let thread = notice.pid;
        let path = process::text(thread, argument(call.path))?;
        // A descriptor is an `int`.
        let folder = call.folder.map(|at| argument(at) as i32);
        let opened = |flags: u64| {
            let flags = flags as i32;
            let writes =
                flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
            Ways { read: !writes, written: writes, ..Ways::default() }
        };
        let ways = match call.does {
            // What only takes hold of a path does not use what is there.
            Does::Open(flags) if argument(flags) as i32 & libc::O_PATH != 0 => return None,
            Does::Open(flags) => opened(argument(flags)),
            Does::OpenHow(how) => opened(process::number(thread, argument(how))?),
            Does::Create => opened(libc::O_CREAT as u64),
            Does::Execute => Ways { executed: true, ..Ways::default() },
            Does::Ask(mode) if argument(mode) & X_OK == 0 => return None,
            Does::Ask(_) => Ways { asked: true, ..Ways::default() },
        };
        let path = process::absolute(thread, folder, &path)?;
        Some(Seen { thread, path, ways })
    }
}

#[cfg(test)]
mod tests;
