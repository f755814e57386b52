//! stub
use crate::capture::inventory::Finding;
use crate::capture::lock::{DistributionLock, MainLock, PackLock};
use std::path::{Path, PathBuf};
pub struct Installed<'a> {
    pub distributions: &'a [DistributionLock],
    pub packs: &'a [PackLock],
    pub disabled_packs: &'a [String],
    pub main: &'a MainLock,
}
pub fn discover(_: &Path, _: &Path) -> Vec<PathBuf> {
    Vec::new()
}
pub fn check(_: &Path, _: &Installed) -> crate::sys::error::Result<Vec<Finding>> {
    Ok(Vec::new())
}
