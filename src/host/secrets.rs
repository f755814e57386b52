//! The secrets of an attempt: one file each, which root alone reads and systemd passes on as credentials.
//! Their values are never in the store, a log, an argument or the state.
use crate::protocol::deliveries::{Deliveries, Secrets};
use crate::protocol::spec::{SecretUse, Spec};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Every secret that is used has a value: those of instances, and those of the gateway.
pub fn complete(uses: &[SecretUse], of_gateway: &[&str], given: &BTreeMap<String, String>) -> Result<()> {
    let lacking = |name: &str, table: &str| {
        Err(Error::new(Kind::Input, format!("the secret {name} has no value"))
            .hint(format!("see [{table}] in stillframe.toml")))
    };
    if let Some(used) = uses.iter().find(|used| !given.contains_key(&used.name)) {
        return lacking(&used.name, "service.secrets");
    }
    match of_gateway.iter().find(|name| !given.contains_key(**name)) {
        Some(name) => lacking(name, "service.jobs"),
        None => Ok(()),
    }
}

/// Names of those that the gateway needs.
pub fn of_gateway(spec: &Spec) -> Vec<&'static str> {
    let deliveries = spec.jobs.as_ref().and_then(|jobs| jobs.deliveries.as_ref());
    deliveries.map(Deliveries::secrets).unwrap_or_default()
}

/// Their values, of the attempt that brought them.
pub fn read(folder: &Path, names: &[&str]) -> Result<Secrets> {
    let value = |name: &&str| {
        let path = folder.join(name);
        fs::read_to_string(&path)
            .map(|value| (name.to_string(), value))
            .map_err(|e| Error::io("read", &path, e))
    };
    Ok(Secrets(names.iter().map(value).collect::<Result<_>>()?))
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
        assert_eq!(complete(&wanted, &[], &given).unwrap_err().to_string(), "the secret other has no value");
        let error = complete(&[], &["webhook-secret"], &given).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("see [service.jobs] in stillframe.toml"));
        assert_eq!(read(&folder, &["token"]).unwrap().get("token"), Some("value\n"));
        assert!(read(&folder, &["none"]).is_err());
        files::remove_tree(&folder).unwrap();
        files::remove_tree(&folder).unwrap();
    }
}
