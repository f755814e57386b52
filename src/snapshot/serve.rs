//! Serving a snapshot here, in the foreground: where its instance keeps what it writes, and its port.
use crate::capture::model::used::Used;
use crate::closure::registry::Record;
use crate::closure::scratch::Scratch;
use crate::host::foreground::{self, Instance};
use crate::host::slot;
use crate::protocol::launch::{Launch, Values};
use crate::snapshot::observed::{self, Known};
use crate::snapshot::places;
use crate::sys::error::{Error, Result};
use crate::sys::observe::Observed;
use crate::sys::seal::Seal;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What a user may say otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// A loopback port; none, and 0: a free one.
    pub port: Option<u16>,
    /// None: the environment's, if it is still there.
    pub models: Option<&'a Path>,
    /// Where input, output and user data are kept; none: a folder of the snapshot's own.
    pub base: Option<&'a Path>,
}

/// An instance that can be started.
pub struct Serving {
    launch: Launch,
    pub values: Values,
    slot: Scratch,
    seal: Seal,
    known: Known,
}

impl Serving {
    /// `state`: the folder of this workstation's records.
    pub fn prepare(record: &Record, state: &Path, wanted: Wanted<'_>) -> Result<Serving> {
        let launch = Launch::read(&record.launch_file()).map_err(|e| {
            let own = e.hint.clone();
            e.hint(
                "programs are started at their store paths: a snapshot of another store cannot be run here",
            )
            .maybe_hint(own)
        })?;
        let port = match wanted.port {
            Some(port) if port != 0 => foreground::unused(port)?,
            _ => foreground::free_port()?,
        };
        let home = state.join("run").join(&record.id);
        let base = wanted.base.map_or_else(|| home.join("base"), Path::to_path_buf);
        let models = match wanted.models {
            Some(models) => models.canonicalize().map_err(|e| Error::io("open", models, e))?,
            None => Some(record.environment.join("models"))
                .filter(|m| m.is_dir())
                .unwrap_or_else(|| home.join("models")),
        };
        std::fs::create_dir_all(&base).map_err(|e| Error::io("create directory", &base, e))?;
        // Only ours: a models folder that was asked for exists.
        let _ = std::fs::create_dir_all(&models);
        let base = base.canonicalize().map_err(|e| Error::io("open", &base, e))?;
        let slot = Scratch::new(&home, "slot")?;
        let values = Values {
            base: base.display().to_string(),
            output: base.join("output").display().to_string(),
            models: models.display().to_string(),
            slot: slot.path().display().to_string(),
            listen: "127.0.0.1".into(),
            port,
        };
        // As on a host: the store and the environment that it came from are not the instance's to write.
        let mut writable = vec![base.clone(), slot.path().to_path_buf()];
        writable.extend(wanted.models.map(Path::to_path_buf));
        let store = Path::new(&record.snapshot).parent().unwrap_or(Path::new("/")).to_path_buf();
        let seal = Seal::of_or_told(&[store.clone(), record.environment.clone()], &writable);
        let known = places::of_instance(&launch, &values, &store);
        Ok(Serving { launch, values, slot, seal, known })
    }

    pub fn start(&self, out: Stdio, err: Stdio) -> Result<Instance> {
        foreground::start(&self.launch, &self.values, out, err, &self.seal, self.known.own.clone())
    }

    /// What the instance used of this machine, which a host may lack.
    pub fn used(&self, observed: &Observed) -> Used {
        observed::sort(observed, &self.known, &observed::look)
    }

    /// What the instance wrote into its own program, which goes with its slot.
    pub fn written(&self) -> Vec<String> {
        slot::written(&self.launch, self.slot.path())
    }

    /// Leaves the slot where it is.
    pub fn keep(self) -> PathBuf {
        self.slot.keep()
    }
}
