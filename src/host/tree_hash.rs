//! The hash of what lies on disk, as Nix computes it: SHA-256 over the NAR of a tree.
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::nar::{Hashing, NarWriter};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
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
    let mut names = fs::read_dir(path)?.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    names.iter().try_for_each(|below| node(nar, below.as_bytes(), &path.join(below)))?;
    nar.end_directory()
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
}
