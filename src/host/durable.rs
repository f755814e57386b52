//! What must outlive a power cut before anything refers to it: the files of the store. Nix syncs its database, not the
//! files, so it calls a path valid whose bytes never reached the disk.
use crate::store::StoreConfig;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A disk that takes longer for what is in memory is not one to serve from.
const LIMIT: Duration = Duration::from_secs(600);
/// How often `keep_waiting` is asked.
const LOOK: Duration = Duration::from_millis(200);

/// Writes out the store and Nix's own state (`nix`: its folder), with one syncfs(2) for each file system.
/// `keep_waiting` is asked meanwhile, and its error ends the wait.
pub fn sync_store(
    config: &StoreConfig,
    nix: &Path,
    keep_waiting: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    if fault::is_taken_out("syncfs") {
        return Ok(());
    }
    sync(&[config.folder(), nix.to_path_buf()], LIMIT, |file| rustix::fs::syncfs(file), keep_waiting)
}

/// Writes out the file system of one folder, after another program has changed something there.
pub fn sync_folder(folder: &Path) -> Result<()> {
    sync(&[folder.to_path_buf()], LIMIT, |file| rustix::fs::syncfs(file), &mut || Ok(()))
}

/// `write_out`: what is done with an open folder of each file system.
fn sync(
    folders: &[PathBuf],
    limit: Duration,
    write_out: impl Fn(&File) -> rustix::io::Result<()> + Copy + Send + 'static,
    keep_waiting: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let began = Instant::now();
    let mut done = BTreeSet::new();
    // A scratch store keeps its state elsewhere.
    for folder in folders.iter().filter(|folder| folder.exists()) {
        let file = File::open(folder).map_err(|e| Error::io("open", folder, e))?;
        let device = file.metadata().map_err(|e| Error::io("read", folder, e))?.dev();
        if !done.insert(device) {
            continue;
        }
        // In a thread of its own: nothing ends the call, and a disk that hangs must not take the caller with it.
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(write_out(&file)));
        loop {
            match told.recv_timeout(LOOK) {
                Ok(Ok(())) => break,
                Ok(Err(e)) => {
                    return Err(Error::io("write to disk the file system of", folder, e.into())
                        .hint("the disk may be failing: journalctl -k on the host says more"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(Kind::Io, "a thread ended unexpectedly"));
                }
                Err(RecvTimeoutError::Timeout) => keep_waiting()?,
            }
            if began.elapsed() > limit {
                let message = format!(
                    "the file system of {} was not on disk within {} s",
                    folder.display(),
                    limit.as_secs()
                );
                return Err(Error::new(Kind::Io, message).hint(
                    "something else writes much to that disk, or it is failing: journalctl -k on the host \
                     says more; then run the command again",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn each_file_system_is_written_out_once() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let folders = [dir.path().to_path_buf(), other, dir.path().join("none")];
        let count = |file: &File| {
            CALLS.fetch_add(1, Ordering::SeqCst);
            rustix::fs::syncfs(file)
        };
        sync(&folders, LIMIT, count, &mut || Ok(())).unwrap();
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_disk_that_fails_or_hangs_ends_the_wait() {
        let folders = [std::env::temp_dir()];
        let failing = sync(&folders, LIMIT, |_| Err(rustix::io::Errno::IO), &mut || Ok(()));
        let error = failing.unwrap_err();
        assert!(error.to_string().starts_with("cannot write to disk the file system of /"), "{error}");
        let hang = |_: &File| {
            std::thread::sleep(Duration::from_secs(5));
            Ok(())
        };
        let error = sync(&folders, Duration::ZERO, hang, &mut || Ok(())).unwrap_err();
        assert!(error.to_string().ends_with("was not on disk within 0 s"), "{error}");
        let stopped = || Err(Error::new(Kind::Interrupted, "stopped"));
        assert_eq!(sync(&folders, LIMIT, hang, &mut { stopped }).unwrap_err().kind, Kind::Interrupted);
    }
}
