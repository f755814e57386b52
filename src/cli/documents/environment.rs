//! What an environment contains, and what a lock says of it.
use crate::capture::audit::Unmet;
use crate::capture::index::lookup::IndexReport;
use crate::capture::model::change::FileChange;
use crate::capture::model::inventory::{GitState, ModelFolder, Nested, OutsidePath, PackKind};
use crate::capture::model::lock::Provenance;
use crate::capture::model::report::Finding;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What an environment contains.
#[derive(Serialize, JsonSchema)]
pub struct Inspected {
    /// The ComfyUI directory.
    pub environment: PathBuf,
    pub main: MainProgram,
    pub python: Python,
    pub packs: Vec<Pack>,
    pub distributions: Vec<Distribution>,
    /// What of the cache ships.
    pub cache: Vec<Sized>,
    /// Programs of the workstation that ship, by name.
    pub programs: Vec<Sized>,
    /// Bytes of each tree of their libraries.
    pub program_libraries: Vec<u64>,
    /// Files and folders of the workstation's system that ship.
    pub system_files: Vec<Sized>,
    /// Folders of models, which are not captured.
    pub models: Vec<ModelFolder>,
    /// User data, which is not captured.
    pub user: Vec<ModelFolder>,
    /// What the environment points at outside of itself.
    pub outside: Vec<OutsidePath>,
    pub audit: Audit,
    /// What was asked of the package index; null where nothing was.
    pub index: Option<IndexReport>,
    pub findings: Vec<Finding>,
}

#[derive(Serialize, JsonSchema)]
pub struct MainProgram {
    pub version: Option<String>,
    pub git: Option<GitState>,
    pub bytes: u64,
}

#[derive(Serialize, JsonSchema)]
pub struct Python {
    pub executable: PathBuf,
    /// The virtual environment, if it is one.
    pub venv: Option<PathBuf>,
    /// How it was found.
    pub found: String,
    pub version: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "InspectedPack")]
pub struct Pack {
    /// The name in `custom_nodes`.
    pub name: String,
    pub kind: PackKind,
    pub enabled: bool,
    pub git: Option<GitState>,
    /// Repositories below the pack's own.
    pub nested: Vec<Nested>,
    pub bytes: u64,
    /// Model weights in it, which ship as store paths of their own.
    pub weights: Vec<Sized>,
}

#[derive(Serialize, JsonSchema)]
pub struct Sized {
    pub path: String,
    pub bytes: u64,
}

#[derive(Serialize, JsonSchema)]
pub struct Distribution {
    pub name: String,
    pub version: String,
    pub provenance: Provenance,
    /// Why it is not pinned.
    pub reason: Option<String>,
    /// Files that are not the wheel's.
    pub changed: Vec<FileChange>,
    pub bytes: u64,
}

#[derive(Serialize, JsonSchema)]
pub struct Audit {
    /// How many programs and libraries were looked at.
    pub objects: usize,
    /// The newest version of the C library that a file asks for, and that file.
    pub glibc_floor: Option<((u32, u32), String)>,
    /// Files by the major version of CUDA that they need.
    pub cuda_majors: BTreeMap<u32, std::collections::BTreeSet<String>>,
    /// Libraries that nothing in the snapshot has.
    pub unmet: Vec<Unmet>,
}

/// What an environment contains, and the files that were written.
#[derive(Serialize, JsonSchema)]
pub struct Locked {
    #[serde(flatten)]
    pub inspected: Inspected,
    /// Those that have changed.
    pub written: Vec<PathBuf>,
}
