//! `stillframe-agent instance FILE`: what an instance's unit starts. It puts the slot together, adds what is
//! this host's own (folders, the GPU driver's libraries, secrets) and becomes the program. It runs as the
//! service's user inside the unit's sandbox; so does `clearing`, which takes the slot apart.
use crate::host::driver;
use crate::host::{placed, slot, socket};
use crate::protocol::launch::{Launch, Values};
use crate::protocol::spec::{Folder, SecretUse};
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::say::say;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

pub const INSTANCE_VERSION: u32 = 1;

/// All that an instance needs to know; written by the agent beside its unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub version: u32,
    /// `s0-g7`.
    pub id: String,
    /// The launch file in the snapshot.
    pub launch: PathBuf,
    /// The service's own folder.
    pub data: PathBuf,
    pub output: PathBuf,
    pub models: String,
    /// What its arguments name. It listens there only where it has no socket.
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// None: below `data`, as earlier agents had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<PathBuf>,
    pub gpus: Vec<String>,
    pub folders: Vec<Folder>,
    pub keep: Vec<String>,
    pub secrets: Vec<SecretUse>,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub driver: Option<PathBuf>,
}

impl Instance {
    pub fn read(file: &Path) -> Result<Instance> {
        let broken =
            |why: String| Error::new(Kind::Io, format!("{} is no instance file: {why}", file.display()));
        let document: serde_json::Value =
            serde_json::from_slice(&files::read(file)?).map_err(|e| broken(e.to_string()))?;
        version::check_document(&document, INSTANCE_VERSION).map_err(|e| broken(e.to_string()))?;
        serde_json::from_value(document).map_err(|e| broken(e.to_string()))
    }

    fn slot(&self) -> PathBuf {
        self.slot.clone().unwrap_or_else(|| self.data.join("slots").join(&self.id))
    }

    /// The slot of a run that ended without being stopped, for as long as the next one is made.
    fn gone(&self) -> PathBuf {
        self.slot().with_extension("gone")
    }

    fn launch(&self) -> Result<Launch> {
        Launch::read(&self.launch)
    }

    fn values(&self) -> Values {
        Values {
            base: self.data.display().to_string(),
            output: self.output.display().to_string(),
            models: self.models.clone(),
            slot: self.slot().display().to_string(),
            listen: "127.0.0.1".into(),
            port: self.port,
        }
    }

    /// Where a path relative to ComfyUI's base directory really is: input and user are all instances'.
    fn place(&self, at: &str) -> PathBuf {
        match at.split_once('/').unwrap_or((at, "")) {
            ("output", rest) => self.output.join(rest),
            ("input" | "user", _) => self.data.join(at),
            _ => self.slot().join("base").join(at),
        }
    }
}

/// Assembles the slot and becomes the program; returns only what went wrong.
pub fn run(file: &Path) -> Result<()> {
    let instance = Instance::read(file)?;
    let launch = instance.launch()?;
    let values = instance.values();
    let slot = instance.slot();
    if slot.exists() {
        // It ended without being stopped, and systemd starts it again.
        let placed: Vec<String> = instance.secrets.iter().filter_map(|secret| secret.at.clone()).collect();
        let mut written = slot::written(&launch, &slot);
        placed::without(&mut written, &launch.directory, &placed);
        for path in written {
            say(format_args!("the last run had written into its own program: {path}"));
        }
        // Gone after the new one is there: ext4 searches longer for free inodes among those just deleted.
        files::remove_tree(&instance.gone())?;
        fs::rename(&slot, instance.gone()).map_err(|e| Error::io("move aside", &slot, e))?;
    }
    slot::assemble(&launch, &values)?;
    files::remove_tree(&instance.gone())?;
    for folder in &instance.folders {
        link_to(&instance.place(&folder.at), Path::new(&folder.path))?;
    }
    for kept in &instance.keep {
        keep(&instance.place(kept), &instance.data.join("kept").join(kept))?;
    }
    // Last: what is kept and what others share was checked not to be where these go.
    for secret in &instance.secrets {
        if let Some(at) = &secret.at {
            placed::put(&launch, &slot, at, &files::read(&credentials()?.join(&secret.name))?)?;
        }
    }
    let libraries = driver::assemble(instance.driver.as_deref(), &slot.join("driver"))?;
    let mut command = Command::new(&launch.program);
    command
        .args(launch.arguments.iter().chain(&instance.arguments).map(|a| values.fill(a)))
        .current_dir(slot.join(&launch.directory))
        .env_clear();
    let cache = instance.data.join("cache");
    for (name, folder) in
        [("CUDA_CACHE_PATH", "cuda"), ("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "inductor")]
    {
        // Compiled kernels are named by their content: all generations may have them.
        let folder = cache.join(folder);
        make(&folder)?;
        command.env(name, folder);
    }
    command.env("CUDA_VISIBLE_DEVICES", instance.gpus.join(","));
    if let Some(libraries) = &libraries {
        command.env("LD_LIBRARY_PATH", libraries).env("TRITON_LIBCUDA_PATH", libraries);
    }
    command.envs(slot::environment(&launch, &values, &instance.environment));
    command.envs(secrets(&instance.secrets)?);
    if let Some(socket) = &instance.socket {
        socket::listen(&mut command, socket, instance.port, &slot)?;
    }
    Err(Error::io("start", &launch.program, command.exec()))
}

fn credentials() -> Result<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(PathBuf::from)
        .ok_or_else(|| Error::new(Kind::Host, "systemd passed no credentials"))
}

/// Secrets as variables; as files they are there already (systemd's credentials).
fn secrets(uses: &[SecretUse]) -> Result<Vec<(String, String)>> {
    if uses.is_empty() {
        return Ok(Vec::new());
    }
    let folder = credentials()?;
    let mut found = vec![("CREDENTIALS_DIRECTORY".to_string(), folder.display().to_string())];
    for secret in uses {
        if let Some(variable) = &secret.variable {
            let value = files::read_text(&folder.join(&secret.name))?;
            found.push((variable.clone(), value.trim_end_matches('\n').to_string()));
        }
    }
    Ok(found)
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create directory", path, e))
}

/// A link at `at`, in place of an empty folder or an older link, never of anything else.
fn link_to(at: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = at.parent() {
        make(parent)?;
    }
    if fs::read_link(at).is_ok_and(|now| now == to) {
        return Ok(());
    }
    // Seen there without a link, as a folder of the models is that the unit makes writable.
    if fs::canonicalize(at).is_ok_and(|now| fs::canonicalize(to).is_ok_and(|to| now == to)) {
        return Ok(());
    }
    let cleared = match fs::symlink_metadata(at) {
        Ok(meta) if meta.is_symlink() => fs::remove_file(at),
        Ok(_) => fs::remove_dir(at),
        Err(_) => Ok(()),
    };
    cleared.map_err(|e| {
        Error::io("put a folder at", at, e)
            .hint("something else is there: choose another place for the folder")
    })?;
    symlink(to, at).map_err(|e| Error::io("link", at, e))
}

/// What is at `at` lives at `kept` from now on; the first time with what the snapshot has there.
fn keep(at: &Path, kept: &Path) -> Result<()> {
    if fs::symlink_metadata(kept).is_err() {
        if let Some(parent) = kept.parent() {
            make(parent)?;
        }
        if at.exists() {
            // Whole or not at all: a copy that was cut off would be taken for what was kept.
            let partial = kept.with_extension("partial");
            let _ = fs::remove_dir_all(&partial).or_else(|_| fs::remove_file(&partial));
            slot::copy_tree(at, &partial)?;
            fs::rename(&partial, kept).map_err(|e| Error::io("replace", kept, e))?;
        } else {
            make(kept)?;
        }
    }
    let gone = if at.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) };
    match gone {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("remove", at, e)),
    }
    link_to(at, kept)
}

/// Whether a path of the configuration stays below where it is put.
pub fn stays_below(at: &str) -> bool {
    !at.is_empty() && Path::new(at).components().all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_kept_folder_begins_with_the_snapshots_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (at, kept) = (dir.path().join("slot/pack/data"), dir.path().join("kept/pack/data"));
        touch(&at.join("seed"), "from the snapshot");
        keep(&at, &kept).unwrap();
        fs::write(at.join("more"), "written").unwrap();
        // The next generation's slot.
        fs::remove_file(&at).unwrap();
        touch(&at.join("seed"), "of the next snapshot");
        keep(&at, &kept).unwrap();
        assert_eq!(fs::read_to_string(at.join("seed")).unwrap(), "from the snapshot");
        assert_eq!(fs::read_to_string(kept.join("more")).unwrap(), "written");
        let new = dir.path().join("slot/pack/empty");
        keep(&new, &dir.path().join("kept/pack/empty")).unwrap();
        assert!(new.is_dir());
    }

    #[test]
    fn a_folder_that_is_seen_there_anyway_stays() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("models/made");
        fs::create_dir_all(&made).unwrap();
        fs::create_dir_all(dir.path().join("slot/base")).unwrap();
        symlink(dir.path().join("models"), dir.path().join("slot/base/models")).unwrap();
        link_to(&dir.path().join("slot/base/models/made"), &made).unwrap();
        assert!(made.is_dir() && !made.is_symlink());
    }

    #[test]
    fn a_folder_takes_no_others_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("base/models");
        fs::create_dir_all(&at).unwrap();
        link_to(&at, Path::new("/srv/a")).unwrap();
        link_to(&at, Path::new("/srv/b")).unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), Path::new("/srv/b"));
        fs::remove_file(&at).unwrap();
        touch(&at.join("full"), "");
        let error = link_to(&at, Path::new("/srv/a")).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot put a folder at {}", at.display()));
        for (path, ok) in [("a/b", true), ("", false), ("/a", false), ("a/../b", false)] {
            assert_eq!(stays_below(path), ok, "{path}");
        }
    }
}
