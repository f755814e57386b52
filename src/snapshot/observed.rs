//! What was seen of a program (`sys/observe`), sorted: what is the environment's, what every host has, and what a host may
//! lack: libraries, programs, other files.
use crate::capture::audit::is_driver;
use crate::capture::model::used::{Use, Used};
use crate::formats::elf;
use crate::sys::observe::{Noted, Observed, Places};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is known of whom was observed.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The places of the environment, and of the observation itself.
    pub own: Places,
    /// Names of the libraries that ship.
    pub ships: BTreeSet<String>,
    /// The folders of PATH in which whoever configures a program finds it by its name.
    pub path: Vec<PathBuf>,
}

/// What a path is, once links are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    pub real: PathBuf,
    pub is: Is,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    Library,
    File,
    Folder,
}

/// Every host has these, or they say something of this machine alone; what glibc reads of its own ships or does without.
const EVERY_HOST: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/var/run",
    "/var/cache",
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/default/locale",
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/debian_version",
    "/usr/lib/os-release",
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl/openssl.cnf",
    // Python has a list of its own, and ComfyUI adds what it serves.
    "/etc/mime.types",
    "/etc/inputrc",
    "/etc/terminfo",
    "/lib/terminfo",
    "/usr/share/terminfo",
    "/usr/share/locale",
    "/usr/share/locale-langpack",
    "/usr/lib/locale",
    // The GPU driver's (see `audit::is_driver` for its libraries).
    "/etc/OpenCL",
    "/etc/vulkan",
    "/usr/share/vulkan",
    "/usr/share/glvnd",
    "/usr/share/egl",
    "/usr/share/nvidia",
    "/usr/lib/wsl",
    "/usr/lib/nvidia",
];

/// Programs of every host, of the GPU driver, and of Python's standard library, which does without them.
const EVERY_HOSTS_PROGRAMS: &[&str] =
    &["sh", "env", "ldconfig", "uname", "nvidia-smi", "nvidia-modprobe", "rocm-smi", "amd-smi", "xpu-smi"];

/// Folders of many owners: one of their entries belongs together, they themselves do not.
const SHARED: &[&str] = &[
    "/",
    "/etc",
    "/etc/pki",
    "/etc/ssl",
    "/lib",
    "/lib64",
    "/opt",
    "/usr",
    "/usr/lib",
    "/usr/lib/ssl",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local",
    "/usr/local/etc",
    "/usr/local/lib",
    "/usr/local/share",
    "/usr/local/share/fonts",
    "/usr/share",
    "/usr/share/fonts",
    "/var/lib",
];

/// Of these not even a list says that somebody uses what is there.
const EVERYBODYS: &[&str] = &[
    "/bin",
    "/home",
    "/media",
    "/mnt",
    "/root",
    "/sbin",
    "/usr/bin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/var",
];

/// Fonts are looked for in all of them.
const FONTS: &[&str] = &["/usr/share/fonts", "/usr/local/share/fonts"];

fn below(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Of glibc: what ships with it, what looks names up on a host, and converters.
fn is_of_libc(path: &Path, name: &str) -> bool {
    name.starts_with("libnss_") || name.starts_with("ld-linux") || is_a_converter(path)
}

/// With the list of them.
fn is_a_converter(path: &Path) -> bool {
    path.iter().any(|part| part == "gconv")
}

fn is_of_driver(path: &Path, name: &str) -> bool {
    let own = ["libnvidia-", "libcuda.", "libamdhip", "libhsa-", "libvulkan_", "libdrm_", "libigd"];
    is_driver(name)
        || own.iter().any(|prefix| name.starts_with(prefix))
        || path.iter().any(|part| part == "dri")
}

/// A folder in which the dynamic linker looks by itself: a library there is known by its name.
fn is_looked_in(folder: &Path) -> bool {
    let shown = folder.to_string_lossy();
    let rest = shown.strip_prefix("/usr").unwrap_or(&shown);
    matches!(rest, "/lib" | "/lib64") || (rest.starts_with("/lib/") && is_multiarch(folder))
}

fn is_multiarch(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-linux-gnu"))
}

fn is_one_of(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path == Path::new(folder))
}

fn is_shared(folder: &Path) -> bool {
    is_one_of(folder, SHARED) || is_multiarch(folder)
}

/// What a path belongs to.
enum Group {
    /// To all of the system.
    Nobody,
    /// The highest folder (or the file itself) that is one owner's.
    Whole(PathBuf),
    /// No system has an order there.
    Loose,
}

fn group(path: &Path, is_folder: bool) -> Group {
    if is_folder && !is_one_of(path, FONTS) && (is_shared(path) || is_one_of(path, EVERYBODYS)) {
        return Group::Nobody;
    }
    if is_folder {
        return Group::Whole(path.to_path_buf());
    }
    let owned = path.ancestors().find(|at| at.parent().is_some_and(is_shared));
    match owned {
        Some(owned) if owned.parent() != Some(Path::new("/")) => Group::Whole(owned.to_path_buf()),
        _ => Group::Loose,
    }
}

/// From so many files on, their folder is named in their place; not one as high as a home.
const MANY: usize = 3;
const DEEP: usize = 4;

/// Where something was to be written: one name for all that is there.
fn cache(path: &Path) -> String {
    let inside = path.ancestors().find(|at| at.file_name().is_some_and(|name| name == "__pycache__"));
    inside.or(path.parent()).unwrap_or(path).display().to_string()
}

/// Python's own, which it does without.
fn is_bytecode(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".pyc"))
}

struct Sorting<'a> {
    known: &'a Known,
    libraries: BTreeMap<String, Option<String>>,
    programs: BTreeMap<String, Option<String>>,
    /// Of each whether it is a folder.
    files: BTreeMap<PathBuf, (bool, Option<String>)>,
    caches: BTreeMap<String, Option<String>>,
}

impl Sorting<'_> {
    fn is_own(&self, path: &Path) -> bool {
        self.known.own.of(path).is_some()
    }

    fn see(&mut self, noted: &Noted, look: &dyn Fn(&Path) -> Option<Looked>) {
        let (path, by) = (noted.path.as_path(), noted.after.clone());
        if let Some(place) = self.known.own.of(path) {
            if place.writes && noted.ways.written && !is_bytecode(path) {
                self.caches.insert(cache(path), by);
            }
            return;
        }
        let Some(looked) = look(path) else { return };
        let real = looked.real.as_path();
        let everybodys = below(path, EVERY_HOST) || below(real, EVERY_HOST) || is_a_converter(path);
        if self.is_own(real) || everybodys || noted.ways.written {
            return;
        }
        // A program of this machine brings what it needs: libraries ship with it.
        let foreign = noted.program.as_deref().is_some_and(|program| !self.is_own(program));
        if noted.ways.executed || noted.ways.asked {
            self.program(path, looked.is, foreign, by);
        } else if looked.is == Is::Library {
            if !foreign {
                self.library(path, real, by);
            }
        } else if !foreign || below(path, &["/usr/share", "/usr/local/share"]) {
            self.files.insert(path.to_path_buf(), (looked.is == Is::Folder, by));
        }
    }

    fn program(&mut self, path: &Path, is: Is, foreign: bool, by: Option<String>) {
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { return };
        if is == Is::Folder || EVERY_HOSTS_PROGRAMS.contains(&name.as_str()) {
            return;
        }
        match path.parent().is_some_and(|folder| self.known.path.iter().any(|one| one == folder)) {
            true => drop(self.programs.entry(name).or_insert(by)),
            // What a program runs of its own, as git does.
            false if foreign => drop(self.files.insert(path.to_path_buf(), (false, by))),
            false => drop(self.programs.entry(path.display().to_string()).or_insert(by)),
        }
    }

    fn library(&mut self, path: &Path, real: &Path, by: Option<String>) {
        let name_of =
            |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let (name, real_name) = (name_of(path), name_of(real));
        let ships = self.known.ships.contains(&name) || self.known.ships.contains(&real_name);
        if ships || is_of_libc(path, &name) || is_of_driver(path, &name) {
            return;
        }
        let by_name = path.parent().is_some_and(is_looked_in);
        self.libraries.entry(if by_name { name } else { path.display().to_string() }).or_insert(by);
    }

    /// Files in the highest sensible folder of each.
    fn grouped(&self) -> Vec<Use> {
        let mut groups: BTreeMap<PathBuf, Option<String>> = BTreeMap::new();
        let mut loose: BTreeMap<PathBuf, Vec<(PathBuf, Option<String>)>> = BTreeMap::new();
        for (path, (is_folder, by)) in &self.files {
            match group(path, *is_folder) {
                Group::Nobody => {}
                Group::Whole(whole) => drop(groups.entry(whole).or_insert_with(|| by.clone())),
                Group::Loose => {
                    let folder = path.parent().unwrap_or(path).to_path_buf();
                    loose.entry(folder).or_default().push((path.clone(), by.clone()));
                }
            }
        }
        for (folder, files) in loose {
            match files.len() >= MANY && folder.iter().count() >= DEEP {
                true => drop(groups.entry(folder).or_insert(files[0].1.clone())),
                false => groups.extend(files),
            }
        }
        let inside = |path: &Path| path.ancestors().skip(1).any(|outer| groups.contains_key(outer));
        let outermost = groups.iter().filter(|(path, _)| !inside(path));
        outermost.map(|(path, by)| Use { what: path.display().to_string(), by: by.clone() }).collect()
    }
}

/// What a host may lack of what was seen.
pub fn sort(observed: &Observed, known: &Known, look: &dyn Fn(&Path) -> Option<Looked>) -> Used {
    let mut sorting = Sorting {
        known,
        libraries: BTreeMap::new(),
        programs: BTreeMap::new(),
        files: BTreeMap::new(),
        caches: BTreeMap::new(),
    };
    observed.noted.iter().for_each(|noted| sorting.see(noted, look));
    let uses = |all: &BTreeMap<String, Option<String>>| -> Vec<Use> {
        all.iter().map(|(what, by)| Use { what: what.clone(), by: by.clone() }).collect()
    };
    let more = observed.more.then(|| "more files were opened than are kept".to_string());
    Used {
        libraries: uses(&sorting.libraries),
        programs: uses(&sorting.programs),
        files: sorting.grouped(),
        caches: uses(&sorting.caches),
        folders: Vec::new(),
        written: Vec::new(),
        unseen: observed
            .failed
            .as_ref()
            .map(|why| format!("the kernel does not let it be observed: {why}"))
            .or(more),
    }
}

/// What a path is on this machine; nothing where it is gone, or neither a file nor a folder.
pub fn look(path: &Path) -> Option<Looked> {
    let real = path.canonicalize().ok()?;
    let meta = real.metadata().ok()?;
    let is = match () {
        () if meta.is_dir() => Is::Folder,
        () if !meta.is_file() => return None,
        () if is_library(&real) => Is::Library,
        () => Is::File,
    };
    Some(Looked { real, is })
}

/// A program that is position-independent is of the same kind; libraries are named so.
fn is_library(path: &Path) -> bool {
    let named = path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.ends_with(".so") || name.contains(".so.")
    });
    let mut magic = Vec::new();
    let mut read = || std::fs::File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic));
    named && read().is_ok() && elf::looks_like_elf(&magic)
}

#[cfg(test)]
#[path = "observed_tests.rs"]
mod tests;
