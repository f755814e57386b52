//! What every part of the Python side is given, and what they gather for the lock.
use crate::capture::files::left_out::LeftOut;
use crate::capture::model::inventory::OutsidePath;
use crate::capture::model::lock::{DistributionLock, SourceLock};
use crate::capture::model::report::Finding;
use crate::capture::python::installed::Installed;
use crate::capture::trees::Trees;
use crate::capture::trees::memo::Memo;
use crate::capture::trees::tree::TreeRef;
use crate::formats::nix::store_path::StoreDir;
use crate::sys::progress::Progress;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the Python side contributes to the lock.
#[derive(Debug, Default)]
pub struct Python {
    pub distributions: Vec<DistributionLock>,
    pub sources: Vec<SourceLock>,
    pub unowned: Option<TreeRef>,
    pub outside: Vec<OutsidePath>,
    pub findings: Vec<Finding>,
    /// What may be a program or a library, for the audit: its name in the report, and where it lies.
    pub objects: Vec<(String, PathBuf)>,
}

pub struct Context<'a> {
    pub store: &'a StoreDir,
    pub memo: &'a Memo,
    pub trees: &'a Trees,
    pub progress: &'a dyn Progress,
    pub real_files: &'a [String],
    /// The ComfyUI directory: a `.pth` file may not pull all of it in.
    pub environment: &'a Path,
    /// The models folders, canonical: links into them are not followed.
    pub models: &'a [PathBuf],
    /// What the configuration leaves out.
    pub left_out: &'a LeftOut,
    pub started: SystemTime,
    /// The virtual environment, if it is one.
    pub venv: Option<&'a Path>,
    /// The site directories in the order of `sys.path`, also those without any distribution.
    pub sites: &'a [PathBuf],
    /// Distributions behind others of the same name: never imported.
    pub behind: &'a [Installed],
    /// What is left over of distributions that are no more.
    pub leftovers: &'a HashSet<PathBuf>,
    /// Who is asked for wheels; `None`: nobody.
    pub index: Option<String>,
}

impl Context<'_> {
    /// A tree of the last run, if its files are the same and the store still has it.
    pub fn remembered(&self, key: &str, digest: Option<&str>) -> Option<TreeRef> {
        self.trees.remembered(self.memo, key, digest, self.store)
    }
}
