//! The central directory of a zip archive, read from bytes fetched out of the middle of a file.
//!
//! Our own and strict: the archive must have one reading only. Anything on which two unpackers could
//! disagree (a second end record in the comment, gaps before the directory, duplicate names) is an
//! error, because what was checked here must be what is unpacked later.
use super::member_name::{self, MemberNameError};
use std::collections::HashSet;
use std::io::Read;

/// The most an end record and its comment can take, with the zip64 records before it.
pub const LONGEST_END: u64 = 22 + 65_535 + 20 + 56;
/// Bounds what a hostile archive can make us hold.
pub const MAX_ENTRIES: u64 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZipError {
    #[error("is no zip archive (no end record)")]
    NoEnd,
    #[error("has an ambiguous end record")]
    AmbiguousEnd,
    #[error("spans several disks")]
    Disks,
    #[error("has a malformed zip64 end record")]
    Zip64,
    #[error("has its central directory out of place")]
    Misplaced,
    #[error("has {0} entries, more than {MAX_ENTRIES}")]
    TooMany(u64),
    #[error("has a truncated or malformed central directory")]
    Directory,
    #[error("has an entry whose name is not UTF-8")]
    NotUtf8,
    #[error("names {0:?}, which {1}")]
    Name(String, MemberNameError),
    #[error("names {0:?} twice")]
    Duplicate(String),
    #[error("has the encrypted entry {0:?}")]
    Encrypted(String),
    #[error("has {0:?} packed by method {1}")]
    Method(String, u16),
    #[error("has {0:?}, which is neither a file nor a directory")]
    FileType(String),
    #[error("has a malformed local header for {0:?}")]
    LocalHeader(String),
    #[error("has data for {0:?} that does not unpack to what its directory says")]
    Data(String),
}

/// Where the central directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub offset: u64,
    pub size: u64,
    pub entries: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZipEntry {
    pub name: String,
    pub crc32: u32,
    pub size: u64,
    pub compressed_size: u64,
    pub method: u16,
    /// Unix mode bits, 0 when the archive holds none.
    pub mode: u32,
    pub offset: u64,
}

impl ZipEntry {
    pub fn is_directory(&self) -> bool {
        self.name.ends_with('/')
    }

    /// As installers decide it: a regular file by its mode, with any execute bit.
    pub fn is_executable(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000 && self.mode & 0o111 != 0
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Finds the central directory from the last bytes of a file of `file_size` bytes. `tail` should hold
/// the last [`LONGEST_END`] bytes, or the whole file.
pub fn locate(tail: &[u8], file_size: u64) -> Result<Location, ZipError> {
    let start = file_size.checked_sub(tail.len() as u64).ok_or(ZipError::NoEnd)?;
    let at = tail.windows(4).rposition(|w| w == b"PK\x05\x06").ok_or(ZipError::NoEnd)?;
    let end = &tail[at..];
    let comment = u16_at(end, 20).ok_or(ZipError::NoEnd)?;
    if end.len() != 22 + usize::from(comment) {
        return Err(ZipError::AmbiguousEnd);
    }
    let (Some(disk), Some(first), Some(here), Some(total), Some(size), Some(offset)) =
        (u16_at(end, 4), u16_at(end, 6), u16_at(end, 8), u16_at(end, 10), u32_at(end, 12), u32_at(end, 16))
    else {
        return Err(ZipError::NoEnd);
    };
    let locator = at.checked_sub(20).filter(|l| tail[*l..].starts_with(b"PK\x06\x07"));
    let (location, stop) = match locator {
        Some(locator) => zip64(tail, start, locator)?,
        None => {
            if disk != 0 || first != 0 || here != total {
                return Err(ZipError::Disks);
            }
            let location = Location { offset: offset.into(), size: size.into(), entries: total.into() };
            (location, start + at as u64)
        }
    };
    // Nothing may lie between the directory and the end record, nor before the archive.
    if location.offset.checked_add(location.size) != Some(stop) {
        return Err(ZipError::Misplaced);
    }
    if location.entries > MAX_ENTRIES {
        return Err(ZipError::TooMany(location.entries));
    }
    Ok(location)
}

fn zip64(tail: &[u8], start: u64, locator: usize) -> Result<(Location, u64), ZipError> {
    let read = || {
        let position = u64_at(tail, locator + 8)?;
        let at = usize::try_from(position.checked_sub(start)?).ok()?;
        let record = tail.get(at..locator)?;
        let whole =
            record.starts_with(b"PK\x06\x06") && u64_at(record, 4)?.checked_add(12)? == record.len() as u64;
        let one_disk = u32_at(record, 16)? == 0 && u32_at(record, 20)? == 0;
        let entries = u64_at(record, 32)?;
        if !whole || !one_disk || u64_at(record, 24)? != entries {
            return None;
        }
        let location = Location { offset: u64_at(record, 48)?, size: u64_at(record, 40)?, entries };
        Some((location, position))
    };
    read().ok_or(ZipError::Zip64)
}

/// Reads the whole central directory.
pub fn parse(directory: &[u8], location: &Location) -> Result<Vec<ZipEntry>, ZipError> {
    let mut entries = Vec::with_capacity(location.entries.min(65_536) as usize);
    let mut seen = HashSet::new();
    let mut rest = directory;
    for _ in 0..location.entries {
        let (entry, next) = entry(rest)?;
        rest = next;
        if entry.offset.saturating_add(30) > location.offset {
            return Err(ZipError::LocalHeader(entry.name));
        }
        let key = entry.name.trim_end_matches('/').to_owned();
        if !seen.insert(key) {
            return Err(ZipError::Duplicate(entry.name));
        }
        entries.push(entry);
    }
    if !rest.is_empty() {
        return Err(ZipError::Directory);
    }
    Ok(entries)
}

fn entry(bytes: &[u8]) -> Result<(ZipEntry, &[u8]), ZipError> {
    let header = bytes.get(..46).filter(|h| h.starts_with(b"PK\x01\x02"));
    let header = header.ok_or(ZipError::Directory)?;
    let short = |at: usize| usize::from(u16_at(header, at).unwrap_or(0));
    let long = |at: usize| u32_at(header, at).unwrap_or(0);
    let (names, extras, comments) = (short(28), short(30), short(32));
    let name = bytes.get(46..46 + names).ok_or(ZipError::Directory)?;
    let extra = bytes.get(46 + names..46 + names + extras).ok_or(ZipError::Directory)?;
    let rest = bytes.get(46 + names + extras + comments..).ok_or(ZipError::Directory)?;
    let name = std::str::from_utf8(name).map_err(|_| ZipError::NotUtf8)?.to_owned();
    let (flags, method) = (short(8), short(10) as u16);
    // Without the UTF-8 flag a name is in code page 437, and unpackers read it differently.
    if !name.is_ascii() && flags & 0x800 == 0 {
        return Err(ZipError::NotUtf8);
    }
    let trimmed = name.strip_suffix('/').unwrap_or(&name);
    member_name::check(trimmed).map_err(|e| ZipError::Name(name.clone(), e))?;
    if flags & 0x2041 != 0 {
        return Err(ZipError::Encrypted(name));
    }
    if !matches!(method, 0 | 8) {
        return Err(ZipError::Method(name, method));
    }
    let unix = matches!(header[5], 3 | 19);
    let mode = if unix { long(38) >> 16 } else { 0 };
    let expected: &[u32] = if name.ends_with('/') { &[0, 0o040_000] } else { &[0, 0o100_000] };
    if !expected.contains(&(mode & 0o170_000)) {
        return Err(ZipError::FileType(name));
    }
    if short(34) != 0 && short(34) != 0xffff {
        return Err(ZipError::Disks);
    }
    let (mut size, mut compressed_size, mut offset) =
        (u64::from(long(24)), u64::from(long(20)), u64::from(long(42)));
    let mut wide = extra_field(extra, 1).unwrap_or(&[]);
    for value in [&mut size, &mut compressed_size, &mut offset] {
        if *value == u64::from(u32::MAX) {
            *value = u64_at(wide, 0).ok_or(ZipError::Directory)?;
            wide = &wide[8..];
        }
    }
    let crc32 = long(16);
    Ok((ZipEntry { name, crc32, size, compressed_size, method, mode, offset }, rest))
}

fn extra_field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (id, len) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let body = extra.get(4..4 + len)?;
        if id == wanted {
            return Some(body);
        }
        extra = &extra[4 + len..];
    }
}

/// Unpacks one entry from `bytes`, which begin at its local header, to at most `limit` bytes; checks
/// the local name, the size and the CRC.
pub fn unpack(entry: &ZipEntry, bytes: &[u8], limit: u64) -> Result<Vec<u8>, ZipError> {
    let local = || ZipError::LocalHeader(entry.name.clone());
    let data_error = || ZipError::Data(entry.name.clone());
    if entry.size > limit {
        return Err(data_error());
    }
    let header = bytes.get(..30).filter(|h| h.starts_with(b"PK\x03\x04")).ok_or_else(local)?;
    let names = usize::from(u16_at(header, 26).unwrap_or(0));
    let extras = usize::from(u16_at(header, 28).unwrap_or(0));
    if bytes.get(30..30 + names) != Some(entry.name.as_bytes()) {
        return Err(local());
    }
    let from = 30 + names + extras;
    let length = usize::try_from(entry.compressed_size).map_err(|_| data_error())?;
    let packed = from.checked_add(length).and_then(|to| bytes.get(from..to));
    let packed = packed.ok_or_else(data_error)?;
    let data = match entry.method {
        0 => packed.to_vec(),
        _ => {
            let mut out = Vec::new();
            flate2::read::DeflateDecoder::new(packed)
                .take(entry.size + 1)
                .read_to_end(&mut out)
                .map_err(|_| data_error())?;
            out
        }
    };
    if data.len() as u64 != entry.size || crc32fast::hash(&data) != entry.crc32 {
        return Err(data_error());
    }
    Ok(data)
}

#[cfg(test)]
#[path = "zip_directory_tests.rs"]
mod tests;
