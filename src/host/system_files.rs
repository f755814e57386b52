//! What of a snapshot its instances see at the system's own places, as lines of their units (systemd.exec(5),
//! "BindReadOnlyPaths="). systemd makes the places that are not there, on the disk: an empty folder or file. On a file system
//! that is read-only it cannot: there the nearest folder is covered by an empty one ("TemporaryFileSystem="), in which
//! all that it has is seen again.
use crate::protocol::launch::{self, Launch, SystemFile};
use crate::protocol::spec::Wanted;
use crate::sys::error::{Error, Kind, Result};
use rustix::fs::{StatVfsMountFlags, statvfs};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A folder of this host in which places are missing that cannot be made, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    pub folder: PathBuf,
    pub entries: Vec<PathBuf>,
}

/// What a generation's instances see at the system's own places.
pub fn of(wanted: &Wanted) -> Result<Vec<SystemFile>> {
    let file = Path::new(&wanted.snapshot).join(launch::file_of(&wanted.launch));
    // An instance reads it, too, and says what is wrong with it where somebody looks for that.
    let files = Launch::read(&file).map(|launch| launch.system_files).unwrap_or_default();
    // A unit is read by root.
    let store = Path::new(&wanted.snapshot).parent().unwrap_or(Path::new("/"));
    let wrong = |file: &&SystemFile| {
        !launch::is_plain(&file.at)
            || !launch::is_plain(&file.from)
            || !Path::new(&file.from).starts_with(store)
    };
    if let Some(bad) = files.iter().find(wrong) {
        let text = format!("{} names {:?} ({:?}), which no unit can", file.display(), bad.at, bad.from);
        return Err(Error::new(Kind::Store, text).hint("take the snapshot again"));
    }
    Ok(files)
}

/// The lines of a unit for that.
pub fn lines_for(files: &[SystemFile]) -> Result<String> {
    Ok(lines(files, &covered(files, &sealed)?))
}

/// Whether nothing can be made in a folder.
pub fn sealed(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|of| of.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn covered(files: &[SystemFile], sealed: &dyn Fn(&Path) -> bool) -> Result<Vec<Covered>> {
    let absent = files.iter().map(|file| Path::new(&file.at)).filter(|at| !at.exists());
    let mut folders: Vec<&Path> =
        absent.filter_map(|at| at.ancestors().find(|part| part.exists())).filter(|at| sealed(at)).collect();
    folders.sort();
    folders.dedup();
    if folders.first() == Some(&Path::new("/")) {
        let text = "the root folder is read-only, and lacks a folder that [service] system-files needs";
        return Err(Error::new(Kind::Host, text).hint("make that folder on this host"));
    }
    let covered = folders.iter().map(|folder| {
        let mut entries = entries(folder)?;
        // One thing is at each place.
        entries.retain(|entry| !folders.contains(&entry.as_path()));
        Ok(Covered { folder: folder.to_path_buf(), entries })
    });
    covered.collect()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let mut found: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    found.sort();
    // What no unit can name stays out.
    found.retain(|path| path.to_str().is_some_and(launch::is_plain));
    Ok(found)
}

pub fn lines(files: &[SystemFile], covered: &[Covered]) -> String {
    let mut text = String::new();
    for Covered { folder, entries } in covered {
        let _ = writeln!(text, "TemporaryFileSystem={}:ro", folder.display());
        for entry in entries {
            // It may be gone at the next start.
            let _ = writeln!(text, "BindReadOnlyPaths=-{}", entry.display());
        }
    }
    for SystemFile { at, from } in files {
        let _ = writeln!(text, "BindReadOnlyPaths={from}:{at}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_cannot_be_made_is_covered() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for folder in ["usr/share/doc", "usr/lib", "etc", "usr/with blank"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let file = |place: &str| SystemFile { at: at(place), from: "/nix/store/h-x".into() };
        let files = [file("usr/share/fonts/truetype"), file("usr/lib"), file("usr/tools/x"), file("etc/new")];
        let sealed = |folder: &Path| folder.starts_with(at("usr"));
        let found = covered(&files, &sealed).unwrap();
        assert_eq!(
            found,
            [
                Covered { folder: at("usr").into(), entries: vec![at("usr/lib").into()] },
                Covered { folder: at("usr/share").into(), entries: vec![at("usr/share/doc").into()] }
            ]
        );
        let text = lines(&files[..1], &found).replace(&dir.path().display().to_string(), "");
        assert_eq!(
            text,
            "TemporaryFileSystem=/usr:ro\nBindReadOnlyPaths=-/usr/lib\n\
             TemporaryFileSystem=/usr/share:ro\nBindReadOnlyPaths=-/usr/share/doc\n\
             BindReadOnlyPaths=/nix/store/h-x:/usr/share/fonts/truetype\n"
        );
        assert_eq!(covered(&files, &|_| false).unwrap(), []);
        // All of the host lies in its root folder.
        let in_root = [SystemFile { at: "/none-of-this-host/x".into(), from: "/nix/store/h-x".into() }];
        let error = covered(&in_root, &|_| true).unwrap_err();
        assert!(error.message.starts_with("the root folder is read-only"), "{}", error.message);
    }
}
