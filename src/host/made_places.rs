//! Places that systemd makes on this host's disk so that an instance can see something of its snapshot there
//! (`system_files`): empty folders and files, noted before they are made, so that they go with the service.
use crate::host::layout::{Service, remove_empty};
use crate::host::system_files::sealed;
use crate::protocol::launch::SystemFile;
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    version: u32,
    places: BTreeSet<PathBuf>,
}

fn read(service: &Service) -> Result<BTreeSet<PathBuf>> {
    let file = service.places();
    let broken =
        |why: String| Error::new(Kind::Io, format!("{} is no list of places: {why}", file.display()));
    match std::fs::read(&file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(Error::io("read", &file, e)),
        Ok(bytes) => {
            let noted: Noted = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
            version::check(noted.version, VERSION).map_err(|e| broken(e.to_string()))?;
            Ok(noted.places)
        }
    }
}

/// The parts of the places' paths that are not there and will be made.
fn absent(files: &[SystemFile]) -> BTreeSet<PathBuf> {
    let of = |file: &SystemFile| {
        let parts = Path::new(&file.at).ancestors().map(Path::to_path_buf);
        let absent: Vec<PathBuf> = parts.take_while(|part| !part.exists()).collect();
        let parent = absent.last().and_then(|top| top.parent());
        if parent.is_some_and(sealed) { Vec::new() } else { absent }
    };
    files.iter().flat_map(of).collect()
}

pub fn note(service: &Service, wanted: &[SystemFile]) -> Result<()> {
    let new = absent(wanted);
    if new.is_empty() {
        return Ok(());
    }
    let places = read(service)?.into_iter().chain(new).collect();
    let bytes = serde_json::to_vec(&Noted { version: VERSION, places })
        .map_err(|e| Error::new(Kind::Io, "cannot write the list of places").caused_by(e))?;
    files::write_if_changed(&service.places(), &bytes).map(drop)
}

/// Takes the places away, but where somebody has put something.
pub fn remove(service: &Service) -> Result<()> {
    // The deepest first.
    for place in read(service)?.into_iter().rev() {
        match std::fs::symlink_metadata(&place) {
            Ok(meta) if meta.is_dir() => remove_empty(&place)?,
            Ok(meta) if meta.is_file() && meta.len() == 0 => files::remove(&place)?,
            _ => {}
        }
    }
    files::remove(&service.places())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::Layout;
    use std::fs;

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(&dir.path().join("state")).service("demo");
        let at = |place: &str| dir.path().join(place);
        fs::create_dir_all(at("share/fonts")).unwrap();
        let file =
            |place: &str| SystemFile { at: at(place).display().to_string(), from: "/nix/store/x".into() };
        let wanted = [file("share/fonts"), file("share/new/deep"), file("etc/one"), file("etc/kept")];
        note(&service, &wanted).unwrap();
        for folder in ["share/new/deep", "etc/kept"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("etc/one"), "").unwrap();
        fs::write(at("etc/kept/mine"), "a user's").unwrap();
        // Nothing is new the second time, and the first list stays.
        note(&service, &wanted).unwrap();
        remove(&service).unwrap();
        assert!(at("share/fonts").is_dir() && at("etc/kept/mine").is_file());
        assert!(!at("share/new").exists() && !at("etc/one").exists() && !service.places().exists());
        remove(&service).unwrap();
    }
}
