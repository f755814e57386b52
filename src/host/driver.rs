//! The GPU driver's libraries: the host's, never the snapshot's. An instance sees a folder of links to them
//! alone, made anew at every start so that a driver upgrade needs no deployment. Never the host's library
//! folder itself: its other libraries would come before the snapshot's.
use crate::sys::error::{Error, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where distributions put them, the most particular first.
const PLACES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64/nvidia",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/usr/lib/nvidia",
    "/usr/lib",
];

/// NixOS keeps a folder of them alone.
const NIXOS: &str = "/run/opengl-driver/lib";

/// What libcuda and NVML open by themselves.
const LIBRARIES: &[&str] = &[
    "libcuda.so",
    "libcudadebugger.so",
    "libnvidia-gpucomp.so",
    "libnvidia-ml.so",
    "libnvidia-nvvm",
    "libnvidia-ptxjitcompiler.so",
];

/// The folder for `LD_LIBRARY_PATH`; none where there is no driver.
pub fn assemble(given: Option<&Path>, folder: &Path) -> Result<Option<PathBuf>> {
    let nixos = Path::new(NIXOS);
    if given.is_none() && nixos.join("libcuda.so.1").exists() {
        return Ok(Some(nixos.to_path_buf()));
    }
    let places: Vec<&Path> = match given {
        Some(given) => vec![given],
        None => PLACES.iter().map(Path::new).collect(),
    };
    from(&places, folder)
}

fn from(places: &[&Path], folder: &Path) -> Result<Option<PathBuf>> {
    let mut found = false;
    for place in places {
        let Ok(entries) = fs::read_dir(place) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(text) = name.to_str() else { continue };
            if !LIBRARIES.iter().any(|l| text.starts_with(l)) {
                continue;
            }
            fs::create_dir_all(folder).map_err(|e| Error::io("create directory", folder, e))?;
            let at = folder.join(&name);
            match symlink(entry.path(), &at) {
                Ok(()) => found = true,
                // A place before this one has it.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("link", &at, e)),
            }
        }
    }
    Ok(found.then(|| folder.to_path_buf()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_drivers_own_libraries_and_the_first_of_each() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, out) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("driver"));
        for (place, name) in [
            (&a, "libcuda.so.1"),
            (&a, "libc.so.6"),
            (&b, "libcuda.so.1"),
            (&b, "libnvidia-ml.so.550.1"),
            (&b, "libnvidia-nvvm70.so.4"),
            (&b, "libnvidia-egl.so"),
        ] {
            fs::create_dir_all(place).unwrap();
            fs::write(place.join(name), "").unwrap();
        }
        assert_eq!(from(&[&a, &b, Path::new("/absent")], &out).unwrap(), Some(out.clone()));
        let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["libcuda.so.1", "libnvidia-ml.so.550.1", "libnvidia-nvvm70.so.4"]);
        assert_eq!(fs::read_link(out.join("libcuda.so.1")).unwrap(), a.join("libcuda.so.1"));
        assert_eq!(from(&[Path::new("/absent")], &dir.path().join("none")).unwrap(), None);
    }
}
