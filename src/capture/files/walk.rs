//! Reads a directory's metadata, following nothing: what is there, sorted, and what could not be
//! taken. Bytes are read by others; a walk costs one `lstat` and one `access` a file.
use crate::capture::files::paths::{below, case_twins, file_name, finding, join, odd, show_in, unreadable};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::formats::hex::hex;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// `empty`: nothing at all is in it on disk (a folder that only holds litter is not empty).
    Directory {
        empty: bool,
    },
    File,
    /// The target, verbatim.
    Symlink(Vec<u8>),
}

/// One entry below the walked root; the path is relative, `/`-separated bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkEntry {
    pub path: Vec<u8>,
    pub kind: NodeKind,
    pub size: u64,
    pub mtime_ns: i128,
    pub ctime_ns: i128,
    pub inode: u64,
    pub dev: u64,
    pub mode: u32,
}

impl WalkEntry {
    pub fn new(path: Vec<u8>, kind: NodeKind, meta: &Metadata) -> Self {
        let ns = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        WalkEntry {
            path,
            kind,
            size: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            dev: meta.dev(),
            mode: meta.mode(),
        }
    }

    /// What a NAR calls executable: the owner's bit.
    pub fn executable(&self) -> bool {
        self.mode & 0o100 != 0
    }
}

/// A walk's outcome: entries sorted by path bytes.
#[derive(Debug, Default)]
pub struct Walked {
    pub entries: Vec<WalkEntry>,
    pub findings: Vec<Finding>,
}

/// Decides what stays out, with all below it.
pub type LeaveOut<'a> = dyn FnMut(&[u8], &NodeKind) -> bool + 'a;

/// How often a folder that changes under the reader is listed before what vanished is reported.
const LISTINGS: usize = 3;

/// Git's rule for timestamps too fresh to prove anything, with room for coarse file systems.
const RACY: Duration = Duration::from_secs(2);

/// Walks `root`. `label` is how the report names it (`custom_nodes/foo`, or empty for the root).
pub fn walk(root: &Path, label: &str, leave_out: &mut LeaveOut<'_>) -> Walked {
    let mut out = Walked::default();
    let mut pending = vec![Vec::new()];
    let mut hollow = HashSet::new();
    while let Some(folder) = pending.pop() {
        let listed = list(root, label, &folder, leave_out, &mut out.findings);
        for entry in &listed.entries {
            if matches!(entry.kind, NodeKind::Directory { .. }) {
                pending.push(entry.path.clone());
            }
        }
        if listed.empty && !folder.is_empty() {
            hollow.insert(folder);
        }
        out.entries.extend(listed.entries);
    }
    // A folder's own entry came from its parent's listing, before its content was known.
    for entry in &mut out.entries {
        if hollow.contains(&entry.path) {
            entry.kind = NodeKind::Directory { empty: true };
        }
    }
    out.entries.sort_by(|a, b| a.path.cmp(&b.path));
    out.findings.sort_by(|a, b| a.path.cmp(&b.path));
    out
}

#[derive(Default)]
struct Listed {
    entries: Vec<WalkEntry>,
    empty: bool,
}

fn list(
    root: &Path,
    label: &str,
    folder: &[u8],
    leave_out: &mut LeaveOut<'_>,
    findings: &mut Vec<Finding>,
) -> Listed {
    let shown = show_in(label, folder);
    let place = below(root, folder);
    let mut vanished = Vec::new();
    for attempt in 1..=LISTINGS {
        let names = match names(&place) {
            Ok(names) => names,
            Err(e) => {
                findings.push(unreadable(&shown, "the folder cannot be read", &e));
                return Listed::default();
            }
        };
        let mut listed = Listed { entries: Vec::new(), empty: names.is_empty() };
        let mut noted = Vec::new();
        vanished.clear();
        for name in &names {
            let path = join(folder, name);
            match entry(root, label, path, leave_out, &mut noted) {
                Ok(Some(entry)) => listed.entries.push(entry),
                Ok(None) => {}
                Err(gone) => vanished.push(gone),
            }
        }
        if vanished.is_empty() || attempt == LISTINGS {
            let names = listed.entries.iter();
            let names =
                names.filter_map(|entry| Some((std::str::from_utf8(file_name(&entry.path)).ok()?, entry)));
            noted.extend(case_twins(names, |entry| show_in(label, &entry.path)));
            for gone in &vanished {
                noted.push(finding(
                    Severity::Warning,
                    Topic::Unreadable,
                    show_in(label, gone),
                    "vanished while its folder was read; left out",
                ));
            }
            findings.append(&mut noted);
            return listed;
        }
    }
    Listed::default()
}

fn names(place: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(place)? {
        names.push(entry?.file_name().as_bytes().to_vec());
    }
    names.sort();
    Ok(names)
}

/// `Ok(None)`: left out or reported. `Err`: listed a moment ago and no longer there.
fn entry(
    root: &Path,
    label: &str,
    path: Vec<u8>,
    leave_out: &mut LeaveOut<'_>,
    findings: &mut Vec<Finding>,
) -> Result<Option<WalkEntry>, Vec<u8>> {
    let place = below(root, &path);
    let meta = match std::fs::symlink_metadata(&place) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(path),
        Err(e) => {
            findings.push(unreadable(&show_in(label, &path), "cannot be looked at", &e));
            return Ok(None);
        }
    };
    let kind = meta.file_type();
    let node = if kind.is_dir() {
        NodeKind::Directory { empty: false }
    } else if kind.is_symlink() {
        match std::fs::read_link(&place) {
            Ok(target) => NodeKind::Symlink(target.as_os_str().as_bytes().to_vec()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(path),
            Err(e) => {
                findings.push(unreadable(&show_in(label, &path), "the link cannot be read", &e));
                return Ok(None);
            }
        }
    } else {
        NodeKind::File
    };
    if leave_out(&path, &node) {
        return Ok(None);
    }
    if let Some(word) = special(&kind) {
        findings.push(finding(
            Severity::Warning,
            Topic::SpecialFile,
            show_in(label, &path),
            format!("{word}; left out, because a store path cannot hold one"),
        ));
        return Ok(None);
    }
    if node == NodeKind::File
        && let Err(e) = rustix::fs::access(&place, rustix::fs::Access::READ_OK)
    {
        if e == rustix::io::Errno::NOENT {
            return Err(path);
        }
        findings.push(unreadable(
            &show_in(label, &path),
            "the file cannot be read; left out",
            &std::io::Error::from(e),
        ));
        return Ok(None);
    }
    if odd(&path) {
        findings.push(finding(
            Severity::Info,
            Topic::Name,
            show_in(label, &path),
            "the name is not UTF-8 or holds control characters; kept byte for byte",
        ));
    }
    Ok(Some(WalkEntry::new(path, node, &meta)))
}

/// The word for what is neither file, folder nor link.
fn special(kind: &std::fs::FileType) -> Option<&'static str> {
    if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else if kind.is_block_device() || kind.is_char_device() {
        Some("a device")
    } else {
        None
    }
}

/// Time stamps from here on prove nothing, in nanoseconds since the epoch; `started`: when the first byte was read.
pub fn racy_limit(started: SystemTime) -> Option<i128> {
    let limit = started.checked_sub(RACY)?.duration_since(UNIX_EPOCH).ok()?;
    i128::try_from(limit.as_nanos()).ok()
}

/// SHA-256 over all metadata of files and links and the names of folders (a folder's times change
/// when litter comes and goes, and say nothing that its entries do not). `None` when any timestamp
/// is so fresh that a later write could leave it unchanged.
pub fn stat_digest(entries: &[WalkEntry], started_at: SystemTime) -> Option<String> {
    let limit = racy_limit(started_at)?;
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for entry in entries {
        field(&entry.path);
        match &entry.kind {
            NodeKind::Directory { empty } => {
                field(if *empty { b"e" } else { b"d" });
                continue;
            }
            NodeKind::File => field(b"f"),
            NodeKind::Symlink(target) => {
                field(b"l");
                field(target);
            }
        }
        if entry.mtime_ns >= limit || entry.ctime_ns >= limit {
            return None;
        }
        for number in [i128::from(entry.size), entry.mtime_ns, entry.ctime_ns] {
            field(&number.to_le_bytes());
        }
        for number in [entry.inode, entry.dev, u64::from(entry.mode)] {
            field(&number.to_le_bytes());
        }
    }
    Some(hex(&hash.finalize()))
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
