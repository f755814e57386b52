//! Which project a deployment is of. Two projects may give their services one name by accident, and a host must not let
//! the second take the first one's service over without a word. So a project has an id of its own, random and kept
//! beside stillframe.toml: every checkout of the project has it.
use crate::formats::nix::hash::Sha256;
use crate::protocol::messages::Project;
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::who;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

const VERSION: u32 = 1;
/// Beside stillframe.toml; it is never part of a snapshot.
const FILE: &str = ".stillframe/project.json";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    id: String,
}

/// The project of a folder; a new one gets its id now.
pub fn of(folder: &Path) -> Result<Project> {
    let file = folder.join(FILE);
    let id = match files::read(&file) {
        Ok(bytes) => kept(&file, &bytes)?,
        // Where nothing can be written, the place is all that stays the same.
        Err(_) if !file.exists() => begin(&file).unwrap_or_else(|_| placed(folder)),
        Err(e) => return Err(e),
    };
    Ok(Project { id, folder: folder.display().to_string() })
}

fn placed(folder: &Path) -> String {
    let text = format!("{} {}", who::me(), folder.display());
    Sha256(<sha2::Sha256 as sha2::Digest>::digest(text.as_bytes()).into()).to_hex()
}

fn kept(file: &Path, bytes: &[u8]) -> Result<String> {
    let wrong = |why: String| {
        Error::new(Kind::Input, format!("{} is not a project's id: {why}", file.display())).hint(
            "take it from the project's repository; without it, the project is a new one to the hosts (deploy --take-over)",
        )
    };
    let kept: Kept = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
    version::check(kept.version, VERSION).map_err(|e| wrong(format!("it is of {e}")))?;
    Ok(kept.id)
}

fn begin(file: &Path) -> Result<String> {
    let mut random = [0; 16];
    let source = "/dev/urandom";
    std::fs::File::open(source)
        .and_then(|mut device| device.read_exact(&mut random))
        .map_err(|e| Error::io("read", source, e))?;
    let id = random.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    let kept = Kept { version: VERSION, id };
    let bytes = serde_json::to_vec(&kept)
        .map_err(|e| Error::new(Kind::Io, "cannot write the project's id").caused_by(e))?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create directory", folder, e))?;
    }
    files::write_atomic(file, &bytes)?;
    Ok(kept.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_keeps_its_id_and_another_has_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = of(one.path()).unwrap();
        assert_eq!(of(one.path()).unwrap(), first);
        assert_eq!((first.id.len(), first.folder.as_str()), (32, one.path().to_str().unwrap()));
        assert_ne!(of(two.path()).unwrap().id, first.id);
        let file = one.path().join(FILE);
        std::fs::write(&file, r#"{"version": 2, "id": "x"}"#).unwrap();
        assert!(
            of(one.path())
                .unwrap_err()
                .message
                .contains("project.json is not a project's id: it is of version 2")
        );
        std::fs::write(&file, "{").unwrap();
        assert_eq!(of(one.path()).unwrap_err().kind, Kind::Input);
    }
}
