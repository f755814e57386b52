//! What a wheel holds, read from its tail by range requests. The wheel itself is never downloaded.
use super::client::{Failure, IndexClient, host};
use super::no_wheel::ListingError;
use super::wheel::{WheelListing, assemble};
use crate::formats::python::simple_index::IndexFile;
use crate::formats::python::wheel_archive::{self, WheelArchiveError};
use crate::formats::python::wheel_name::WheelName;
use crate::formats::python::zip_directory::{self, LONGEST_END, ZipEntry, ZipError};
use reqwest::{StatusCode, header};
use sha2::{Digest, Sha256};
use url::Url;

/// Fetched first; enough for the whole directory and RECORD of most wheels.
const FIRST_TAIL: u64 = 64 << 10;
/// A gap smaller than this is fetched with the rest instead of by a request of its own.
const SMALL_GAP: u64 = 256 << 10;

impl IndexClient {
    /// Reads a wheel's listing, from the cache when its sha256 is there.
    pub async fn listing(&self, file: &IndexFile) -> Result<WheelListing, ListingError> {
        if let Some(listing) = self.cache().and_then(|cache| cache.listing(file)) {
            return Ok(listing);
        }
        let listing = self.fetch_listing(file).await?;
        if let Some(cache) = self.cache() {
            cache.store_listing(&listing);
        }
        Ok(listing)
    }

    async fn fetch_listing(&self, file: &IndexFile) -> Result<WheelListing, ListingError> {
        let name = &file.filename;
        let wheel = WheelName::parse(name).map_err(|e| e.to_string())?;
        let url = Url::parse(&file.url).map_err(|e| format!("the URL of {name} is malformed: {e}"))?;
        let broken = |e: ZipError| format!("the wheel {name} {e}");
        let limit = self.options().max_directory_bytes;
        let mut window = Window::open(self, file, url).await?;
        window.check_whole()?;
        let location = zip_directory::locate(&window.bytes, window.total).map_err(broken)?;
        if location.size > limit {
            return Err(format!("the wheel {name} has a central directory of {} bytes", location.size).into());
        }
        if location.offset < window.start {
            // RECORD usually stands right before the directory, and packs to about half its size
            // (hashes do not compress): fetch both at once.
            let guess = location.size / 8 * 5 + (8 << 10);
            window.extend(location.offset.saturating_sub(guess)).await?;
        }
        let directory =
            window.slice(location.offset, location.size).ok_or_else(|| "unexpected range".to_string())?;
        let entries = zip_directory::parse(directory, &location).map_err(broken)?;
        let dist_info = wheel_archive::dist_info(&wheel, &entries).map_err(|e| e.to_string())?;
        let find = |member: &str| {
            let path = format!("{dist_info}/{member}");
            entries.iter().find(|entry| entry.name == path)
        };
        let record_entry = find("RECORD").ok_or(WheelArchiveError::NoRecord.to_string())?;
        let wheel_entry = find("WHEEL").ok_or(WheelArchiveError::NoWheelFile.to_string())?;
        let mut members = [(record_entry, Vec::new()), (wheel_entry, Vec::new())];
        // From the back, so that a small gap before the window extends it.
        members.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.offset));
        for (entry, content) in &mut members {
            let span = span(entry, &entries, location.offset);
            if span.1 > limit || entry.size > limit {
                return Err(format!("the wheel {name} has a {} of {} bytes", entry.name, entry.size).into());
            }
            let bytes = window.read(span.0, span.1).await?;
            *content = zip_directory::unpack(entry, &bytes, limit).map_err(broken)?;
        }
        let [(first, a), (_, b)] = members;
        let (record_bytes, wheel_bytes) = if std::ptr::eq(first, record_entry) { (a, b) } else { (b, a) };
        assemble(file.clone(), dist_info, &entries, record_bytes, wheel_bytes)
            .map_err(|e| e.to_string().into())
    }
}

/// An entry's header and data end where the next entry, or the directory, begins.
fn span(entry: &ZipEntry, entries: &[ZipEntry], directory: u64) -> (u64, u64) {
    let next = entries.iter().map(|e| e.offset).filter(|offset| *offset > entry.offset).min();
    (entry.offset, next.unwrap_or(directory) - entry.offset)
}

/// The tail of a remote file, growing towards its beginning.
struct Window<'a> {
    client: &'a IndexClient,
    file: &'a IndexFile,
    url: Url,
    start: u64,
    total: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    async fn open(client: &'a IndexClient, file: &'a IndexFile, url: Url) -> Result<Self, ListingError> {
        const { assert!(FIRST_TAIL < LONGEST_END) };
        let mut window = Window { client, file, url, start: 0, total: 0, bytes: Vec::new() };
        let range = match file.size {
            Some(0) => return Err(format!("the index says {} has 0 bytes", file.filename).into()),
            Some(size) => format!("bytes={}-{}", size.saturating_sub(FIRST_TAIL), size - 1),
            None => format!("bytes=-{FIRST_TAIL}"),
        };
        let (start, total, bytes) = window.request(&range, FIRST_TAIL).await?;
        if let Some(size) = file.size
            && size != total
        {
            let name = &file.filename;
            return Err(format!("the index says {name} has {size} bytes, the server has {total}").into());
        }
        if start + bytes.len() as u64 != total {
            return Err(window.wrong_range().into());
        }
        (window.start, window.total, window.bytes) = (start, total, bytes);
        // An end record with the longest comment does not fit the first tail; such wheels are rare.
        let found = window.bytes.windows(4).any(|w| w == b"PK\x05\x06");
        if !found && window.start > 0 {
            let from = window.total.saturating_sub(LONGEST_END);
            window.extend(from).await?;
        }
        Ok(window)
    }

    /// A small wheel comes whole with its tail: then the index's hash of it can be checked, too.
    fn check_whole(&self) -> Result<(), ListingError> {
        let known = self.file.sha256.filter(|_| self.start == 0);
        if known.is_some_and(|sha256| sha256[..] != Sha256::digest(&self.bytes)[..]) {
            return Err(
                format!("the wheel {} has another sha256 than the index says", self.file.filename).into()
            );
        }
        Ok(())
    }

    fn wrong_range(&self) -> String {
        let name = &self.file.filename;
        format!("{} answers a range request for {name} with another range", host(&self.url))
    }

    async fn request(&self, range: &str, most: u64) -> Result<(u64, u64, Vec<u8>), ListingError> {
        let name = &self.file.filename;
        let answer = match self.client.range(&self.url, range, most).await {
            Ok(answer) => answer,
            Err(Failure::Unreachable(text)) => {
                return Err(ListingError::Unreachable { wheel: name.clone(), why: text });
            }
            Err(Failure::Answer(text)) => {
                return Err(format!("the wheel {name} could not be read: {text}").into());
            }
        };
        match answer.status {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => {
                let host = host(&self.url);
                return Err(format!("{host} does not serve ranges of {name}").into());
            }
            status => {
                let (host, status) = (host(&self.url), status.as_u16());
                return Err(format!("{host} answers with status {status} for {name}").into());
            }
        }
        let stated = answer.headers.get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let (start, end, total) = stated.and_then(content_range).ok_or_else(|| self.wrong_range())?;
        if end.checked_sub(start).map(|n| n + 1) != Some(answer.body.len() as u64) || end >= total {
            return Err(self.wrong_range().into());
        }
        Ok((start, total, answer.body))
    }

    async fn fetch(&self, start: u64, length: u64) -> Result<Vec<u8>, ListingError> {
        let range = format!("bytes={start}-{}", start + length - 1);
        let (at, total, bytes) = self.request(&range, length).await?;
        if at != start || total != self.total || bytes.len() as u64 != length {
            return Err(self.wrong_range().into());
        }
        Ok(bytes)
    }

    /// Grows the window so that it begins at `start`.
    async fn extend(&mut self, start: u64) -> Result<(), ListingError> {
        if start < self.start {
            let mut bytes = self.fetch(start, self.start - start).await?;
            bytes.append(&mut self.bytes);
            (self.start, self.bytes) = (start, bytes);
        }
        Ok(())
    }

    fn slice(&self, start: u64, length: u64) -> Option<&[u8]> {
        let from = usize::try_from(start.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(usize::try_from(length).ok()?)?)
    }

    async fn read(&mut self, start: u64, length: u64) -> Result<Vec<u8>, ListingError> {
        let gap = self.start.saturating_sub(start.saturating_add(length));
        if start < self.start && gap <= SMALL_GAP {
            self.extend(start).await?;
        }
        match self.slice(start, length) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => self.fetch(start, length).await,
        }
    }
}

/// `bytes 10-19/100`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, end.trim().parse().ok()?, total.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn content_ranges() {
        assert_eq!(super::content_range("bytes 10-19/100"), Some((10, 19, 100)));
        for bad in ["bytes */100", "10-19/100", "bytes 10-19/*", "bytes 10/100"] {
            assert_eq!(super::content_range(bad), None);
        }
    }
}
