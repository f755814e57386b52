//! What the hook of an editable install and the build folder that it names say, and how both are read.
use crate::capture::files::paths::read_small;
use crate::capture::files::rules;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Tables of a build system: a large project's have some megabytes.
const LIMIT: u64 = 64 << 20;
/// More files than any project installs.
const FILES: usize = 200_000;

/// What a hook and its build folder say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By their places in a site directory.
    pub files: BTreeMap<String, PathBuf>,
    pub build: PathBuf,
    /// Where the build system installs, if not into the site directory.
    pub install: Option<PathBuf>,
    pub stale: Option<PathBuf>,
}

pub fn json(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&read_small(path, LIMIT)?).ok()
}

pub fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

/// The first of the sources that is newer than the product.
pub fn newer(sources: impl IntoIterator<Item = PathBuf>, product: &Path) -> Option<PathBuf> {
    let built = changed(product)?;
    sources.into_iter().find(|source| changed(source).is_some_and(|at| at > built))
}

/// Every file below a folder, by its name there: but those below folders that `skip` names, and links to folders.
pub fn files_below(
    folder: &Path,
    skip: &dyn Fn(&str) -> bool,
    mut each: impl FnMut(&str, PathBuf),
) -> Option<()> {
    let mut pending = vec![String::new()];
    let mut count = 0;
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(folder.join(&at)).ok()?.flatten() {
            count += 1;
            if count > FILES {
                return None;
            }
            let name = entry.file_name().into_string().ok()?;
            let name = if at.is_empty() { name } else { format!("{at}/{name}") };
            if skip(&name) || rules::litter(name.as_bytes()) {
                continue;
            }
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                pending.push(name);
            } else if entry.path().is_file() {
                each(&name, entry.path());
            }
        }
    }
    Some(())
}
