//! The secrets of an attempt: one file each, which root alone reads and systemd passes on as credentials.
//! Their values are never in the store, a log, an argument or the state.
use crate::protocol::spec::SecretUse;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Every secret that is used has a value.
pub fn complete(uses: &[SecretUse], given: &BTreeMap<String, String>) -> Result<()> {
    match uses.iter().find(|u| !given.contains_key(&u.name)) {
        Some(lacking) => Err(Error::new(Kind::Input, format!("the secret {} has no value", lacking.name))
            .hint("see [service.secrets] in stillframe.toml")),
        None => Ok(()),
    }
}

pub fn write(folder: &Path, given: &BTreeMap<String, String>) -> Result<()> {
    if given.is_empty() {
        return Ok(());
    }
    files::remove_tree(folder)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| Error::io("create directory", folder, e))?;
    for (name, value) in given {
        let path = folder.join(name);
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(value.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Error::io("write", &path, e))?;
    }
    crate::sys::files::sync_dir(folder)
}

/// Whether these are the values that are there.
pub fn same(folder: &Path, given: &BTreeMap<String, String>) -> bool {
    let count = fs::read_dir(folder).map_or(0, Iterator::count);
    count == given.len()
        && given
            .iter()
            .all(|(name, value)| fs::read(folder.join(name)).is_ok_and(|now| now == value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn roots_alone_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("secrets/3");
        let given: BTreeMap<String, String> = [("token".to_string(), "value\n".to_string())].into();
        write(&folder, &given).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("token"))), (0o700, 0o600));
        assert!(same(&folder, &given));
        assert!(!same(&folder, &BTreeMap::new()));
        assert!(same(&dir.path().join("none"), &BTreeMap::new()));
        let wanted = [SecretUse { name: "other".into(), variable: None, at: None }];
        assert_eq!(complete(&wanted, &given).unwrap_err().to_string(), "the secret other has no value");
        files::remove_tree(&folder).unwrap();
        files::remove_tree(&folder).unwrap();
    }
}
