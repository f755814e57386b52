//! Mount points in folders that do not have them, in a mount namespace: nothing is made on the disk, which may be read-only
//! and is everybody's. The nearest folder that is there is covered by an empty one (tmpfs(5)), in which all that it had is
//! bound again, and the mount points are made.
use rustix::fs::{CWD, Mode, OFlags, mkdirat, open, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_remount};
use rustix::process::{chdir, fchdir};
use std::ffi::{CStr, CString, OsStr};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub(super) struct Cover {
    at: CString,
    kept: Vec<Kept>,
    points: Vec<(CString, Kind)>,
}

#[derive(Debug, Clone)]
struct Kept {
    name: CString,
    at: CString,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Folder,
    File,
    Link(CString),
}

pub(super) fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| ErrorKind::InvalidFilename.into())
}

/// Where a path is, or will be: the links of the part that is there resolved.
pub(super) fn place(at: &Path) -> PathBuf {
    let there = at.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    match there.and_then(|(part, real)| Some((real, at.strip_prefix(part).ok()?))) {
        Some((real, rest)) if !rest.as_os_str().is_empty() => real.join(rest),
        Some((real, _)) => real,
        None => at.to_path_buf(),
    }
}

/// What is to be covered so that each of the paths (see `place`) is there: as a folder, or as a file.
pub(super) fn covers(wanted: &[(PathBuf, bool)]) -> Result<Vec<Cover>> {
    let absent: Vec<&(PathBuf, bool)> = wanted.iter().filter(|(at, _)| !at.exists()).collect();
    let above = |at: &PathBuf| at.ancestors().skip(1).find(|part| part.exists()).map(Path::to_path_buf);
    let mut folders: Vec<PathBuf> = absent.iter().filter_map(|(at, _)| above(at)).collect();
    folders.sort();
    folders.dedup();
    // The outermost alone: with two, the outer one would be laid over the inner one.
    let all = folders.clone();
    folders.retain(|folder| !all.iter().any(|other| folder != other && folder.starts_with(other)));
    folders.iter().map(|folder| cover(folder, &all, &absent)).collect()
}

fn cover(folder: &Path, all: &[PathBuf], absent: &[&(PathBuf, bool)]) -> Result<Cover> {
    if folder == Path::new("/") {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the root folder has none of the folders that are needed",
        ));
    }
    let mut out = Cover { at: c_string(folder)?, kept: Vec::new(), points: Vec::new() };
    out.keep(folder, all)?;
    for (at, is_folder) in absent.iter().filter(|(at, _)| at.starts_with(folder)) {
        let mut parts: Vec<&Path> = at.ancestors().skip(1).take_while(|part| !part.exists()).collect();
        parts.reverse();
        for part in parts {
            out.points.push((c_string(part)?, Kind::Folder));
        }
        out.points.push((c_string(at)?, if *is_folder { Kind::Folder } else { Kind::File }));
    }
    Ok(out)
}

impl Cover {
    /// What is in a folder; of one in which something is missing, too, its content in place of itself.
    fn keep(&mut self, folder: &Path, all: &[PathBuf]) -> Result<()> {
        let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type()?);
            let open = kind.is_dir() && all.iter().any(|other| other.starts_with(&path));
            let made = if kind.is_symlink() {
                Kind::Link(c_string(&std::fs::read_link(&path)?)?)
            } else if kind.is_dir() {
                Kind::Folder
            } else {
                Kind::File
            };
            if open {
                self.points.push((c_string(&path)?, made));
                self.keep(&path, all)?;
                continue;
            }
            let top = Path::new(OsStr::from_bytes(self.at.to_bytes()));
            let name = c_string(path.strip_prefix(top).unwrap_or(&path))?;
            self.kept.push(Kept { name, at: c_string(&path)?, kind: made });
        }
        Ok(())
    }

    /// Between fork and exec: system calls alone, on what was allocated before.
    pub(super) fn mount(&self) -> Result<()> {
        let back = open(c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // From here what is covered can still be reached, by relative names.
        chdir(self.at.as_c_str())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(c"stillframe", self.at.as_c_str(), c"tmpfs", flags, c"mode=755")?;
        for (at, kind) in &self.points {
            make(at, kind)?;
        }
        for Kept { name, at, kind } in &self.kept {
            make(at, kind)?;
            if matches!(kind, Kind::Link(_)) {
                continue;
            }
            match mount_bind_recursive(name.as_c_str(), at.as_c_str()) {
                // Gone since it was listed.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        mount_remount(self.at.as_c_str(), MountFlags::BIND | MountFlags::RDONLY | flags, c"")?;
        fchdir(back)?;
        Ok(())
    }
}

fn make(at: &CStr, kind: &Kind) -> Result<()> {
    let made = match kind {
        Kind::Folder => mkdirat(CWD, at, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            open(at, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
        Kind::Link(to) => symlinkat(to.as_c_str(), CWD, at),
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
