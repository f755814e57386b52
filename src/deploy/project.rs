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

/// The project of a folder; a new one gets its id now, unless nothing is to be written (`dry`).
pub fn of(folder: &Path, dry: bool) -> Result<Project> {
    let file = folder.join(FILE);
    let id = match file.try_exists() {
        Ok(false) if dry => placed(folder),
        // Where nothing can be written, the place is all that stays the same.
        Ok(false) if begin(&file).is_err() => placed(folder),
        _ => kept(&file, &files::read(&file)?)?,
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

/// Writes a new id, unless another command was first: then that one is the project's.
fn begin(file: &Path) -> Result<()> {
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
    files::create_atomic(file, &bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two deployments may begin at once in a new project.
    #[test]
    fn the_first_id_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        // A dry run writes nothing.
        assert_eq!(of(dir.path(), true).unwrap().id, placed(dir.path()));
        assert!(!file.parent().unwrap().exists());
        begin(&file).unwrap();
        let first = of(dir.path(), true).unwrap();
        begin(&file).unwrap();
        assert_eq!(of(dir.path(), false).unwrap(), first);
        let left: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_project_keeps_its_id_and_another_has_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = of(one.path(), false).unwrap();
        assert_eq!(of(one.path(), false).unwrap(), first);
        assert_eq!((first.id.len(), first.folder.as_str()), (32, one.path().to_str().unwrap()));
        assert_ne!(of(two.path(), false).unwrap().id, first.id);
        let file = one.path().join(FILE);
        std::fs::write(&file, r#"{"version": 2, "id": "x"}"#).unwrap();
        assert!(
            of(one.path(), false)
                .unwrap_err()
                .message
                .contains("project.json is not a project's id: it is of version 2")
        );
        std::fs::write(&file, "{").unwrap();
        assert_eq!(of(one.path(), false).unwrap_err().kind, Kind::Input);
    }
}
