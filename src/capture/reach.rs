//! Looks at an installed file before its content counts: it may be missing, closed to us, a FIFO, or,
//! through a link, a file of somewhere else that the distribution has no business to bring along.
use crate::capture::digest::{FileDigest, digest};
use crate::capture::installed::{Installed, LONGEST, lexical};
use crate::capture::paths::{open_regular, read_small, show};
use crate::formats::python::record::Record;
use crate::sys::error::Result;
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub enum Look {
    Found(FileDigest),
    /// Why it is left out, for the report.
    Left(String),
}

/// How the lines of what is left out begin, so that the report can give them their weight.
pub const LEFT_OUT: &str = "left out: ";

pub struct Reach<'a> {
    installed: &'a Installed,
    roots: Vec<PathBuf>,
    /// Whether a folder really is inside.
    folders: HashMap<PathBuf, bool>,
    stated: Option<HashMap<PathBuf, [u8; 32]>>,
}

impl<'a> Reach<'a> {
    pub fn new(installed: &'a Installed) -> Self {
        let scheme = &installed.scheme;
        let roots =
            [&scheme.site, &scheme.data].iter().filter_map(|root| fs::canonicalize(root).ok()).collect();
        Reach { installed, roots, folders: HashMap::new(), stated: None }
    }

    pub fn look(&self, disk: &Path) -> Result<Look> {
        let left = |why: String| Ok(Look::Left(format!("{LEFT_OUT}{why}")));
        match fs::metadata(disk) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Look::Left("missing".into()));
            }
            Err(e) => return left(format!("cannot be read ({e})")),
            Ok(meta) if !meta.is_file() => return left("not a regular file".into()),
            Ok(_) => {}
        }
        match digest(disk) {
            Ok(found) => Ok(Look::Found(found)),
            Err(error) => match open_regular(disk) {
                Err(e) if e.kind() == ErrorKind::PermissionDenied => left(format!("cannot be read ({e})")),
                _ => Err(error),
            },
        }
    }

    /// Why a file whose content no wheel vouches for must not be taken: a link leads to it, out of the
    /// environment, and not to what the installer wrote down (uv may install links into its cache).
    pub fn stray(&mut self, disk: &Path, found: &FileDigest) -> Option<String> {
        let folder = disk.parent()?;
        let inside = match self.folders.get(folder) {
            Some(inside) => *inside,
            None => {
                let inside = fs::canonicalize(folder).is_ok_and(|real| self.inside(&real));
                self.folders.insert(folder.to_path_buf(), inside);
                inside
            }
        };
        if inside && !fs::symlink_metadata(disk).is_ok_and(|meta| meta.is_symlink()) {
            return None;
        }
        let real = fs::canonicalize(disk).ok()?;
        if self.inside(&real) || self.stated().get(disk) == Some(&found.sha256) {
            return None;
        }
        let to = show(real.as_os_str().as_bytes());
        Some(format!("{LEFT_OUT}leads to {to}, outside the environment; put a copy in its place"))
    }

    fn inside(&self, real: &Path) -> bool {
        self.roots.iter().any(|root| real.starts_with(root))
    }

    /// The hashes of the installed RECORD; read only when a link makes them matter.
    fn stated(&mut self) -> &HashMap<PathBuf, [u8; 32]> {
        let site = &self.installed.scheme.site;
        let path = site.join(&self.installed.info).join("RECORD");
        self.stated.get_or_insert_with(|| {
            let record = read_small(&path, LONGEST).and_then(|bytes| Record::parse_installed(&bytes).ok());
            let rows = record.into_iter().flat_map(|record| record.rows);
            rows.filter_map(|row| Some((lexical(&site.join(&row.path)), row.sha256?))).collect()
        })
    }
}
