//! `pylock.toml` (PEP 751) from a lock: what another installer can install again. A captured
//! distribution has no source that an installer could use; it is named in a comment.
use crate::capture::model::lock::{Lock, Provenance};
use crate::formats::python::pylock::{Pylock, PylockFile, PylockPackage};
use crate::words::show;
use std::collections::BTreeMap;

/// What `created-by` says in ours.
const CREATOR: &str = "stillframe";

/// Whether a lock file is one that `print` made: it says what was installed, not what somebody wants.
pub fn is_ours(lock: &Pylock) -> bool {
    lock.created_by == CREATOR
}

pub fn print(lock: &Lock) -> String {
    let mut comments = String::new();
    let mut packages = Vec::new();
    for d in &lock.distributions {
        let Some(wheel) = &d.wheel else {
            let reason = d.reason.as_deref().unwrap_or("captured");
            // Whatever the metadata holds stays on this line.
            let line = format!("{} {}: {reason}", d.name, d.version);
            comments.push_str(&format!("# not installable from here: {}\n", show(line.as_bytes())));
            continue;
        };
        let mut tool = BTreeMap::new();
        if d.provenance == Provenance::Patched {
            tool.insert("provenance".into(), "patched".into());
        }
        packages.push(PylockPackage {
            name: d.name.clone(),
            version: Some(d.version.clone()),
            wheels: vec![PylockFile {
                name: Some(wheel.file.clone()),
                url: Some(wheel.url.clone()),
                size: wheel.size,
                sha256: Some(wheel.sha256.0),
            }],
            tool,
            ..PylockPackage::default()
        });
    }
    let python = lock.runtime.version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let lock =
        Pylock { requires_python: Some(format!("=={python}.*")), created_by: CREATOR.into(), packages };
    format!("{comments}{}", lock.print())
}
