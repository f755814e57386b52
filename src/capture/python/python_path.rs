//! Folders that PYTHONPATH names, as this process has it: what `pip install --target` filled is a site directory like any
//! other, before all of them. Other folders of modules are named.
use crate::capture::files::paths::{finding, lexical};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::editable;
use crate::words::show;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Those that distributions are installed in, and what the report says of the others. `root` is the ComfyUI directory.
pub fn read(variable: Option<&OsStr>, root: &Path) -> (Vec<PathBuf>, Vec<Finding>) {
    let (mut sites, mut findings): (Vec<PathBuf>, Vec<Finding>) = Default::default();
    // An empty name is the folder that the interpreter was started in.
    for named in std::env::split_paths(variable.unwrap_or_default()).filter(|p| !p.as_os_str().is_empty()) {
        let path = lexical(&named);
        // The program's own folder is on the path anyway.
        if path == root || sites.contains(&path) {
            continue;
        }
        let why = if !path.is_absolute() {
            "is relative to where the interpreter is started; it is not captured"
        } else if !path.exists() {
            continue;
        } else if let Some(why) = editable::unfit(&path, root) {
            why
        } else if !holds_distributions(&path) {
            "holds no installed distribution; it is not captured: name the folder in a .pth file instead"
        } else {
            sites.push(path);
            continue;
        };
        let message = format!("names {}, which {why}", show(path.as_os_str().as_bytes()));
        findings.push(finding(Severity::Warning, Topic::Outside, "PYTHONPATH", message));
    }
    (sites, findings)
}

fn holds_distributions(folder: &Path) -> bool {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let metadata = |name: &[u8]| name.ends_with(b".dist-info") || name.ends_with(b".egg-info");
    listed.into_iter().any(|entry| metadata(entry.file_name().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_filled_is_a_site_directory_and_the_rest_is_named() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["target/a-1.dist-info", "plain", "up/ComfyUI"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let all = ["target", "plain", "gone", "target/../target", "up/ComfyUI", "up"].map(at);
        let named =
            std::env::join_paths(all.iter().map(PathBuf::as_path).chain([Path::new("here"), Path::new("")]));
        let (sites, findings) = read(Some(&named.unwrap()), &at("up/ComfyUI"));
        assert_eq!(sites, [at("target")]);
        let said: Vec<String> = findings.into_iter().map(|f| format!("{} {}", f.path, f.message)).collect();
        let wanted =
            [("plain", "which holds no"), ("up", "which is too wide"), ("here", "which is relative")];
        assert_eq!(said.len(), wanted.len(), "{said:?}");
        for (said, (folder, why)) in said.iter().zip(wanted) {
            let folder = if folder == "here" { PathBuf::from(folder) } else { at(folder) };
            assert!(said.starts_with(&format!("PYTHONPATH names {}, {why}", folder.display())), "{said}");
        }
    }
}
