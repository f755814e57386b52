//! Programs for work on an environment that may be hostile. An activated environment comes first on PATH, and any
//! wheel may have put a `git` or a `nix-daemon` of its own there: folders that wheels install their scripts into are
//! not looked in, and neither is the current directory.
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Its package manager's own: installers of wheels leave them alone (PEP 668).
const SYSTEM: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
/// Nobody installs anything into what lies here.
const IMMUTABLE: &str = "/nix/store";

/// Whether wheels put their scripts into this folder: an interpreter lies beside them (also in the folder of pyenv's
/// shims), or the packages in the same prefix (`--user`, and Debian's /usr/local).
fn wheels_install_into(folder: &Path) -> bool {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    if folder.starts_with(IMMUTABLE) || SYSTEM.iter().any(|system| folder == Path::new(system)) {
        return false;
    }
    if ["python3", "python"].iter().any(|name| folder.join(name).symlink_metadata().is_ok()) {
        return true;
    }
    let libraries = folder.parent().and_then(|prefix| prefix.join("lib").read_dir().ok());
    libraries.into_iter().flatten().flatten().any(|entry| {
        entry.file_name().as_encoded_bytes().starts_with(b"python3")
            && ["site-packages", "dist-packages"].iter().any(|name| entry.path().join(name).is_dir())
    })
}

fn trusted(path: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(path).filter(|dir| dir.is_absolute() && !wheels_install_into(dir)).collect()
}

/// The first of this name in one of the folders that may be run.
pub(super) fn find_in(folders: impl IntoIterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let runs = |at: &PathBuf| at.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    folders.into_iter().map(|folder| folder.join(name)).find(runs)
}

/// PATH, or where programs are looked for without one (execvp(3)).
fn whole_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into())
}

/// Where Nix's manual puts its programs ("Installing Nix", "Profiles"): for all users, of NixOS, of the user alone. A command over SSH and
/// a unit have none of them on PATH.
fn nix_places() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|state| state.is_absolute());
    let state = state.or_else(|| Some(home.as_ref()?.join(".local/state")));
    let everybody = ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"].map(PathBuf::from);
    let own =
        [home.map(|home| home.join(".nix-profile/bin")), state.map(|state| state.join("nix/profile/bin"))];
    everybody.into_iter().chain(own.into_iter().flatten()).collect()
}

/// The user's PATH, as far as it is to be trusted, and where Nix is without it.
pub fn path() -> &'static OsStr {
    static PATH: OnceLock<OsString> = OnceLock::new();
    PATH.get_or_init(|| {
        let mut folders = trusted(&whole_path());
        folders.extend(nix_places().into_iter().filter(|folder| !wheels_install_into(folder)));
        // What was split at colons has none.
        std::env::join_paths(folders).unwrap_or_default()
    })
}

/// The program of this name on it.
pub fn find(name: &str) -> Option<PathBuf> {
    find_in(std::env::split_paths(path()), name)
}

/// The one that would have been run from PATH as it is.
pub fn passed_over(name: &str) -> Option<PathBuf> {
    find_in(std::env::split_paths(&whole_path()), name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn folders_of_wheels_and_of_nobody_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let at = |text: &str| root.path().join(text);
        for folder in ["venv/bin", "shims", "user/bin", "user/lib/python3.12/site-packages", "local/bin"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for folder in ["local/lib/python3.11/dist-packages", "tools/bin", "tools/lib/python3-config", "here"]
        {
            fs::create_dir_all(at(folder)).unwrap();
        }
        // Of a virtual environment whose interpreter is gone, too.
        std::os::unix::fs::symlink("/nowhere/python3", at("venv/bin/python3")).unwrap();
        fs::write(at("shims/python"), "").unwrap();
        std::os::unix::fs::symlink(at("venv/bin"), at("link")).unwrap();
        for folder in ["venv/bin", "shims", "user/bin", "local/bin", "tools/bin", "here"] {
            fs::write(at(folder).join("git"), "").unwrap();
            fs::set_permissions(at(folder).join("git"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let all = ["link", "venv/bin", "shims", "user/bin", "local/bin", "here", "tools/bin"].map(at);
        let path = std::env::join_paths([PathBuf::new(), ".".into()].into_iter().chain(all.clone())).unwrap();
        assert_eq!(trusted(&path), [at("here"), at("tools/bin")]);
        assert_eq!(trusted(OsStr::new("/usr/bin:/bin")), [Path::new("/usr/bin"), Path::new("/bin")]);
        assert_eq!(trusted(OsStr::new("")), Vec::<PathBuf>::new());
        // Only what may be run.
        fs::set_permissions(at("here/git"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(find_in(trusted(&path), "git"), Some(at("tools/bin/git")));
        assert_eq!(find_in(all, "git"), Some(at("link/git")));
        assert_eq!(find_in(trusted(&path), "nix-daemon"), None);
    }
}
