//! The licences that distributions name in their METADATA, read from the store.
use crate::capture::model::lock::Lock;
use crate::closure::registry::Record;
use crate::closure::{compare, graph};
use crate::formats::python::metadata::Metadata;
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, Progress, check_interrupt};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

fn is_metadata(path: &[Vec<u8>]) -> bool {
    matches!(path, [folder, name] if name == b"METADATA" && folder.ends_with(b".dist-info"))
}

/// Of a METADATA file: headers come first.
const MOST: u64 = 1 << 20;

/// By the names of distributions; those without one are left out.
pub fn licences(
    config: &StoreConfig,
    record: &Record,
    lock: &Lock,
    progress: &dyn Progress,
) -> Result<BTreeMap<String, String>> {
    let mut store: Option<Store> = None;
    let mut found = BTreeMap::new();
    progress.stage("reading licences", Amount::Items(lock.distributions.len() as u64));
    for d in &lock.distributions {
        check_interrupt()?;
        let path = graph::tree_path(&d.tree, &config.store_dir)?;
        let folder = config.on_disk(&path);
        let bytes = match on_disk(&folder) {
            Some(bytes) => Some(bytes),
            None => {
                let store = match &mut store {
                    Some(store) => store,
                    none => none.insert(Store::connect(config)?),
                };
                if store.info(&path)?.is_none() {
                    return Err(Error::new(
                        Kind::Store,
                        format!("{path} of snapshot {} is gone from the store", record.id),
                    )
                    .hint("take the snapshot again"));
                }
                compare::find(store, &path, MOST, &is_metadata)?
            }
        };
        if let Some(licence) = bytes.and_then(|b| Metadata::parse(&b).ok()).and_then(|m| m.license) {
            found.insert(d.name.clone(), licence);
        }
        progress.advance(1);
    }
    Ok(found)
}

fn on_disk(folder: &Path) -> Option<Vec<u8>> {
    let entries = std::fs::read_dir(folder).ok()?;
    let info = entries.flatten().find(|e| e.file_name().to_string_lossy().ends_with(".dist-info"))?;
    let file = std::fs::File::open(info.path().join("METADATA")).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
