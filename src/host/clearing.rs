//! `stillframe-agent clear FILE`: takes the slots of instances that have ended apart, and hands their pictures to
//! those that go on. It runs as the service's user, because an instance may leave links there.
//!
//! What goes is what lies on the disk and is not to be kept: so what a crash left behind goes with the next ones.
//! An instance that begins is given a second name of each picture before it has traffic; what is moved after that
//! are only the pictures that came meanwhile.
use crate::host::{placed, slot};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::launch::Launch;
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub const ORDER_VERSION: u32 = 1;

/// What is to be done; written by the agent for the process that does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub version: u32,
    /// The service's own folder.
    pub data: PathBuf,
    /// Where each instance has a folder for its slot.
    pub slots: PathBuf,
    /// Where output folders are, besides the one in `data`: others may have theirs there too.
    pub outputs: Vec<PathBuf>,
    pub task: Task,
    /// Who gets the pictures.
    pub heirs: Vec<Heir>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Task {
    /// Every slot goes but these. `known`: what the others were made from.
    Clear { keep: Vec<String>, known: Vec<Known> },
    /// Nothing goes; the heirs see the pictures of these too.
    Share { from: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heir {
    pub id: String,
    pub output: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    pub id: String,
    /// The launch file in its snapshot.
    pub launch: PathBuf,
    /// Below ComfyUI's base directory: folders of the host that were put there, and what was to be kept.
    pub linked: Vec<String>,
    /// Secrets that were put there as files, by their place in the environment.
    #[serde(default)]
    pub placed: Vec<String>,
}

/// What became of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cleared {
    pub id: String,
    /// What its instance had written into its own program.
    pub written: Vec<String>,
    /// Why some of it is still there.
    pub error: Option<String>,
}

pub fn run(file: &Path) -> Result<Vec<Cleared>> {
    let broken = |why: String| Error::new(Kind::Io, format!("{} is no order: {why}", file.display()));
    let document: serde_json::Value =
        serde_json::from_slice(&files::read(file)?).map_err(|e| broken(e.to_string()))?;
    version::check_document(&document, ORDER_VERSION).map_err(|e| broken(e.to_string()))?;
    let order: Order = serde_json::from_value(document).map_err(|e| broken(e.to_string()))?;
    match &order.task {
        Task::Share { from } => {
            for id in from {
                order.share(id)?;
            }
            Ok(Vec::new())
        }
        Task::Clear { keep, known } => {
            let going = order.there().into_iter().chain(known.iter().map(|known| known.id.clone()));
            let going: BTreeSet<String> = going.filter(|id| !keep.contains(id)).collect();
            Ok(going.iter().filter_map(|id| order.clear(id, known)).collect())
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

impl Order {
    /// The slot of an instance. Earlier agents had it in the data.
    fn slot(&self, id: &str) -> PathBuf {
        let earlier = self.data.join("slots").join(id);
        let is_there = earlier.exists() || earlier.with_extension("gone").exists();
        if is_there { earlier } else { self.slots.join(id).join("slot") }
    }

    /// The instances of this service that have something here.
    fn there(&self) -> BTreeSet<String> {
        let earlier = names(&self.data.join("slots")).into_iter();
        let earlier = earlier.map(|name| name.trim_end_matches(".gone").to_string());
        let all = earlier.chain(names(&self.slots)).chain(names(&self.data.join("output")));
        all.filter(|name| name.parse::<InstanceId>().is_ok()).collect()
    }

    /// Where an instance's pictures may be.
    fn outputs_of(&self, id: &str) -> Vec<PathBuf> {
        let own = self.data.join("output");
        let all: BTreeSet<&PathBuf> = self.outputs.iter().chain([&own]).collect();
        all.into_iter().map(|output| output.join(id)).filter(|folder| folder.is_dir()).collect()
    }

    /// The same in the service's own data.
    fn own_output_of(&self, id: &str) -> Vec<PathBuf> {
        Some(self.data.join("output").join(id)).filter(|folder| folder.is_dir()).into_iter().collect()
    }

    /// The one that goes on in the slot of `id`, or else the first.
    fn heir(&self, id: &str) -> Option<&Heir> {
        let slot = |id: &str| id.parse::<InstanceId>().ok().map(|id| id.slot);
        self.heirs.iter().find(|heir| slot(&heir.id) == slot(id)).or(self.heirs.first())
    }

    fn share(&self, id: &str) -> Result<()> {
        let Some(heir) = self.heir(id) else { return Ok(()) };
        for folder in self.outputs_of(id).iter().filter(|folder| **folder != heir.output) {
            link_all(folder, &heir.output)?;
        }
        Ok(())
    }

    /// Pictures first: the slot marks an instance that still has some in a folder that others have too.
    fn clear(&self, id: &str, known: &[Known]) -> Option<Cleared> {
        let slot = self.slot(id);
        let earlier = self.data.join("slots").join(id);
        let own = self.slots.join(id);
        let all = [earlier.with_extension("gone"), earlier, own.clone()];
        let has_slot = all[..2].iter().any(|path| path.exists()) || !names(&own).is_empty();
        // Another service may have an instance of this name in a folder that is not this service's alone.
        let outputs = if has_slot { self.outputs_of(id) } else { self.own_output_of(id) };
        if !has_slot && (outputs.is_empty() || self.heirs.is_empty()) {
            return None;
        }
        let mut cleared = Cleared { id: id.into(), ..Cleared::default() };
        let result = self.hand_over_all(id, &outputs).and_then(|()| {
            cleared.written =
                known.iter().find(|known| known.id == id).map_or_else(Vec::new, |known| known.written(&slot));
            all[..2].iter().try_for_each(|path| files::remove_tree(path))?;
            // The folder itself is systemd's; whatever its instance put into it goes.
            names(&own).iter().try_for_each(|name| remove_any(&own.join(name)))
        });
        cleared.error = result.err().map(|e| e.full());
        Some(cleared)
    }

    fn hand_over_all(&self, id: &str, outputs: &[PathBuf]) -> Result<()> {
        let Some(heir) = self.heir(id) else { return Ok(()) };
        for folder in outputs.iter().filter(|folder| **folder != heir.output) {
            hand_over(folder, &heir.output, &heir.output.join(id))?;
            files::remove_tree(folder)?;
        }
        Ok(())
    }
}

impl Known {
    fn written(&self, slot: &Path) -> Vec<String> {
        // Where its snapshot was deleted by hand the slot goes all the same.
        let Ok(launch) = Launch::read(&self.launch) else { return Vec::new() };
        let mut written = slot::written(&launch, slot);
        let linked: Vec<PathBuf> = self.linked.iter().map(|at| Path::new("base").join(at)).collect();
        placed::without(&mut written, &launch.directory, &self.placed);
        written.retain(|path| !linked.iter().any(|at| Path::new(path).starts_with(at)));
        written
    }
}

fn remove_any(path: &Path) -> Result<()> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    if is_folder { files::remove_tree(path) } else { files::remove(path) }
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create directory", path, e))
}

/// Whether two names are of one file.
fn same(one: &Path, two: &Path) -> bool {
    let file = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    file(one).is_some_and(|id| file(two) == Some(id))
}

/// Moves everything below `from` to `to`; what has a twin there goes to `aside`.
fn hand_over(from: &Path, to: &Path, aside: &Path) -> Result<()> {
    make(to)?;
    for entry in fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
        let entry = entry.map_err(|e| Error::io("list", from, e))?;
        let (path, name) = (entry.path(), entry.file_name());
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let there = to.join(&name);
        if same(&path, &there) {
            // It was shared before. rename(2) would leave both names.
            files::remove(&path)?;
            continue;
        }
        match rustix::fs::renameat_with(CWD, &path, CWD, &there, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) if is_dir => hand_over(&path, &there, &aside.join(&name))?,
            // Another file system: as a copy, beside which nothing is replaced either.
            Err(Errno::XDEV) if is_dir => hand_over(&path, &there, &aside.join(&name))?,
            Err(Errno::XDEV) if fs::symlink_metadata(&there).is_err() => copy_over(&path, &there)?,
            Err(Errno::XDEV) => {
                make(aside)?;
                copy_over(&path, &aside.join(&name))?;
            }
            Err(Errno::EXIST) => {
                make(aside)?;
                fs::rename(&path, aside.join(&name)).map_err(|e| Error::io("move", &path, e))?;
            }
            Err(e) => return Err(Error::io("move", &path, e.into())),
        }
    }
    Ok(())
}

/// A file moves to another file system: whole, or it stays where it is.
fn copy_over(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    files::remove(&partial)?;
    slot::copy_tree(from, &partial)?;
    fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(|e| Error::io("sync", &partial, e))?;
    rustix::fs::renameat_with(CWD, &partial, CWD, to, RenameFlags::NOREPLACE)
        .map_err(|e| Error::io("move", &partial, e.into()))?;
    // The two file systems reach their disks apart from each other.
    files::sync_dir(to.parent().unwrap_or(Path::new("/")))?;
    files::remove(from)
}

/// Gives every file below `from` a second name below `to`, but where one is there.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    make(to)?;
    for entry in fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
        let entry = entry.map_err(|e| Error::io("list", from, e))?;
        let (path, there) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            link_all(&path, &there)?;
            continue;
        }
        match rustix::fs::linkat(CWD, &path, CWD, &there, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => {}
            // Deleted meanwhile by its own instance, which still has traffic.
            Err(Errno::NOENT) => {}
            Err(e) => return Err(Error::io("link", &there, e.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "clearing_tests.rs"]
mod tests;
