//! What a snapshot is taken of, and how: values that the configuration gives.
use crate::capture::model::used::Configured;
use crate::closure::graph::ServiceSpec;
use crate::closure::registry::Registry;
use crate::protocol::launch::DEFER_GC;
use crate::snapshot::config::{ProbeConfig, PythonConfig};
use crate::snapshot::events::{Event, Observer};
use crate::store::StoreConfig;
use crate::sys::clock;
use crate::sys::error::Result;
use crate::sys::files::FileLock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Subject {
    /// The ComfyUI directory.
    pub environment: PathBuf,
    /// The folder of stillframe.toml: what the configuration names is relative to it, and a lock lies there.
    pub project: PathBuf,
    /// This workstation's records.
    pub state: PathBuf,
    /// This program's cache.
    pub cache: PathBuf,
    /// The environment's own cache, where it is not `.cache` in the environment.
    pub environment_cache: Option<PathBuf>,
    pub python: PythonConfig,
    pub probe: ProbeConfig,
    /// Paths relative to the environment that stay out.
    pub exclude: Vec<String>,
    /// Files with secrets that ship, relative to the environment.
    pub allow_secrets: Vec<String>,
    /// Values of files that ship empty, by file, relative to the environment.
    pub redact: BTreeMap<String, Vec<String>>,
    /// Files in which an instance finds its own places, relative to the environment.
    pub own_paths: Vec<String>,
    /// The environment as it was named, which may be by a link.
    pub named: PathBuf,
    /// Files of intent that the configuration names.
    pub intent: Vec<PathBuf>,
    pub service: Service,
    /// What the lines would replace that mend what a probe finds.
    pub configured: Configured,
    /// Files that the configuration names as secret: they are given to instances, and lie in no store.
    pub private: Vec<PathBuf>,
    pub store: StoreConfig,
}

/// What a snapshot says of the service that it is for.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Programs of this machine that ship.
    pub programs: Vec<String>,
    /// Files and folders of this machine's system that ship.
    pub system_files: Vec<String>,
}

impl Subject {
    pub fn registry(&self) -> Registry {
        Registry::new(&self.state)
    }

    pub fn service_spec(&self) -> ServiceSpec {
        let mut environment = self.service.environment.clone();
        if self.python.defer_gc.unwrap_or(true) {
            environment.entry(DEFER_GC.into()).or_insert("{port}".into());
        }
        ServiceSpec {
            name: self.service.name.clone(),
            arguments: self.service.arguments.clone(),
            environment,
            pack_bytecode: self.python.pack_bytecode.unwrap_or(true),
        }
    }

    /// One run at a time on this state; another waits and is told for whom.
    pub fn exclusive(&self, command: &str, observer: &dyn Observer) -> Result<FileLock> {
        exclusive(&self.state, &self.environment, command, observer)
    }
}

/// The same for what works with snapshots alone.
pub fn exclusive(
    state: &Path,
    environment: &Path,
    command: &str,
    observer: &dyn Observer,
) -> Result<FileLock> {
    let holder = format!(
        "stillframe {command} of {} (pid {}, since {})",
        environment.display(),
        std::process::id(),
        clock::rfc3339(clock::now())
    );
    FileLock::acquire(&state.join("lock"), &holder, |who| {
        let holder = Some(who.to_string()).filter(|who| !who.is_empty());
        observer.event(&Event::Waiting { holder });
    })
}
