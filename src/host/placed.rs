//! Secrets that the program reads from a file of its own: each is put at its place in one instance's slot, over what the snapshot has
//! there, readable by the instance's user alone, and goes with the slot.
use crate::protocol::launch::Launch;
use crate::sys::error::{Error, Kind, Result};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// Where in a slot a file of the environment is, by its place in the environment: packs lie in the base directory, the rest beside
/// the main program.
pub fn place(directory: &str, at: &str) -> PathBuf {
    match at.starts_with("custom_nodes/") {
        true => Path::new("base").join(at),
        false => Path::new(directory).join(at),
    }
}

/// Puts one there. Whatever links the snapshot or a pack has on the way, it does not leave the slot.
pub fn put(launch: &Launch, slot: &Path, at: &str, value: &[u8]) -> Result<()> {
    let inside = place(&launch.directory, at);
    let path = slot.join(&inside);
    let outside = || {
        Error::new(Kind::Host, format!("{} is not inside of the instance's own folder", path.display()))
            .hint("choose another `at` in [service.secrets]")
    };
    if !inside.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(outside());
    }
    let own = slot.canonicalize().map_err(|e| Error::io("open", slot, e))?;
    let mut folder = own.clone();
    for part in inside.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::io("create directory", &folder, e));
            }
            _ => {}
        }
        folder = folder.canonicalize().map_err(|e| Error::io("open", &folder, e))?;
        if !folder.starts_with(&own) {
            return Err(outside());
        }
    }
    let file = folder.join(inside.file_name().ok_or_else(outside)?);
    match fs::remove_file(&file) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("replace", &file, e)),
        _ => {}
    }
    let write = || {
        let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        to.write_all(value)
    };
    write().map_err(|e| Error::io("write", &file, e))
}

/// Takes what was put there out of a list of what an instance wrote.
pub fn without(written: &mut Vec<String>, directory: &str, placed: &[String]) {
    let places: Vec<PathBuf> = placed.iter().map(|at| place(directory, at)).collect();
    written.retain(|path| !places.iter().any(|place| Path::new(path) == place));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn launch() -> Launch {
        Launch { version: 1, service: "s".into(), directory: "main".into(), ..Launch::default() }
    }

    #[test]
    fn over_what_the_snapshot_has_and_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let pack = dir.path().join("base/custom_nodes/pack");
        fs::create_dir_all(&pack).unwrap();
        fs::create_dir(dir.path().join("main")).unwrap();
        fs::write(pack.join("settings.json"), "{}").unwrap();
        for (at, file) in [
            ("custom_nodes/pack/settings.json", pack.join("settings.json")),
            ("custom_nodes/pack/new/key", pack.join("new/key")),
            ("keys/token", dir.path().join("main/keys/token")),
        ] {
            put(&launch(), dir.path(), at, b"secret").unwrap();
            // As systemd starts an instance again.
            put(&launch(), dir.path(), at, b"secret").unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"secret");
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let mut written = ["main/a", "main/keys/token"].map(String::from).to_vec();
        without(&mut written, "main", &["keys/token".into(), "a/b".into()]);
        assert_eq!(written, ["main/a"]);
    }

    #[test]
    fn no_link_leads_it_out_of_the_slot() {
        let dir = tempfile::tempdir().unwrap();
        let (slot, other) = (dir.path().join("slot"), dir.path().join("other"));
        fs::create_dir_all(slot.join("base/custom_nodes")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "theirs").unwrap();
        symlink(&other, slot.join("base/custom_nodes/away")).unwrap();
        symlink(other.join("file"), slot.join("base/custom_nodes/link")).unwrap();
        let error = put(&launch(), &slot, "custom_nodes/away/file", b"x").unwrap_err();
        assert!(error.message.ends_with(" is not inside of the instance's own folder"), "{error}");
        assert!(put(&launch(), &slot, "custom_nodes/../../../other/file", b"x").is_err());
        assert!(put(&launch(), &slot, "custom_nodes/away", b"x").is_ok());
        put(&launch(), &slot, "custom_nodes/link", b"x").unwrap();
        assert_eq!(fs::read(other.join("file")).unwrap(), b"theirs");
    }
}
