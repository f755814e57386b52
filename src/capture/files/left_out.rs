//! What the configuration leaves out of a snapshot, by where it really lies: a folder that is captured by another way
//! than through its place in the environment (an editable install, a pack behind a link) has the same files.
use crate::capture::files::clean::Clean;
use crate::capture::files::own_path::OwnPaths;
use crate::words::show;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a path is: in a canonical folder, under its own name.
fn place(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// The environment, which the configuration's paths begin at.
    root: PathBuf,
    /// Files and folders, their own folders canonical.
    paths: Vec<PathBuf>,
    /// What ships though it looks like a secret.
    allowed: Vec<PathBuf>,
    /// Canonical files that ship with these values empty.
    redacted: BTreeMap<PathBuf, Vec<String>>,
    /// What is to be redacted and is not there.
    not_there: Vec<String>,
    /// What need not be read again for credentials.
    pub clean: Clean,
    /// Where the environment lies, for texts that name it.
    pub own: Arc<OwnPaths>,
}

impl LeftOut {
    /// `exclude`: relative to `root`. `private`: files with secrets, whose content is left out by whatever link it is had.
    pub fn of(root: &Path, exclude: &[String], private: &[PathBuf]) -> LeftOut {
        let excluded = exclude.iter().filter_map(|path| place(&root.join(path)));
        let named = private.iter().filter_map(|path| place(path));
        let held = private.iter().filter_map(|path| path.canonicalize().ok());
        LeftOut {
            root: root.to_path_buf(),
            paths: excluded.chain(named).chain(held).collect(),
            allowed: Vec::new(),
            redacted: BTreeMap::new(),
            not_there: Vec::new(),
            clean: Clean::default(),
            own: Arc::default(),
        }
    }

    /// Secrets that the configuration lets ship, relative to `root`.
    pub fn allowing(mut self, root: &Path, allowed: &[String]) -> LeftOut {
        self.allowed = allowed.iter().filter_map(|path| root.join(path).canonicalize().ok()).collect();
        self
    }

    /// Files of which values do not ship, relative to `root`.
    pub fn redacting(mut self, root: &Path, redacted: &BTreeMap<String, Vec<String>>) -> LeftOut {
        for (path, keys) in redacted {
            match root.join(path).canonicalize() {
                Ok(real) => drop(self.redacted.insert(real, keys.clone())),
                Err(_) => self.not_there.push(path.clone()),
            }
        }
        self
    }

    pub fn redacts_nothing(&self) -> &[String] {
        &self.not_there
    }

    /// What of a canonical file does not ship.
    pub fn redacts(&self, real: &Path) -> Option<&[String]> {
        self.redacted.get(real).map(Vec::as_slice)
    }

    pub fn remembering(mut self, clean: Clean) -> LeftOut {
        self.clean = clean;
        self
    }

    pub fn knowing(mut self, own: Arc<OwnPaths>) -> LeftOut {
        self.own = own;
        self
    }

    /// Whether a canonical path may ship with a secret in it.
    pub fn allows(&self, real: &Path) -> bool {
        self.allowed.iter().any(|path| real.starts_with(path))
    }

    /// Which of these files may ship as secrets, or ship without a value, as a text to compare.
    pub fn allowed_of<'a>(&self, files: impl Iterator<Item = &'a Path> + Clone) -> String {
        let named = |(_, place): &(&str, &PathBuf)| {
            files.clone().any(|file| file.canonicalize().is_ok_and(|real| real.starts_with(place)))
        };
        let allowed = self.allowed.iter().map(|place| ("whole", place));
        let all = allowed.chain(self.redacted.keys().map(|place| ("emptied", place)));
        let named: Vec<String> =
            all.filter(named).map(|(how, place)| format!("\0{how} {}", place.display())).collect();
        named.concat()
    }

    /// All that the configuration says of files with secrets, as a text to compare.
    pub fn secrets(&self) -> String {
        format!("{:?} {:?}", self.allowed, self.redacted)
    }

    /// The line of the configuration that lets a secret ship, for a file of the environment.
    pub fn advice(&self, file: &Path) -> Option<String> {
        let below = file.strip_prefix(&self.root).ok()?;
        let named = serde_json::json!(show(below.as_os_str().as_bytes()));
        Some(format!("allow-secrets = [{named}] ships it as it is"))
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether a path is one by its own name: a link may lead anywhere.
    pub fn names(&self, path: &Path) -> bool {
        !self.is_empty() && place(path).is_some_and(|own| self.has(&own))
    }

    /// Whether a canonical path is one of them, or below one.
    pub fn has(&self, real: &Path) -> bool {
        self.paths.iter().any(|path| real.starts_with(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn by_where_it_really_lies() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["env/custom_nodes", "src/pack/data", "home"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("home/key"), "k").unwrap();
        symlink(root.join("src/pack"), root.join("env/custom_nodes/pack")).unwrap();
        symlink(root.join("home/key"), root.join("env/key")).unwrap();
        let exclude =
            ["custom_nodes/pack/data/".to_string(), "gone/x".to_string(), "custom_nodes/pack".to_string()];
        let left = LeftOut::of(&root.join("env"), &exclude, &[root.join("env/key")]);
        for out in ["src/pack/data", "src/pack/data/a", "env/custom_nodes/pack", "env/key", "home/key"] {
            assert!(left.has(&root.join(out)), "{out}");
        }
        // The link is left out, not what it leads to.
        for kept in ["src/pack", "src/pack/datum", "home", "env"] {
            assert!(!left.has(&root.join(kept)), "{kept}");
        }
        assert!(LeftOut::of(&root, &[], &[]).is_empty() && !left.is_empty());
    }
}
