//! Is this workstation able to take snapshots? Looks, and changes nothing.
use crate::capture::python::find;
use crate::capture::python::interpreter::InterpreterFacts;
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Result};
use crate::sys::process;
use std::path::Path;
use std::time::Duration;

/// A store with less room than this takes no snapshot with a CUDA torch in it.
const ROOM: u64 = 10 << 30;
const LIMIT: Duration = Duration::from_secs(20);

/// The first line of what a program prints.
pub fn first_line(words: &[&str]) -> Result<String> {
    let output = process::must(words, LIMIT)?;
    Ok(String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_string())
}

/// The version of Nix, and the store directory.
pub fn store(config: &StoreConfig) -> Result<(String, String)> {
    let store = Store::connect(config)?;
    Ok((store.version.clone(), store.store_dir.0.clone()))
}

/// Free bytes where something is or would be.
pub struct Room<'a> {
    pub free: u64,
    /// The folder that is there.
    pub place: &'a Path,
}

impl Room<'_> {
    pub fn is_enough(&self) -> bool {
        self.free >= ROOM
    }
}

pub fn room(place: &Path) -> Result<Room<'_>> {
    let there = place.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).map_err(|e| Error::io("look at", there, e.into()))?;
    Ok(Room { free: stat.f_bavail * stat.f_frsize, place: there })
}

/// The environment's interpreter, as a capture finds it: its version, its path and how it was found.
pub fn python(environment: &Path, given: Option<&Path>) -> Result<String> {
    let root = find::check(environment)?;
    let (found, _) = find::find_python(&root, given, &|name| std::env::var_os(name))?;
    let facts = InterpreterFacts::of(&found.executable)?;
    Ok(format!("Python {} at {} ({})", facts.full_version, found.executable.display(), found.how))
}
