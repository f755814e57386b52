//! Store paths that are no longer what Nix registered, because something wrote into them: as root nothing stops a program from
//! that. Nix does not look at a registered path again; sent to a host, such a path ends the transfer.
//!
//! On registration Nix sets each time to 1 and each mode to 0444 or 0555 (`canonicalisePathMetaData`). So one `lstat` an entry
//! tells nearly every change without reading a byte, and the size of the archive besides. What looks changed is hashed.
use crate::formats::nix::nar;
use crate::formats::nix::store_path::StorePath;
use crate::store::client::PathInfo;
use crate::store::connect::StoreConfig;
use crate::store::tree_hash::nar_hash;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::parallel;
use crate::sys::progress::check_interrupt;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, openat, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::{Scope, ScopedJoinHandle};

/// More threads wait for the disk, fewer for hashing.
const THREADS: usize = 4;
/// Four with this priority leave a core to a build that takes one, also where there are two.
const BEHIND: i32 = 10;
/// How many are named in one message.
const NAMED: usize = 5;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Bytes of names that are asked for at once.
const LISTING: usize = 32 << 10;

/// The time of everything that Nix has registered.
const REGISTERED: i64 = 1;

/// Which paths are looked at more closely than by what the file system says of their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Those that look changed.
    Suspects,
    /// All: the times of a file may have been set back.
    Everything,
}

/// What differs first, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    File(PathBuf),
    /// Nothing else is odd in it: something is missing.
    Folder(PathBuf),
    /// All times and modes are as Nix sets them.
    Nothing,
}

/// A path whose files are not what was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub path: StorePath,
    on_disk: PathBuf,
    sign: Sign,
}

impl Damage {
    /// The file that differs, or the place where one is missing.
    fn place(&self) -> PathBuf {
        match &self.sign {
            Sign::File(name) | Sign::Folder(name) if !name.as_os_str().is_empty() => self.on_disk.join(name),
            _ => self.on_disk.clone(),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place();
        match self.sign {
            Sign::File(_) => write!(f, "the first file that differs is {}", place.display()),
            Sign::Folder(_) => write!(f, "a file was taken from {}", place.display()),
            Sign::Nothing => {
                write!(f, "{} has other bytes; no time stamp tells in which file", place.display())
            }
        }
    }
}

/// Those of the paths whose files are something else. Of a store that does not lie on this machine, none.
pub fn damaged<'a>(
    config: &StoreConfig,
    paths: impl IntoIterator<Item = (&'a StorePath, &'a PathInfo)>,
    depth: Depth,
) -> Result<Vec<Damage>> {
    look(config, paths, depth, || ())
}

/// Those that look changed, found beside other work, which has the processors first.
pub fn damaged_meanwhile<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    config: &'env StoreConfig,
    paths: Vec<(&'env StorePath, &'env PathInfo)>,
) -> ScopedJoinHandle<'scope, Result<Vec<Damage>>> {
    // Of this thread alone (nice(2), "C library/kernel differences"), as each that looks is one of its own.
    let behind = || {
        let _ = rustix::process::nice(BEHIND);
    };
    scope.spawn(move || look(config, paths, Depth::Suspects, behind))
}

fn look<'a>(
    config: &StoreConfig,
    paths: impl IntoIterator<Item = (&'a StorePath, &'a PathInfo)>,
    depth: Depth,
    begin: impl Fn() + Sync,
) -> Result<Vec<Damage>> {
    if !config.lies_here() {
        return Ok(Vec::new());
    }
    let all: Vec<(&StorePath, &PathInfo)> = paths.into_iter().collect();
    let found = Mutex::new(Vec::new());
    parallel::each(
        &all,
        THREADS,
        || {
            begin();
            Ok(())
        },
        |(), (path, info)| {
            check_interrupt()?;
            let on_disk = config.on_disk(path);
            let sign = examine(&on_disk, info, depth).map_err(|e| Error::io("read", &on_disk, e))?;
            if let Some(sign) = sign {
                found.lock().push(Damage { path: (*path).clone(), on_disk, sign });
            }
            Ok(())
        },
    )?;
    let mut found = found.into_inner();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The same as an error that says what to do, and a note for the next snapshot, which then makes them anew.
pub fn refuse<'a>(
    config: &StoreConfig,
    paths: impl IntoIterator<Item = (&'a StorePath, &'a PathInfo)>,
    depth: Depth,
) -> Result<()> {
    let found = damaged(config, paths, depth)?;
    if found.is_empty() { Ok(()) } else { Err(told(config, &found)) }
}

/// What was found, as an error. The next snapshot looks at the whole store path by path.
pub fn told(config: &StoreConfig, found: &[Damage]) -> Error {
    config.doubt(found.iter().map(|damage| &damage.path));
    let what = match found {
        [one] => format!("{} was written to after Nix had registered it: {one}", config.absolute(&one.path)),
        _ => {
            let named: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
            let more = match found.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            format!(
                "{} store paths were written to after Nix had registered them: {}{more}",
                found.len(),
                named.join("; ")
            )
        }
    };
    let path = found.first().map(|damage| damage.place().into_boxed_path());
    let repair = found.first().map(|damage| config.absolute(&damage.path)).unwrap_or_default();
    Error { path, ..Error::new(Kind::Store, what) }.hint(format!(
        "take the snapshot again: `stillframe snapshot` finds such paths and makes them anew; what was built or fetched, \
         `nix-store --repair-path {repair}` as root makes anew, too"
    ))
}

fn examine(on_disk: &Path, info: &PathInfo, depth: Depth) -> io::Result<Option<Sign>> {
    let about = match statat(CWD, on_disk, AtFlags::SYMLINK_NOFOLLOW) {
        // Deleted by hand, or in a store that lies elsewhere: the daemon says so itself, and clearly.
        Err(Errno::NOENT) => return Ok(None),
        about => about?,
    };
    let mut look = Look::default();
    let size = look.archive(on_disk, &about)?;
    let signs = look.signs;
    let first = || signs.iter().min().cloned().unwrap_or(Sign::Nothing);
    if size != info.nar_size {
        return Ok(Some(first()));
    }
    if signs.is_empty() && depth == Depth::Suspects {
        return Ok(None);
    }
    match nar_hash(on_disk) {
        Ok(hash) if hash == info.nar_hash => Ok(None),
        Ok(_) => Ok(Some(first())),
        // A socket, a FIFO.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Some(first())),
        Err(e) => Err(e),
    }
}

/// What is found in one path. Of a hundred thousand entries each costs its one system call and next to nothing else.
#[derive(Default)]
struct Look {
    /// Where in the path it is.
    name: PathBuf,
    /// What Nix would not leave so.
    signs: Vec<Sign>,
}

impl Look {
    /// How many bytes a path takes in an archive.
    fn archive(&mut self, on_disk: &Path, about: &Stat) -> io::Result<u64> {
        self.entry(Path::new(""), about);
        let size = nar::MAGIC_SIZE + own_size(about);
        if !is_directory(about) {
            return Ok(size);
        }
        let folder = openat(CWD, on_disk, FOLDER, Mode::empty())?;
        Ok(size + self.folder(&folder, &mut Vec::with_capacity(LISTING))?)
    }

    fn entry(&mut self, own: &Path, about: &Stat) {
        let mode = about.st_mode & 0o7777;
        let symlink = FileType::from_raw_mode(about.st_mode) == FileType::Symlink;
        if about.st_mtime != REGISTERED || !symlink && mode != 0o444 && mode != 0o555 {
            let name = self.name.join(own);
            self.signs.push(if is_directory(about) { Sign::Folder(name) } else { Sign::File(name) });
        }
    }

    /// The same of what is in a folder. `listing` has room for a part of its names.
    fn folder(&mut self, folder: &OwnedFd, listing: &mut Vec<u8>) -> io::Result<u64> {
        let (mut size, mut below) = (0, Vec::new());
        let mut entries = RawDir::new(folder, listing.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let own = entry.file_name();
            if matches!(own.to_bytes(), b"." | b"..") {
                continue;
            }
            let about = statat(folder, own, AtFlags::SYMLINK_NOFOLLOW)?;
            self.entry(Path::new(OsStr::from_bytes(own.to_bytes())), &about);
            size += nar::entry_size(own.to_bytes().len() as u64) + own_size(&about);
            if is_directory(&about) {
                below.push(own.to_owned());
            }
        }
        for own in below {
            self.name.push(OsStr::from_bytes(own.to_bytes()));
            size += self.folder(&openat(folder, &own, FOLDER, Mode::empty())?, listing)?;
            self.name.pop();
        }
        Ok(size)
    }
}

fn is_directory(about: &Stat) -> bool {
    FileType::from_raw_mode(about.st_mode) == FileType::Directory
}

/// How many bytes an entry takes in an archive, without what is in it.
fn own_size(about: &Stat) -> u64 {
    let size = about.st_size.unsigned_abs();
    match FileType::from_raw_mode(about.st_mode) {
        FileType::Symlink => nar::symlink_size(size),
        FileType::RegularFile => nar::file_size(about.st_mode & 0o100 != 0, size),
        FileType::Directory => nar::DIRECTORY_SIZE,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "damage_tests.rs"]
mod tests;
