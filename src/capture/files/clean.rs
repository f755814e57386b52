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
    /// `secrets`: whether it was looked at for credentials, too.
    pub fn knows(&self, path: &Path, entry: &WalkEntry, secrets: bool) -> bool {
        let Some(name) = Clean::name(path, secrets) else { return false };
        let state = Clean::state(entry);
        let known = self.known.get(&name) == Some(&state);
        if known {
            self.seen.lock().insert(name, state);
        }
        known
    }

    /// Nothing was found in it now.
    pub fn add(&self, path: &Path, entry: &WalkEntry, secrets: bool) {
        let old = entry.mtime_ns.max(entry.ctime_ns) < self.limit;
        if let Some(name) = Clean::name(path, secrets).filter(|_| old) {
            self.seen.lock().insert(name, Clean::state(entry));
        }
    }

    fn name(path: &Path, secrets: bool) -> Option<String> {
        let name = path.to_str()?;
        // No path has a zero byte.
        Some(if secrets { name.to_string() } else { format!("{name}\0") })
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
        assert!(!first.knows(path, &entry(1, 1), true));
        first.add(path, &entry(1, 1), true);
        // A change within the same tick would not show.
        first.add(Path::new("/y"), &entry(1, 9_000_000_000), true);
        let second = Clean::new(first.seen(), now);
        assert!(second.knows(path, &entry(1, 1), true) && !second.knows(path, &entry(2, 1), true));
        assert!(
            !second.knows(path, &entry(1, 2), true)
                && !second.knows(Path::new("/y"), &entry(1, 9_000_000_000), true)
        );
        assert_eq!(second.seen(), first.seen());
    }
}
