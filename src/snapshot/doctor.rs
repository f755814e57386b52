//! Is this workstation able to take snapshots? Looks, and changes nothing.
use crate::capture::python::find;
use crate::capture::python::interpreter::InterpreterFacts;
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
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

/// Free bytes where `place` is or would be, and the folder that is there; too few are an error.
pub fn room(place: &Path) -> Result<(u64, &Path)> {
    let there = place.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).map_err(|e| Error::io("look at", there, e.into()))?;
    let free = stat.f_bavail * stat.f_frsize;
    if free < ROOM {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        return Err(Error::new(Kind::Io, format!("{} has {:.2} GiB free", there.display(), gib(free)))
            .hint("free space, or collect what Nix no longer needs: nix-collect-garbage"));
    }
    Ok((free, there))
}

/// The environment's interpreter, as a capture finds it: its version, its path and how it was found.
pub fn python(environment: &Path, given: Option<&Path>) -> Result<String> {
    let root = find::check(environment)?;
    let (found, _) = find::find_python(&root, given, &|name| std::env::var_os(name))?;
    let facts = InterpreterFacts::of(&found.executable)?;
    Ok(format!("Python {} at {} ({})", facts.full_version, found.executable.display(), found.how))
}
