//! Files in whose text no credential was found, by what their file system says of them: an unchanged file is not read again. As with
//! the memo, which keeps this, a time stamp of a moment ago proves nothing.
use crate::capture::files::walk::{self, WalkEntry};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// By path: size, times, inode.
pub type Known = BTreeMap<String, String>;

#[derive(Debug, Clone, Default)]
pub struct Clean {
    known: Arc<Known>,
    seen: Arc<Mutex<Known>>,
    limit: i128,
}

impl Clean {
    /// What an earlier run saw; `started`: when this one began.
    pub fn new(known: Known, started: SystemTime) -> Clean {
        let limit = walk::racy_limit(started).unwrap_or(0);
        Clean { known: Arc::new(known), seen: Arc::default(), limit }
    }

    fn state(entry: &WalkEntry) -> String {
        format!("{} {} {} {} {}", entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode, entry.dev)
    }

    /// Whether the file is as it was when nothing was found in it.
    pub fn knows(&self, path: &Path, entry: &WalkEntry) -> bool {
        let Some(name) = path.to_str() else { return false };
        let state = Clean::state(entry);
        let known = self.known.get(name) == Some(&state);
        if known {
            self.seen.lock().insert(name.into(), state);
        }
        known
    }

    /// Nothing was found in it now.
    pub fn add(&self, path: &Path, entry: &WalkEntry) {
        if let Some(name) = path.to_str().filter(|_| entry.mtime_ns.max(entry.ctime_ns) < self.limit) {
            self.seen.lock().insert(name.into(), Clean::state(entry));
        }
    }

    /// What this run saw.
    pub fn seen(&self) -> Known {
        self.seen.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::files::walk::NodeKind;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn only_what_is_as_it_was_is_known() {
        let entry = |size, mtime_ns| WalkEntry {
            path: b"x".to_vec(),
            kind: NodeKind::File,
            size,
            mtime_ns,
            ctime_ns: 1,
            inode: 1,
            dev: 1,
            mode: 0o644,
        };
        let now = UNIX_EPOCH + Duration::from_secs(10);
        let first = Clean::new(Known::new(), now);
        let path = Path::new("/x");
        assert!(!first.knows(path, &entry(1, 1)));
        first.add(path, &entry(1, 1));
        // A change within the same tick would not show.
        first.add(Path::new("/y"), &entry(1, 9_000_000_000));
        let second = Clean::new(first.seen(), now);
        assert!(second.knows(path, &entry(1, 1)) && !second.knows(path, &entry(2, 1)));
        assert!(
            !second.knows(path, &entry(1, 2)) && !second.knows(Path::new("/y"), &entry(1, 9_000_000_000))
        );
        assert_eq!(second.seen(), first.seen());
    }
}
