//! Packs with a Python environment of their own, for what they run as a process: a virtual environment, conda's, a portable
//! Python. The capture of an environment's interpreter is for the server's alone.
use crate::capture::files::paths::below;
use crate::capture::model::inventory::OwnPython;
use crate::capture::model::report::Severity;
use crate::capture::trees::tree::Tree;
use crate::words::show;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the report says of one, and how grave it is; `location` is the pack's folder.
pub fn judge(own: &OwnPython, location: &Path) -> (Severity, String) {
    let Some(interpreter) = &own.interpreter else {
        let message =
            "a Python environment of the pack's own, whose interpreter is not there: it starts nowhere";
        return (Severity::Warning, message.into());
    };
    let shown = show(interpreter.as_os_str().as_bytes());
    if interpreter.starts_with(location) {
        let message = format!(
            "a Python environment of the pack's own: its interpreter {shown} ships with the pack, and needs the dynamic linker and the C \
             library of the host"
        );
        return (Severity::Warning, message);
    }
    let message = format!(
        "a Python environment of the pack's own: its interpreter {shown} and the libraries of that lie outside of the pack and are not \
         captured: what the pack runs with it does not start on a host"
    );
    (Severity::Problem, message)
}

/// Those of a pack, in the order of their names.
pub fn find(tree: &Tree, location: &Path) -> Vec<OwnPython> {
    let mut found: BTreeMap<Vec<u8>, OwnPython> = BTreeMap::new();
    for path in tree.entries.keys() {
        let Some(folder) = folder(path) else { continue };
        if folder.is_empty() || found.contains_key(folder) {
            continue;
        }
        let place = below(location, folder);
        let names = ["bin/python", "bin/python3"].map(|name| place.join(name));
        let interpreter = names.iter().find_map(|name| name.canonicalize().ok());
        found.insert(folder.to_vec(), OwnPython { folder: folder.to_vec(), interpreter });
    }
    found.into_values().collect()
}

/// The environment that a file is the mark of: `X/pyvenv.cfg` (PEP 405), `X/conda-meta/history`, `X/lib/python3.N/os.py`.
fn folder(path: &[u8]) -> Option<&[u8]> {
    if let Some(folder) =
        [&b"/pyvenv.cfg"[..], b"/conda-meta/history"].iter().find_map(|end| path.strip_suffix(*end))
    {
        return Some(folder);
    }
    let library = path.strip_suffix(b"/os.py")?;
    let at = library.iter().rposition(|byte| *byte == b'/')?;
    let (before, version) = library.split_at(at);
    version.starts_with(b"/python3.").then(|| before.strip_suffix(b"/lib"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::trees::tree::{Entry, Source};
    use std::path::PathBuf;

    #[test]
    fn each_kind_is_known_by_its_mark() {
        let place = tempfile::tempdir().unwrap();
        let location = place.path().canonicalize().unwrap();
        let inside = location.join("portable/bin/python3");
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        std::fs::write(&inside, "").unwrap();
        std::fs::create_dir_all(location.join("a/.venv/bin")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", location.join("a/.venv/bin/python")).unwrap();
        let mut tree = Tree::default();
        for name in [
            "a/.venv/pyvenv.cfg",
            "conda/conda-meta/history",
            "portable/lib/python3.12/os.py",
            "portable/lib/python3.12/site-packages/x/os.py",
            "lib/os.py",
            "pyvenv.cfg",
        ] {
            tree.entries.insert(
                name.into(),
                Entry::File { source: Source::Bytes(Vec::new().into()), executable: false },
            );
        }
        let found = find(&tree, &location);
        let sh = Path::new("/bin/sh").canonicalize().unwrap();
        let seen: Vec<(&[u8], Option<PathBuf>)> =
            found.iter().map(|own| (own.folder.as_slice(), own.interpreter.clone())).collect();
        assert_eq!(seen, [(&b"a/.venv"[..], Some(sh)), (b"conda", None), (b"portable", Some(inside))]);
        assert!(found[0].is(b"a/.venv/bin/python3.12") && !found[0].is(b"a/.venv/bin/tool"));
        let judged: Vec<Severity> = found.iter().map(|own| judge(own, &location).0).collect();
        assert_eq!(judged, [Severity::Problem, Severity::Warning, Severity::Warning]);
        assert!(judge(&found[0], &location).1.contains("sh and the libraries of that lie outside"));
    }
}
