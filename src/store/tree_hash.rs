//! The hash of what lies on disk, as Nix computes it: SHA-256 over the NAR of a tree. And of what its file system says of it
//! without a byte being read: whether it is still the tree that was hashed.
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::nar::{Hashing, NarWriter};
use sha2::Digest;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const BUFFER: usize = 256 * 1024;

/// Of a file, a link, or a folder with all that is in it.
pub fn nar_hash(root: &Path) -> io::Result<Sha256> {
    let mut nar = NarWriter::new(io::BufWriter::with_capacity(BUFFER, Hashing::default()))?;
    node(&mut nar, b"", root)?;
    let hashing = nar.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(hashing.finish().0)
}

fn node(nar: &mut NarWriter<io::BufWriter<Hashing>>, name: &[u8], path: &Path) -> io::Result<()> {
    let about = fs::symlink_metadata(path)?;
    if about.is_symlink() {
        return nar.symlink(name, fs::read_link(path)?.as_os_str().as_bytes());
    }
    if about.is_file() {
        let executable = about.permissions().mode() & 0o100 != 0;
        return nar.file(name, executable, about.len(), |out| {
            io::copy(&mut BufReader::with_capacity(BUFFER, File::open(path)?), out).map(drop)
        });
    }
    if !about.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "neither a file, a link nor a folder"));
    }
    nar.directory(name)?;
    names(path)?.iter().try_for_each(|below| node(nar, below.as_bytes(), &path.join(below)))?;
    nar.end_directory()
}

/// In the archive's order.
fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(folder)?.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// Names, modes, sizes, inodes and times of all that is in a tree. Another digest: something was written, replaced,
/// added or taken away.
pub fn metadata_digest(root: &Path) -> io::Result<Sha256> {
    let mut digest = sha2::Sha256::new();
    let about = fs::symlink_metadata(root)?;
    put_times(&mut digest, about.ctime(), about.ctime_nsec());
    look(&mut digest, root, &about)?;
    Ok(Sha256(digest.finalize().into()))
}

fn put_times(digest: &mut sha2::Sha256, seconds: i64, nanoseconds: i64) {
    digest.update(seconds.to_le_bytes());
    digest.update(nanoseconds.to_le_bytes());
}

fn look(digest: &mut sha2::Sha256, path: &Path, about: &fs::Metadata) -> io::Result<()> {
    digest.update(about.mode().to_le_bytes());
    digest.update(about.ino().to_le_bytes());
    if !about.is_dir() {
        digest.update(about.size().to_le_bytes());
        // Not its change time: a hard link that Nix's optimiser gives to another path's equal file changes that.
        put_times(digest, about.mtime(), about.mtime_nsec());
        return Ok(());
    }
    // A file that took another's name shows in its folder, even where it has the inode of the one before.
    put_times(digest, about.ctime(), about.ctime_nsec());
    for name in names(path)? {
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name.as_bytes());
        let below = path.join(&name);
        look(digest, &below, &fs::symlink_metadata(&below)?)?;
    }
    digest.update([0; 8]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// `nix-hash --type sha256` of the same tree, with Nix 2.8.
    #[test]
    fn a_tree_has_the_hash_that_nix_gives_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir_all(root.join("b/empty")).unwrap();
        fs::write(root.join("a"), "text\n").unwrap();
        fs::write(root.join("B"), "").unwrap();
        fs::write(root.join("b/run"), vec![7; 300_000]).unwrap();
        fs::set_permissions(root.join("b/run"), fs::Permissions::from_mode(0o555)).unwrap();
        symlink("../a", root.join("b/link")).unwrap();
        let nix = "7cfd56b04ad49c18fd23e4c21d74a7d33aa6652bb6d44244d607eb8318f2948d";
        assert_eq!(nar_hash(&root).unwrap().to_hex(), nix);
        fs::write(root.join("a"), "").unwrap();
        assert_ne!(nar_hash(&root).unwrap().to_hex(), nix);
        fs::remove_file(root.join("b/link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("b/link"), rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(nar_hash(&root).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_written_replaced_or_taken_away_shows_without_reading() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir_all(root.join("a/b")).unwrap();
        let file = root.join("a/b/file");
        fs::write(&file, "text").unwrap();
        let mut before = metadata_digest(&root).unwrap();
        assert_eq!(metadata_digest(&root).unwrap(), before);
        // As the optimiser gives an equal file of another path the same inode.
        fs::hard_link(&file, dir.path().join("link")).unwrap();
        assert_eq!(metadata_digest(&root).unwrap(), before);
        let emptied = || File::create(&file).map(drop);
        let same_size = || {
            fs::write(root.join("new"), "")?;
            fs::rename(root.join("new"), &file)
        };
        let steps: [&dyn Fn() -> io::Result<()>; 4] =
            [&emptied, &same_size, &|| fs::write(root.join("a/more"), ""), &|| {
                fs::remove_file(root.join("a/more"))
            }];
        for (at, step) in steps.into_iter().enumerate() {
            // Times go forward in ticks.
            std::thread::sleep(std::time::Duration::from_millis(20));
            step().unwrap();
            let now = metadata_digest(&root).unwrap();
            assert_ne!(now, before, "{at}");
            before = now;
        }
    }
}
