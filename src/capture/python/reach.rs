//! Looks at an installed file before its content counts: it may be missing, closed to us, a FIFO, a secret,
//! or, through a link, a file of somewhere else that the distribution has no business to bring along.
use crate::capture::files::left_out::LeftOut;
use crate::capture::files::paths::open_regular;
use crate::capture::files::secrets;
use crate::capture::model::change::{How, Unfit};
use crate::capture::python::installed::Installed;
use crate::capture::trees::digest::{FileDigest, digest};
use crate::formats::python::digest::Sha256Digest;
use crate::sys::error::Result;
use crate::words::show;
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub enum Look {
    Found(FileDigest),
    /// It is left out.
    Left(How),
}

pub struct Reach<'a> {
    installed: &'a Installed,
    left_out: &'a LeftOut,
    roots: Vec<PathBuf>,
    /// Whether a folder really is inside.
    folders: HashMap<PathBuf, bool>,
    /// What the installed RECORD says of each file.
    stated: HashMap<&'a Path, Sha256Digest>,
}

impl<'a> Reach<'a> {
    pub fn new(installed: &'a Installed, left_out: &'a LeftOut) -> Self {
        let scheme = &installed.scheme;
        // A folder of the environment may lie elsewhere, behind a link in its place: that is the environment's, too.
        let places = [&scheme.site, &scheme.scripts, &scheme.data].map(Clone::clone);
        let usual = ["lib", "lib64", "include", "share", "etc"].map(|name| scheme.data.join(name));
        let links = usual.into_iter().filter(|path| path.is_symlink());
        let built = installed.last_build.iter().flat_map(|build| build.roots.clone());
        let roots = places.into_iter().chain(links).chain(built);
        let roots = roots.filter_map(|root| fs::canonicalize(root).ok()).collect();
        let owned = installed.files.values();
        let stated = owned.filter_map(|file| Some((file.disk.as_path(), file.stated?))).collect();
        Reach { installed, left_out, roots, folders: HashMap::new(), stated }
    }

    pub fn look(&self, disk: &Path) -> Result<Look> {
        let left = |unfit: Unfit| Ok(Look::Left(How::LeftOut(unfit)));
        match fs::metadata(disk) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Look::Left(How::Missing));
            }
            Err(e) => return left(Unfit::Unreadable(e.to_string())),
            Ok(meta) if !meta.is_file() => return left(Unfit::NoFile),
            Ok(_) => {}
        }
        match digest(disk) {
            Ok(found) => Ok(Look::Found(found)),
            Err(error) => match open_regular(disk) {
                Err(e) if e.kind() == ErrorKind::PermissionDenied => left(Unfit::Unreadable(e.to_string())),
                _ => Err(error),
            },
        }
    }

    /// Why a file whose content no wheel vouches for must not be taken: a link leads to it, out of the
    /// environment, and not to what the installer wrote down (uv may install links into its cache).
    pub fn stray(&mut self, disk: &Path, found: &FileDigest) -> Option<How> {
        if self.home(disk) && !fs::symlink_metadata(disk).is_ok_and(|meta| meta.is_symlink()) {
            return None;
        }
        let real = fs::canonicalize(disk).ok()?;
        if self.inside(&real) || self.as_stated(disk, found) {
            return None;
        }
        let to = show(real.as_os_str().as_bytes());
        Some(How::LeftOut(Unfit::Outside(to)))
    }

    /// Whether the folder that a file is in is really one of the environment's.
    pub fn home(&mut self, disk: &Path) -> bool {
        let Some(folder) = disk.parent() else { return false };
        if let Some(inside) = self.folders.get(folder) {
            return *inside;
        }
        let inside = fs::canonicalize(folder).is_ok_and(|real| self.inside(&real));
        self.folders.insert(folder.to_path_buf(), inside);
        inside
    }

    fn inside(&self, real: &Path) -> bool {
        self.roots.iter().any(|root| real.starts_with(root))
    }

    fn as_stated(&self, disk: &Path, found: &FileDigest) -> bool {
        self.stated.get(disk) == Some(&found.sha256)
    }

    /// Why a file that no wheel vouches for must not be taken, though it is of the distribution: somebody's
    /// secret. Not what a package index has given to everybody, the keys of test suites for instance.
    pub fn secret(&self, name: &str, disk: &Path, found: &FileDigest) -> Option<How> {
        let real = fs::canonicalize(disk).ok()?;
        if self.left_out.redacts(&real).is_some() {
            let why = "redact names it, and a file of a distribution cannot be emptied";
            return Some(How::Secret(why.into()));
        }
        if self.installed.direct_url.is_none() && self.as_stated(disk, found) {
            return None;
        }
        if self.left_out.allows(&real) {
            return None;
        }
        let names = [name.as_bytes(), real.as_os_str().as_bytes()];
        secrets::judge(&names, disk, found.size).map(How::Secret)
    }
}
