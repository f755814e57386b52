//! What a wheel holds, as its index entry, its central directory and its RECORD agree on it.
use crate::formats::hex::hex;
use crate::formats::python::record::Record;
use crate::formats::python::simple_index::IndexFile;
use crate::formats::python::wheel_archive::{self, WheelArchiveError, WheelEntry};
use crate::formats::python::zip_directory::ZipEntry;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A wheel's files and hashes, as its index entry, directory and RECORD agree on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelListing {
    pub file: IndexFile,
    /// `name-version.dist-info`, as the wheel spells it.
    pub dist_info: String,
    pub record_bytes: Vec<u8>,
    pub wheel_bytes: Vec<u8>,
    /// Every file; RECORD itself is listed with a zero hash.
    pub entries: BTreeMap<String, WheelEntry>,
}

/// Checks RECORD against the directory; also how a listing comes out of the cache.
pub(super) fn assemble(
    file: IndexFile,
    dist_info: String,
    entries: &[ZipEntry],
    record_bytes: Vec<u8>,
    wheel_bytes: Vec<u8>,
) -> Result<WheelListing, WheelArchiveError> {
    let record = Record::parse(&record_bytes)?;
    let entries = wheel_archive::check(&dist_info, entries, &record)?;
    let wheel = entries.get(&format!("{dist_info}/WHEEL"));
    let wheel = wheel.ok_or(WheelArchiveError::NoWheelFile)?;
    if wheel.sha256[..] != Sha256::digest(&wheel_bytes)[..] {
        return Err(WheelArchiveError::WheelHash);
    }
    Ok(WheelListing { file, dist_info, record_bytes, wheel_bytes, entries })
}

/// The name a wheel's listing is cached under.
pub(super) fn cache_key(file: &IndexFile) -> Option<String> {
    file.sha256.map(|digest| hex(&digest))
}
