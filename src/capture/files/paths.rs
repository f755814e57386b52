//! Relative paths as bytes, names fit to be shown, lines of the report, and files opened without
//! waiting for what is not a file.
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::formats::credentials::redacted;
use crate::sys::error::{Error, Result};
use crate::words::show;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What the report says of every secret.
pub const SECRET_NOTE: &str = "left out; give it to the host as a service secret";
pub const SECRET_ADVICE: &str = "take it out of the file, and give it to the host as a service secret";

/// `root/path` for a relative path of bytes; the empty path is the root.
pub fn below(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_path_buf() } else { root.join(OsStr::from_bytes(path)) }
}

/// `a/b/../c` -> `a/c`, without asking the file system.
pub fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// `folder/name`, without a slash where one side is empty.
pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() || name.is_empty() {
        return [folder, name].concat();
    }
    [folder, b"/", name].concat()
}

/// The last component.
pub fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// Whether a link at `inner` with a relative `target` stays below the root at every step: one that
/// leaves and comes back (`../foo/x` in `foo`) depends on the root's name, which the store changes.
pub fn stays_below(inner: &[u8], target: &[u8]) -> bool {
    let mut depth = inner.iter().filter(|b| **b == b'/').count();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

/// Where a relative link at `path` leads, in the same tree.
pub fn target_of(path: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Not UTF-8, or holding control characters.
pub fn odd(path: &[u8]) -> bool {
    match std::str::from_utf8(file_name(path)) {
        Ok(name) => name.chars().any(char::is_control),
        Err(_) => true,
    }
}

/// `label/path` for people.
pub fn show_in(label: &str, path: &[u8]) -> String {
    match (label.is_empty(), path.is_empty()) {
        (true, true) => ".".to_string(),
        (true, false) => show(path),
        (false, true) => label.to_string(),
        (false, false) => format!("{label}/{}", show(path)),
    }
}

/// A line of the report.
pub fn finding(
    severity: Severity,
    topic: Topic,
    path: impl Into<String>,
    message: impl Into<String>,
) -> Finding {
    Finding { severity, topic, path: path.into(), message: redacted(&message.into()) }
}

/// Names of one folder that only differ in case: fine on Linux, lost on a case-insensitive file system. Each comes with
/// what `show` makes its place in the report of.
pub fn case_twins<'a, T: Copy>(
    names: impl Iterator<Item = (&'a str, T)>,
    show: impl Fn(T) -> String,
) -> Vec<Finding> {
    let mut seen: HashMap<String, T> = HashMap::new();
    let mut found = Vec::new();
    for (name, place) in names {
        match seen.entry(name.to_lowercase()) {
            Entry::Occupied(first) => {
                let message = format!("differs from {} only in case; both are kept", show(*first.get()));
                found.push(finding(Severity::Info, Topic::Case, show(place), message));
            }
            Entry::Vacant(free) => drop(free.insert(place)),
        }
    }
    found
}

/// The report line for what cannot be read.
pub fn unreadable(shown: &str, what: &str, error: &std::io::Error) -> Finding {
    finding(Severity::Problem, Topic::Unreadable, shown, format!("{what}: {error}"))
}

/// The content of a small regular file; `None` when it is not one, is larger, or cannot be read.
/// Opened without blocking: a FIFO put in its place a moment ago must not hang the capture.
pub fn read_small(path: &Path, limit: u64) -> Option<Vec<u8>> {
    read_at_most(path, limit).ok()
}

/// A text that somebody else writes and that is read whole: a lock, requirements, a `.pth` file. The largest uv.lock that
/// is known has a few MiB.
pub fn read_foreign(path: &Path) -> Result<Vec<u8>> {
    const MOST: u64 = 64 << 20;
    read_at_most(path, MOST).map_err(|e| Error::io("read", path, e))
}

/// The same of a text in UTF-8.
pub fn read_foreign_text(path: &Path) -> Result<String> {
    let not_text = "stream did not contain valid UTF-8";
    let invalid = |_| Error::io("read", path, std::io::Error::new(std::io::ErrorKind::InvalidData, not_text));
    String::from_utf8(read_foreign(path)?).map_err(invalid)
}

/// As `read_small`, and why it could not be read.
pub fn read_at_most(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    let file = open_regular(path)?;
    let larger =
        || std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes"));
    // Not even the first of its bytes: a sparse file costs its owner nothing.
    if file.metadata()?.len() > limit {
        return Err(larger());
    }
    // It may grow meanwhile.
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit { Err(larger()) } else { Ok(content) }
}

/// Whether a regular file (through links) may be read, without opening it.
pub fn may_read(path: &Path) -> std::io::Result<()> {
    rustix::fs::access(path, rustix::fs::Access::READ_OK)?;
    if std::fs::metadata(path)?.is_file() { Ok(()) } else { Err(std::io::Error::other("not a regular file")) }
}

/// Opens a regular file (through links), refusing everything else without waiting for it.
pub fn open_regular(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(i32::try_from(flags).unwrap_or(0)).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    Ok(file)
}
