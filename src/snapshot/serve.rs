//! Serving a snapshot here, in the foreground: where its instance keeps what it writes, and its port.
use crate::capture::model::used::Used;
use crate::closure::registry::Record;
use crate::closure::scratch::Scratch;
use crate::formats::nix::store_path::StorePath;
use crate::host::foreground::{self, Around, Instance};
use crate::host::slot;
use crate::protocol::launch::{Launch, Values};
use crate::snapshot::observed::{self, Known};
use crate::snapshot::places;
use crate::store::damage::{self, Damage, Depth};
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::observe::Observed;
use crate::sys::seal::{Seal, Shown};
use std::collections::BTreeMap;
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
    /// Secrets that are files of the program's own tree: values by their place in the environment.
    pub secrets: Option<&'a BTreeMap<String, String>>,
}

/// What of the snapshot is no longer as it was registered, as an error; none where that cannot be told.
pub fn look(snapshot: &str, config: &StoreConfig) -> Option<Error> {
    let found = || -> Result<Vec<Damage>> {
        let root = StorePath::from_absolute(&config.store_dir, snapshot)
            .map_err(|e| Error::new(Kind::Input, format!("{snapshot} is no store path")).caused_by(e))?;
        let closure = Store::connect(config)?.closure(&[root])?;
        damage::damaged(config, &closure, Depth::Suspects)
    };
    // It serves from the store's files alone; who has no daemon hears of it when it is deployed.
    let found = found().inspect_err(|e| tracing::debug!("the store was not looked at: {}", e.full())).ok()?;
    (!found.is_empty()).then(|| damage::told(config, &found))
}

/// An instance that can be started.
pub struct Serving {
    launch: Launch,
    pub values: Values,
    slot: Scratch,
    seal: Seal,
    secrets: BTreeMap<String, String>,
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
        let shown = launch.system_files.iter();
        let shown: Vec<Shown> =
            shown.map(|file| Shown { from: file.from.clone().into(), at: file.at.clone().into() }).collect();
        let seal = Seal::of_or_told(&[store.clone(), record.environment.clone()], &writable, &shown);
        let secrets = wanted.secrets.cloned().unwrap_or_default();
        let known = places::of_instance(&launch, &values, &store);
        Ok(Serving { launch, values, slot, seal, secrets, known })
    }

    pub fn start(&self, out: Stdio, err: Stdio) -> Result<Instance> {
        let around = Around { seal: &self.seal, places: self.known.own.clone(), placed: &self.secrets };
        foreground::start(&self.launch, &self.values, (out, err), around)
    }

    /// What the instance used of this machine, which a host may lack.
    pub fn used(&self, observed: &Observed) -> Used {
        observed::sort(observed, &self.known, &observed::look)
    }

    /// What the instance wrote into its own program, which goes with its slot.
    pub fn written(&self) -> Vec<String> {
        let mut written = slot::written(&self.launch, self.slot.path());
        let placed: Vec<String> = self.secrets.keys().cloned().collect();
        foreground::without(&mut written, &self.launch.directory, &placed);
        written
    }

    /// Leaves the slot where it is.
    pub fn keep(self) -> PathBuf {
        self.slot.keep()
    }
}
