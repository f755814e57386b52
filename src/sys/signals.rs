//! SIGINT and SIGTERM: the first asks for a stop at the next safe point, the second ends the process.
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress;
use crate::sys::say::say;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

static HEEDED: AtomicBool = AtomicBool::new(false);

/// From the return on, no signal ends this process unheard. A second call changes nothing.
pub fn heed() -> Result<()> {
    if HEEDED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = |e: std::io::Error| Error::new(Kind::Io, "cannot watch for signals").caused_by(e);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(cannot)?;
    let within = runtime.enter();
    let mut int = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut term = signal(SignalKind::terminate()).map_err(cannot)?;
    drop(within);
    std::thread::spawn(move || {
        runtime.block_on(async {
            for first in [true, false] {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
                if first {
                    progress::interrupt();
                    say("stopping at the next safe point; once more to stop at once");
                } else {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(())
}

/// Puts a child of a process that heeds signals out of the terminal's reach: a Ctrl-C there goes to the whole group in
/// front, and what it ends is this process's to say. Says whether the child leads a group of its own, in which it must
/// not ask the terminal for anything. Of a process that does not heed signals a Ctrl-C ends the children too.
pub fn shield(command: &mut Command) -> bool {
    if heeded() {
        command.process_group(0);
    }
    heeded()
}

/// Whether this process decides what a signal ends.
pub fn heeded() -> bool {
    HEEDED.load(Ordering::SeqCst)
}
