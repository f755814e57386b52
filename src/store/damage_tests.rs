use super::*;
use crate::formats::nix::nar::{Hashing, NarWriter};
use crate::formats::nix::store_path::StoreDir;
use rustix::fs::{Timespec, Timestamps};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tempfile::TempDir;

const NAME: &str = "00000000000000000000000000000000-tree";

/// A store with one path, as Nix leaves it.
struct Place {
    dir: TempDir,
    info: PathInfo,
}

fn as_registered(path: &Path) {
    let about = fs::symlink_metadata(path).unwrap();
    if about.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| as_registered(&entry.unwrap().path()));
    }
    if !about.is_symlink() {
        let mode = if about.is_dir() || about.mode() & 0o100 != 0 { 0o555 } else { 0o444 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let one = Timespec { tv_sec: REGISTERED, tv_nsec: 0 };
    let times = Timestamps { last_access: one, last_modification: one };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("nix/store").join(NAME);
        fs::create_dir_all(root.join("package/empty")).unwrap();
        fs::write(root.join("package/module.py"), "VALUE = 1\n").unwrap();
        fs::write(root.join("package/data"), vec![7; 4096]).unwrap();
        fs::write(root.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o555)).unwrap();
        symlink("package/module.py", root.join("a link")).unwrap();
        as_registered(&root);
        let info = PathInfo {
            nar_hash: nar_hash(&root).unwrap(),
            nar_size: 0,
            references: BTreeSet::new(),
            deriver: None,
            ca: String::new(),
        };
        let about = statat(CWD, &root, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let size = Look::default().archive(&root, &about).unwrap();
        Place { dir, info: PathInfo { nar_size: size, ..info } }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("nix/store").join(NAME)
    }

    fn config(&self) -> StoreConfig {
        StoreConfig {
            remote: Some(format!("local?root={}", self.dir.path().display())),
            store_dir: StoreDir::default(),
            doubts: Some(self.dir.path().join("state/doubts")),
            ..StoreConfig::default()
        }
    }

    /// Changes something below the package, and says what is told of it.
    fn after(&self, depth: Depth, change: impl FnOnce(&Path)) -> String {
        let package = self.root().join("package");
        fs::set_permissions(&package, fs::Permissions::from_mode(0o755)).unwrap();
        change(&package);
        fs::set_permissions(&package, fs::Permissions::from_mode(0o555)).unwrap();
        let path = StorePath::from_base_name(NAME).unwrap();
        let found = damaged(&self.config(), [(&path, &self.info)], depth).unwrap();
        if depth == Depth::Suspects {
            let config = self.config();
            let beside = std::thread::scope(|scope| {
                damaged_meanwhile(scope, &config, vec![(&path, &self.info)]).join().unwrap().unwrap()
            });
            assert_eq!(beside, found);
        }
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        told.join("").replace(&self.root().display().to_string(), "PATH")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::process::Command::new("chmod").arg("-R").arg("u+w").arg(self.dir.path()).status();
    }
}

#[test]
fn the_size_of_an_archive_is_known_without_writing_it() {
    let place = Place::new();
    let mut nar = NarWriter::new(Hashing::default()).unwrap();
    nar.directory(b"").unwrap();
    nar.symlink(b"a link", b"package/module.py").unwrap();
    nar.directory(b"package").unwrap();
    nar.file(b"data", false, 4096, |out| out.write_all(&[7; 4096])).unwrap();
    nar.directory(b"empty").unwrap();
    nar.end_directory().unwrap();
    nar.file(b"module.py", false, 10, |out| out.write_all(b"VALUE = 1\n")).unwrap();
    nar.end_directory().unwrap();
    nar.file(b"run", true, 10, |out| out.write_all(b"#!/bin/sh\n")).unwrap();
    nar.end_directory().unwrap();
    let (hash, size) = nar.finish().unwrap().finish();
    assert_eq!((hash, size), (place.info.nar_hash, place.info.nar_size));
}

#[test]
fn what_is_as_registered_is_not_read() {
    let place = Place::new();
    assert_eq!(place.after(Depth::Suspects, |_| ()), "");
    // A mode and a time that mean nothing: the bytes are the same.
    let touch = |package: &Path| {
        fs::set_permissions(package.join("data"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::File::open(package.join("data")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    };
    assert_eq!(place.after(Depth::Suspects, touch), "");
    assert!(!place.dir.path().join("state").exists());
}

#[test]
fn what_was_written_into_a_path_is_named() {
    let cache = |package: &Path| fs::write(package.join("empty.nbi"), "cache").unwrap();
    let file = "the first file that differs is PATH/package/empty.nbi";
    assert_eq!(Place::new().after(Depth::Suspects, cache), file);

    let change = |package: &Path| {
        fs::remove_file(package.join("data")).unwrap();
        fs::write(package.join("data"), vec![8; 4096]).unwrap();
    };
    assert_eq!(
        Place::new().after(Depth::Suspects, change),
        "the first file that differs is PATH/package/data"
    );

    let take = |package: &Path| fs::remove_file(package.join("data")).unwrap();
    assert_eq!(Place::new().after(Depth::Suspects, take), "a file was taken from PATH/package");
}

#[test]
fn what_hides_its_time_is_found_where_everything_is_read() {
    let hide = |package: &Path| {
        fs::remove_file(package.join("data")).unwrap();
        fs::write(package.join("data"), vec![8; 4096]).unwrap();
        as_registered(package);
    };
    let place = Place::new();
    assert_eq!(place.after(Depth::Suspects, hide), "");
    let all = "PATH has other bytes; no time stamp tells in which file";
    // The folder's mode is what this test changes, and its time is not.
    assert_eq!(place.after(Depth::Everything, |_| ()), all);
}

#[test]
fn a_refusal_says_what_to_do_and_is_remembered() {
    let place = Place::new();
    fs::set_permissions(place.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(place.root().join("new"), "").unwrap();
    let path = StorePath::from_base_name(NAME).unwrap();
    let error = refuse(&place.config(), [(&path, &place.info)], Depth::Suspects).unwrap_err();
    let new = place.root().join("new");
    assert_eq!(
        error.message,
        format!(
            "/nix/store/{NAME} was written to after Nix had registered it: the first file that differs is {}",
            new.display()
        )
    );
    assert_eq!((error.kind, error.path.as_deref()), (Kind::Store, Some(new.as_path())));
    assert!(error.hint.unwrap().contains("`stillframe snapshot`"));
    assert_eq!(place.config().doubted(), BTreeSet::from([path.clone()]));
    // What another environment's snapshot has looked at says nothing of it.
    let other = StorePath::from_base_name(&NAME.replace("tree", "other")).unwrap();
    place.config().doubt([&other]);
    place.config().trust([&other]);
    assert_eq!(place.config().doubted(), BTreeSet::from([path.clone()]));
    place.config().trust([&path]);
    assert!(place.config().doubted().is_empty());
    // A store that lies elsewhere is not looked at.
    let elsewhere = StoreConfig { remote: Some("ssh-ng://host".into()), ..place.config() };
    assert_eq!(damaged(&elsewhere, [(&path, &place.info)], Depth::Everything).unwrap(), []);
}
