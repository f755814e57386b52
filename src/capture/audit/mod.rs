//! Will every library be found on the host? Each object's NEEDED is looked up in the environment as
//! it will be laid out, in the base libraries, and among the GPU driver's libraries, which the host
//! brings. Only headers are read.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

mod layout;
pub mod report;

use layout::{Layout, package};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capture::files::paths::open_regular;
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::formats::elf::{self, ElfInfo};
use crate::sys::error::{Error, Result};
use crate::words::show;

/// A library that a file needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Unmet {
    pub file: String,
    pub library: String,
}

/// A library that only works when something has loaded it before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Preloaded {
    pub file: String,
    pub library: String,
    /// A file of that name; no search path leads from `file` to it.
    pub provider: String,
}

/// A program that starts through the host's own dynamic linker, not the captured one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct HostProgram {
    pub file: String,
    pub interp: String,
}

/// What the Python runtime brings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provided {
    /// Every name a library of the runtime can be asked for by.
    pub names: BTreeSet<String>,
    /// Of these, the base libraries: a link can lead to them.
    #[serde(default)]
    pub linkable: BTreeSet<String>,
    /// Those loaded whenever the interpreter runs.
    pub loaded: BTreeSet<String>,
    /// The version of its C library.
    pub glibc: (u32, u32),
}

/// What does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// A file asks for a newer C library than the captured one.
    Glibc { file: String, needs: (u32, u32), has: (u32, u32) },
    /// Files of more than one major version of CUDA: the packages of each.
    Cuda(BTreeMap<u32, BTreeSet<String>>),
}

impl Conflict {
    /// What it is about, for the report.
    pub fn subject(&self) -> &'static str {
        match self {
            Conflict::Glibc { .. } => "GLIBC",
            Conflict::Cuda(_) => "CUDA",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::Glibc { file, needs, has } => {
                let (needs, has) = (format!("{}.{}", needs.0, needs.1), format!("{}.{}", has.0, has.1));
                write!(f, "{file} needs glibc {needs}, the captured one is {has}")
            }
            Conflict::Cuda(users) => {
                let users: Vec<String> = users
                    .iter()
                    .map(|(major, packages)| {
                        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
                        format!("CUDA {major} by {}", packages.join(", "))
                    })
                    .collect();
                write!(f, "CUDA versions are mixed: {}", users.join("; "))
            }
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditReport {
    /// How many objects were looked at.
    pub objects: usize,
    pub unmet: Vec<Unmet>,
    /// Met if another library was loaded first, as torch's are by `import torch`.
    pub preloaded: Vec<Preloaded>,
    /// In the runtime, but out of reach: an object with a DT_RUNPATH of its own does not use the
    /// interpreter's DT_RPATH, so the host's is loaded, unless another object asked before.
    pub hidden: Vec<Unmet>,
    /// The same, where the DT_RUNPATH leads to a folder of site-packages. A link there, by this path, brings the
    /// runtime's within reach: of that object alone, since others may have one of another name.
    #[serde(default)]
    pub links: BTreeSet<String>,
    /// Met by the host's GPU driver.
    pub driver: Vec<Unmet>,
    pub host_programs: Vec<HostProgram>,
    /// The version of the C library that the runtime brings.
    #[serde(default)]
    pub glibc: (u32, u32),
    /// The newest C library asked for, and by whom.
    pub glibc_floor: Option<((u32, u32), String)>,
    /// CUDA major version, to the files that need or are a library of it.
    pub cuda_majors: BTreeMap<u32, BTreeSet<String>>,
    /// What does not fit together.
    pub conflicts: Vec<Conflict>,
    /// Objects for another machine, and files that claim to be objects and cannot be read.
    pub passed_over: Vec<String>,
}

/// Names by which the driver's libraries are asked for.
const DRIVER: [&str; 15] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvcuvid.so",
    "libnvoptix.so",
    "libnvidia-allocator.so",
    "libnvidia-encode.so",
    "libnvidia-fbc.so",
    "libnvidia-gpucomp.so",
    "libnvidia-ml.so",
    "libnvidia-nvvm.so",
    "libnvidia-opencl.so",
    "libnvidia-opticalflow.so",
    "libnvidia-ptxjitcompiler.so",
    "libGLX_nvidia.so",
    "libEGL_nvidia.so",
];

/// Libraries whose SONAME carries the CUDA major version itself; cuFFT's and others' do not.
const CUDA: [&str; 6] = ["libcudart", "libcublas", "libcublasLt", "libnvrtc", "libnvJitLink", "libcupti"];

/// Suffixes of what is no program or library, to spare opening tens of thousands of files.
const NEVER: [&str; 44] = [
    "py",
    "pyi",
    "txt",
    "md",
    "json",
    "h",
    "hpp",
    "cuh",
    "pyx",
    "pxd",
    "yaml",
    "yml",
    "toml",
    "js",
    "mjs",
    "ts",
    "map",
    "css",
    "html",
    "rst",
    "pyc",
    "pth",
    "c",
    "cpp",
    "cu",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "webp",
    "svg",
    "ico",
    "ttf",
    "woff",
    "woff2",
    "mp4",
    "wav",
    "npy",
    "npz",
    "safetensors",
    "gguf",
    "gz",
    "zip",
    "csv",
];

pub fn is_driver(library: &str) -> bool {
    DRIVER.iter().any(|name| is_version_of(library, name))
}

/// What may be an object among the files of a tree.
pub fn of_tree(tree: &Tree, label: &str) -> Vec<(String, PathBuf)> {
    let file = |(name, entry): (&Vec<u8>, &Entry)| match entry {
        Entry::File { source: Source::Disk(path), .. } => {
            Some((format!("{label}{}", show(name)), path.clone()))
        }
        _ => None,
    };
    tree.entries.iter().filter_map(file).filter(|(label, _)| may_be_elf(label)).collect()
}

fn is_version_of(library: &str, name: &str) -> bool {
    library.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// `files` are the environment's files: a label, which is the path relative to `site-packages` in the
/// layout to come (all distributions merged), and where the file is now.
pub fn audit(files: impl Iterator<Item = (String, PathBuf)>, runtime: &Provided) -> Result<AuditReport> {
    let candidates: Vec<(String, PathBuf)> = files.filter(|(label, _)| may_be_elf(label)).collect();
    let read: Vec<Looked> =
        candidates.into_par_iter().map(|(label, path)| look(label, &path)).collect::<Result<Vec<_>>>()?;
    let mut passed_over = Vec::new();
    let mut objects = BTreeMap::new();
    for looked in read {
        match looked {
            Looked::NotElf => {}
            Looked::PassedOver(why) => passed_over.push(why),
            Looked::Object(label, info) => {
                objects.insert(label, info);
            }
        }
    }
    passed_over.sort();
    Ok(AuditReport { passed_over, ..judge(&objects, runtime) })
}

fn judge(objects: &BTreeMap<String, ElfInfo>, runtime: &Provided) -> AuditReport {
    let mut report = AuditReport { objects: objects.len(), glibc: runtime.glibc, ..AuditReport::default() };
    let layout = Layout::new(objects);
    for (label, info) in objects {
        for library in &info.needed {
            let what = || Unmet { file: label.clone(), library: library.clone() };
            if layout.leads_to(label, library) || runtime.loaded.contains(library) {
                continue;
            } else if runtime.names.contains(library) {
                match layout.folder_of(label) {
                    _ if info.runpath.is_empty() => {}
                    Some(folder) if runtime.linkable.contains(library) => {
                        report.links.insert(format!("{folder}/{library}"));
                    }
                    _ => report.hidden.push(what()),
                }
            } else if is_driver(library) {
                report.driver.push(what());
            } else if let Some(provider) = layout.provider(label, library) {
                let (file, library) = (label.clone(), library.clone());
                report.preloaded.push(Preloaded { file, library, provider: provider.to_owned() });
            } else {
                report.unmet.push(what());
            }
        }
        if let (true, Some(interp)) = (info.is_executable, &info.interp) {
            report.host_programs.push(HostProgram { file: label.clone(), interp: interp.clone() });
        }
        for major in info.needed.iter().chain(&info.soname).filter_map(|n| cuda_major(n)) {
            report.cuda_majors.entry(major).or_default().insert(label.clone());
        }
        if let Some(floor) = info.glibc_floor {
            if report.glibc_floor.as_ref().is_none_or(|(highest, _)| floor > *highest) {
                report.glibc_floor = Some((floor, label.clone()));
            }
            if floor > runtime.glibc {
                let (file, needs, has) = (label.clone(), floor, runtime.glibc);
                report.conflicts.push(Conflict::Glibc { file, needs, has });
            }
        }
    }
    if report.cuda_majors.len() > 1 {
        let packages = |files: &BTreeSet<String>| files.iter().map(|f| package(f).to_owned()).collect();
        let users = report.cuda_majors.iter().map(|(major, files)| (*major, packages(files))).collect();
        report.conflicts.push(Conflict::Cuda(users));
    }
    report
}

fn cuda_major(library: &str) -> Option<u32> {
    let (name, version) = library.split_once(".so.")?;
    CUDA.contains(&name).then(|| version.split('.').next()?.parse().ok())?
}

fn may_be_elf(label: &str) -> bool {
    let extension = Path::new(label).extension().and_then(|e| e.to_str()).unwrap_or_default();
    !NEVER.contains(&extension)
}

enum Looked {
    NotElf,
    PassedOver(String),
    Object(String, ElfInfo),
}

fn look(label: String, path: &Path) -> Result<Looked> {
    // What a RECORD lists may be missing, a FIFO, or closed to us: that is reported where it is read.
    let Ok(mut file) = open_regular(path) else {
        return Ok(Looked::PassedOver(format!("{label}: cannot be read")));
    };
    let mut magic = Vec::with_capacity(4);
    file.by_ref().take(4).read_to_end(&mut magic).map_err(|e| Error::io("read", path, e))?;
    if !elf::looks_like_elf(&magic) {
        return Ok(Looked::NotElf);
    }
    file.seek(SeekFrom::Start(0)).map_err(|e| Error::io("read", path, e))?;
    let native = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
    Ok(match elf::read(&mut BufReader::with_capacity(4096, file)) {
        Err(e) => Looked::PassedOver(format!("{label}: {e}")),
        // GPU code is ELF too.
        Ok(info) if !info.class64 || info.machine != native => {
            Looked::PassedOver(format!("{label}: for another machine ({})", info.machine))
        }
        Ok(info) => Looked::Object(label, info),
    })
}

#[cfg(test)]
mod tests;
