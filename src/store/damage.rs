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
use parking_lot::Mutex;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More threads wait for the disk, fewer for hashing.
const THREADS: usize = 4;
/// How many are named in one message.
const NAMED: usize = 5;

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
    if !config.lies_here() {
        return Ok(Vec::new());
    }
    let all: Vec<(&StorePath, &PathInfo)> = paths.into_iter().collect();
    let found = Mutex::new(Vec::new());
    parallel::each(
        &all,
        THREADS,
        || Ok(()),
        |(), (path, info)| {
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
    let about = match fs::symlink_metadata(on_disk) {
        // Deleted by hand, or in a store that lies elsewhere: the daemon says so itself, and clearly.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        about => about?,
    };
    let mut signs = Vec::new();
    let size = nar::MAGIC_SIZE + node(on_disk, Path::new(""), &about, &mut signs)?;
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

/// How many bytes an entry takes in an archive; `signs` gets what Nix would not leave so.
fn node(path: &Path, name: &Path, about: &Metadata, signs: &mut Vec<Sign>) -> io::Result<u64> {
    let kind = about.file_type();
    let mode = about.mode() & 0o7777;
    let odd = about.mtime() != REGISTERED || !kind.is_symlink() && mode != 0o444 && mode != 0o555;
    if odd {
        signs.push(if kind.is_dir() { Sign::Folder(name.into()) } else { Sign::File(name.into()) });
    }
    if kind.is_symlink() {
        return Ok(nar::symlink_size(about.size()));
    }
    if kind.is_file() {
        return Ok(nar::file_size(about.mode() & 0o100 != 0, about.size()));
    }
    if !kind.is_dir() {
        return Ok(0);
    }
    let mut size = nar::DIRECTORY_SIZE;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let own = entry.file_name();
        let about = entry.metadata()?;
        size += nar::entry_size(own.len() as u64) + node(&path.join(&own), &name.join(&own), &about, signs)?;
    }
    Ok(size)
}

#[cfg(test)]
#[path = "damage_tests.rs"]
mod tests;
