//! A wheel's central directory and its RECORD, checked against each other: the archive must hold what
//! RECORD lists and nothing else (PEP 427), so that RECORD's hashes speak for the whole wheel.
use super::digest::Sha256Digest;
use super::name::normalize;
use super::record::{Record, RecordError};
use super::wheel_name::WheelName;
use super::zip_directory::ZipEntry;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WheelArchiveError {
    #[error("the wheel has no RECORD")]
    NoRecord,
    #[error("the wheel has no WHEEL file")]
    NoWheelFile,
    #[error("the wheel has {0} dist-info directories, expected one")]
    DistInfos(usize),
    #[error("the wheel's dist-info is {0:?}, its file name says {1} {2}")]
    DistInfoName(String, String, String),
    #[error("the wheel's RECORD {0}")]
    Record(#[from] RecordError),
    #[error("the wheel's RECORD has no sha256 for {0:?}")]
    NoHash(String),
    #[error("the wheel's RECORD lists {0:?}, which the wheel does not hold")]
    NotHeld(String),
    #[error("the wheel's RECORD does not list {0:?}, which the wheel holds")]
    NotListed(String),
    #[error("the wheel's RECORD says {1} bytes for {0:?}, the wheel holds {2}")]
    Size(String, u64, u64),
    #[error("the wheel's RECORD has a hash for WHEEL that its content does not have")]
    WheelHash,
    #[error("the wheel has {0:?} both as a file and as a directory")]
    FileAndDirectory(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelEntry {
    /// All zero for RECORD and its signatures, which RECORD does not hash.
    pub sha256: Sha256Digest,
    pub size: u64,
    pub crc32: u32,
    pub executable: bool,
}

/// The one top-level dist-info directory, which must be the one of the wheel's name.
pub fn dist_info(wheel: &WheelName, entries: &[ZipEntry]) -> Result<String, WheelArchiveError> {
    let found: BTreeSet<&str> = entries
        .iter()
        .filter_map(|entry| entry.name.split_once('/'))
        .map(|(top, _)| top)
        .filter(|top| top.ends_with(".dist-info"))
        .collect();
    let mut found_iter = found.iter();
    let (Some(directory), None) = (found_iter.next(), found_iter.next()) else {
        return Err(WheelArchiveError::DistInfos(found.len()));
    };
    let stem = directory.trim_end_matches(".dist-info");
    let same = stem.rsplit_once('-').is_some_and(|(name, version)| {
        normalize(name) == normalize(&wheel.distribution) && same_version(version, &wheel.version)
    });
    if !same {
        return Err(WheelArchiveError::DistInfoName(
            (*directory).to_owned(),
            wheel.distribution.clone(),
            wheel.version.clone(),
        ));
    }
    Ok((*directory).to_owned())
}

/// Equality of versions by PEP 440 where both are versions (1.0 = 1.0.0), else of the texts.
pub fn same_version(a: &str, b: &str) -> bool {
    use std::str::FromStr;
    let parse = |text: &str| pep440_rs::Version::from_str(&text.replace('_', "-")).ok();
    let parse = |text: &str| pep440_rs::Version::from_str(text).ok().or_else(|| parse(text));
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Every file of the wheel with its hash; names relative to the wheel's root.
pub fn check(
    dist_info: &str,
    entries: &[ZipEntry],
    record: &Record,
) -> Result<BTreeMap<String, WheelEntry>, WheelArchiveError> {
    let own = format!("{dist_info}/RECORD");
    let unhashed =
        |name: &str| name.strip_prefix(own.as_str()).is_some_and(|rest| matches!(rest, "" | ".jws" | ".p7s"));
    let rows: BTreeMap<&str, _> = record.rows.iter().map(|row| (row.path.as_str(), row)).collect();
    let mut out = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.is_directory()) {
        let name = entry.name.as_str();
        let row = rows.get(name);
        if let Some(stated) = row.and_then(|row| row.size)
            && stated != entry.size
            && !unhashed(name)
        {
            return Err(WheelArchiveError::Size(name.to_owned(), stated, entry.size));
        }
        let sha256 = match row {
            _ if unhashed(name) => [0; 32],
            None => return Err(WheelArchiveError::NotListed(name.to_owned())),
            Some(row) => row.sha256.ok_or_else(|| WheelArchiveError::NoHash(name.to_owned()))?,
        };
        let (size, crc32, executable) = (entry.size, entry.crc32, entry.is_executable());
        out.insert(entry.name.clone(), WheelEntry { sha256, size, crc32, executable });
    }
    if let Some(missing) = rows.keys().find(|name| !out.contains_key(**name) && !unhashed(name)) {
        return Err(WheelArchiveError::NotHeld((*missing).to_owned()));
    }
    if !out.contains_key(&own) {
        return Err(WheelArchiveError::NoRecord);
    }
    for entry in entries {
        let mut name = entry.name.trim_end_matches('/');
        if entry.is_directory() && out.contains_key(name) {
            return Err(WheelArchiveError::FileAndDirectory(name.to_owned()));
        }
        while let Some((parent, _)) = name.rsplit_once('/') {
            if out.contains_key(parent) {
                return Err(WheelArchiveError::FileAndDirectory(parent.to_owned()));
            }
            name = parent;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::python::record::RecordRow;

    fn entry(name: &str) -> ZipEntry {
        ZipEntry {
            name: name.into(),
            crc32: 7,
            size: 3,
            compressed_size: 3,
            method: 0,
            mode: 0o100_755,
            offset: 0,
        }
    }

    fn row(path: &str) -> RecordRow {
        RecordRow { path: path.into(), sha256: Some([1; 32]), size: Some(3) }
    }

    fn run(entries: &[ZipEntry], mut rows: Vec<RecordRow>) -> Result<usize, String> {
        rows.push(RecordRow { path: "a-1.dist-info/RECORD".into(), sha256: None, size: None });
        let record = Record { rows };
        check("a-1.dist-info", entries, &record).map(|m| m.len()).map_err(|e| e.to_string())
    }

    #[test]
    fn agreement() {
        let own = entry("a-1.dist-info/RECORD");
        let all = [entry("a/x"), own.clone(), entry("a-1.dist-info/RECORD.jws")];
        assert_eq!(run(&all, vec![row("a/x")]), Ok(3));
        let text = |entries: &[ZipEntry], rows| run(entries, rows).unwrap_err();
        assert_eq!(
            text(&[entry("a/x"), own.clone()], vec![]),
            "the wheel's RECORD does not list \"a/x\", which the wheel holds"
        );
        assert_eq!(
            text(std::slice::from_ref(&own), vec![row("a/x")]),
            "the wheel's RECORD lists \"a/x\", which the wheel does not hold"
        );
        let bare = RecordRow { sha256: None, ..row("a/x") };
        assert_eq!(text(&all, vec![bare]), "the wheel's RECORD has no sha256 for \"a/x\"");
        let long = RecordRow { size: Some(4), ..row("a/x") };
        assert_eq!(text(&all, vec![long]), "the wheel's RECORD says 4 bytes for \"a/x\", the wheel holds 3");
        assert_eq!(text(&[entry("a/x")], vec![row("a/x")]), "the wheel has no RECORD");
        assert_eq!(
            text(&[entry("a"), entry("a/x"), own], vec![row("a"), row("a/x")]),
            "the wheel has \"a\" both as a file and as a directory"
        );
    }

    #[test]
    fn directories() {
        let wheel = WheelName::parse("My_Pkg-1.0-py3-none-any.whl").unwrap();
        let of = |names: &[&str]| {
            let entries: Vec<_> = names.iter().map(|n| entry(n)).collect();
            dist_info(&wheel, &entries).map_err(|e| e.to_string())
        };
        assert_eq!(of(&["my.pkg-1.0.0.dist-info/WHEEL"]).unwrap(), "my.pkg-1.0.0.dist-info");
        assert_eq!(of(&["a"]).unwrap_err(), "the wheel has 0 dist-info directories, expected one");
        assert_eq!(
            of(&["b-1.dist-info/WHEEL"]).unwrap_err(),
            "the wheel's dist-info is \"b-1.dist-info\", its file name says My_Pkg 1.0"
        );
        assert!(same_version("2.0+cu.121", "2.0+cu_121"));
        assert!(!same_version("1.0", "1.0.1"));
    }
}
