//! Where everything of a service is on a host.
//!
//! ```text
//! /var/lib/stillframe/                     root's alone: what must survive
//!   agent -> /nix/store/…                  the newest agent; what the boot service starts
//!   incoming/                              unfinished transfers
//!   verified.json                          store paths that were compared with the workstation's hashes
//!   maintenance.json                       who has this host under maintenance, and what served
//!   reserve                                room for the end of an activation on a full file system
//!   services/NAME/state.json, state.copy.json, generations/{NNNNNN,next}.json, lease.json, mutex, scaling.json,
//!                 attempts/NNNNNN.jsonl, secrets/ATTEMPT/, places.json
//!   services/.removed-NAME/                the last of a service that goes
//!   services/.renaming-NAME                what it is to be called
//! /var/lib/stillframe-data/NAME/           all instances' of a service: input, user, output/, kept/, cache/
//! /var/lib/stillframe-slots/NAME/s0-g7/    one instance's own
//! /var/lib/stillframe-gateway/NAME/        the gateway's own: the jobs, where it owns them
//! /run/stillframe/NAME/                    root's alone: instance files, the gateway's settings; made anew at boot
//! /run/stillframe-scalers/NAME             where the gateway asks for instances more or fewer
//! /run/stillframe-NAME-gateway/            the gateway's control socket and table
//! /run/stillframe-instances/NAME/s0-g7/    the socket that an instance listens on; only the gateway enters
//! /nix/var/nix/profiles/stillframe-NAME    a profile: its generations are ours
//! /nix/var/nix/gcroots/stillframe/         snapshots and agents of the generations, and of attempts under way
//! ```
use crate::host::state_file;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::spec::valid_service;
use crate::sys::error::{Error, Result};
use crate::sys::files;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Layout {
    pub state: PathBuf,
    pub data: PathBuf,
    pub run: PathBuf,
    pub units: PathBuf,
    pub nix: PathBuf,
}

/// The one unit that is not made anew at boot.
pub const BOOT_UNIT: &str = "stillframe.service";
pub const BOOT_UNIT_FOLDER: &str = "/etc/systemd/system";

impl Layout {
    pub fn new(state: &Path) -> Layout {
        let nix = std::env::var_os("NIX_STATE_DIR").filter(|v| !v.is_empty());
        Layout {
            state: state.to_path_buf(),
            data: "/var/lib/stillframe-data".into(),
            run: "/run/stillframe".into(),
            units: "/run/systemd/system".into(),
            nix: nix.map_or_else(|| PathBuf::from("/nix/var/nix"), PathBuf::from),
        }
    }

    pub fn agent(&self) -> PathBuf {
        self.state.join("agent")
    }

    pub fn incoming(&self) -> PathBuf {
        self.state.join("incoming")
    }

    /// Versioned JSON; what is lost with it is only time.
    pub fn verified(&self) -> PathBuf {
        self.state.join("verified.json")
    }

    pub fn reserve(&self) -> PathBuf {
        self.state.join("reserve")
    }

    /// Is there while this host is under maintenance.
    pub fn maintenance(&self) -> PathBuf {
        self.state.join("maintenance.json")
    }

    pub fn services(&self) -> PathBuf {
        self.state.join("services")
    }

    pub fn service(&self, name: &str) -> Service {
        Service { layout: self.clone(), name: name.into(), home: self.services().join(name) }
    }

    /// The services of this host, by name.
    pub fn known(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.services()) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            // One that is being removed has a name that is none.
            .filter(|name| valid_service(name) && state_file::is_known(&self.service(name).state()))
            .collect();
        names.sort();
        names
    }

    pub fn agent_roots(&self) -> PathBuf {
        self.nix.join("gcroots/stillframe")
    }

    /// Is there while a service gets another name: which.
    pub fn renaming(&self, service: &str) -> PathBuf {
        self.services().join(format!(".renaming-{service}"))
    }

    /// Nobody has it after a start of the host.
    pub fn renaming_lock(&self) -> PathBuf {
        self.run.with_extension("renaming.lock")
    }

    /// Where the last of a service is put before it is deleted: its state is there as a whole, or not at all.
    pub fn removed(&self, service: &str) -> PathBuf {
        self.services().join(format!(".removed-{service}"))
    }
}

const SLOTS: &str = "stillframe-slots";
/// What systemd makes below /var/lib for services, and for dynamic users once more below /var/lib/private.
const STATE_FOLDERS: [&str; 3] = ["stillframe-data", SLOTS, "stillframe-gateway"];
/// Where the sockets of instances are.
const SOCKETS: &str = "/run/stillframe-instances";
/// The same of the sockets on which gateways ask for instances.
const SCALERS: &str = "/run/stillframe-scalers";

/// An empty folder of `StateDirectory=`; one that is not there is removed.
fn remove_state_folder(name: &str) -> Result<()> {
    let gone = |done: std::io::Result<()>, path: &Path| match done {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    };
    let own = Path::new("/var/lib").join(name);
    if own.is_symlink() {
        gone(std::fs::remove_file(&own), &own)?;
    } else {
        gone(std::fs::remove_dir(&own), &own)?;
    }
    let private = Path::new("/var/lib/private").join(name);
    gone(std::fs::remove_dir(&private), &private)
}

/// Removes a folder in which nothing is.
pub fn remove_empty(folder: &Path) -> Result<()> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match std::fs::remove_dir(folder) {
        Err(e) if !matches!(e.kind(), NotFound | DirectoryNotEmpty) => Err(Error::io("remove", folder, e)),
        _ => Ok(()),
    }
}

/// A folder of `StateDirectory=` with all that is in it. A dynamic user's is elsewhere, where no other user comes near it
/// (systemd.exec(5), DynamicUser=).
fn remove_state_tree(folder: &Path) -> Result<()> {
    if let Ok(target) = std::fs::read_link(folder) {
        files::remove_tree(&folder.parent().unwrap_or(Path::new("/")).join(target))?;
        return files::remove(folder);
    }
    files::remove_tree(folder)
}

/// A unit of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Its service or its socket.
    Gateway,
    Instance(InstanceId),
    /// The same of what starts and stops instances for it.
    Scaler,
    /// Of an attempt.
    Activation(u64),
}

/// The places of one service.
#[derive(Debug, Clone)]
pub struct Service {
    pub layout: Layout,
    pub name: String,
    pub home: PathBuf,
}

impl Service {
    pub fn state(&self) -> PathBuf {
        self.home.join("state.json")
    }

    pub fn lease(&self) -> PathBuf {
        self.home.join("lease.json")
    }

    /// Places of the host's own folders that were made for what the snapshot has there (`system_files`).
    pub fn places(&self) -> PathBuf {
        self.home.join("places.json")
    }

    /// Held for moments only, around a look at the lease and its change.
    pub fn mutex(&self) -> PathBuf {
        self.home.join("mutex")
    }

    /// Who wants the activation to stop.
    pub fn cancel(&self) -> PathBuf {
        self.home.join("cancel")
    }

    pub fn attempts(&self) -> PathBuf {
        self.home.join("attempts")
    }

    /// What an attempt is to do, for the activation's own process.
    pub fn goal(&self, attempt: u64) -> PathBuf {
        self.attempts().join(format!("{attempt:06}.goal.json"))
    }

    pub fn secrets(&self, attempt: u64) -> PathBuf {
        self.home.join("secrets").join(attempt.to_string())
    }

    pub fn data(&self) -> PathBuf {
        self.layout.data.join(&self.name)
    }

    pub fn run(&self) -> PathBuf {
        self.layout.run.join(&self.name)
    }

    pub fn instance_file(&self, id: InstanceId) -> PathBuf {
        self.run().join(format!("{id}.json"))
    }

    /// Below /var/lib, for `StateDirectory=`.
    pub fn data_folder(&self) -> String {
        format!("stillframe-data/{}", self.name)
    }

    /// The same of an instance's slot.
    pub fn slot_folder(&self, id: InstanceId) -> String {
        format!("{SLOTS}/{}/{id}", self.name)
    }

    /// Takes away what systemd made for a slot that is empty now: its folder, and for a dynamic user the link to it.
    pub fn remove_slot_folder(&self, id: InstanceId) -> Result<()> {
        remove_state_folder(&self.slot_folder(id))
    }

    /// The same of the folder that all slots of the service were in.
    pub fn remove_slots_folder(&self) -> Result<()> {
        remove_state_folder(&format!("{SLOTS}/{}", self.name))
    }

    /// Takes away the folders that all of the service's slots, sockets and runtime files were in, and then those that no
    /// service has anything in any more.
    pub fn remove_folders(&self) -> Result<()> {
        for slots in self.slots() {
            files::remove_tree(&slots)?;
        }
        files::remove_tree(&self.run())?;
        files::remove_tree(&Path::new(SOCKETS).join(&self.name))?;
        let lib = |name: &str| ["/var/lib", "/var/lib/private"].map(|lib| Path::new(lib).join(name));
        let shared = STATE_FOLDERS.into_iter().flat_map(lib);
        for folder in shared.chain([SOCKETS.into(), SCALERS.into(), self.layout.run.clone()]) {
            remove_empty(&folder)?;
        }
        Ok(())
    }

    /// The slots as instances see them, and below /var/lib/private as they are where users are dynamic.
    pub fn slots(&self) -> [PathBuf; 2] {
        ["/var/lib", "/var/lib/private"].map(|lib| Path::new(lib).join(SLOTS).join(&self.name))
    }

    /// A slot as its instance sees it. What is in the folder is the instance's; the folder itself is systemd's.
    pub fn slot(&self, id: InstanceId) -> PathBuf {
        Path::new("/var/lib").join(self.slot_folder(id)).join("slot")
    }

    /// Below /run, for `RuntimeDirectory=`.
    pub fn socket_folder(&self, id: InstanceId) -> String {
        id.socket_folder(&self.name)
    }

    /// What the process that takes slots apart is to do.
    pub fn clearing(&self) -> PathBuf {
        self.run().join("clearing")
    }

    /// Where each instance has its output folder: in the service's own folder, or where its configuration says.
    pub fn outputs(&self, given: Option<&str>) -> PathBuf {
        given.map_or_else(|| self.data().join("output"), PathBuf::from)
    }

    pub fn gateway_settings(&self) -> PathBuf {
        self.run().join("gateway.json")
    }

    /// Below /run, for `RuntimeDirectory=`.
    pub fn gateway_runtime(&self) -> String {
        format!("stillframe-{}-gateway", self.name)
    }

    pub fn gateway_folder(&self) -> PathBuf {
        Path::new("/run").join(self.gateway_runtime())
    }

    /// Below /var/lib, for `StateDirectory=`; made where the gateway owns the jobs.
    pub fn gateway_state(&self) -> String {
        format!("stillframe-gateway/{}", self.name)
    }

    /// Where systemd mounts that for the gateway, whose user is dynamic (systemd.exec(5), DynamicUser=).
    pub fn gateway_state_private(&self) -> PathBuf {
        Path::new("/var/lib/private").join(self.gateway_state())
    }

    pub fn jobs(&self) -> PathBuf {
        Path::new("/var/lib").join(self.gateway_state()).join("jobs.sqlite")
    }

    /// Takes away the folder of a service's jobs, with all that is in it.
    pub fn remove_gateway_state(&self) -> Result<()> {
        remove_state_tree(&Path::new("/var/lib").join(self.gateway_state()))
    }

    /// The same of what all instances of the service had.
    pub fn remove_data(&self) -> Result<()> {
        remove_state_tree(&self.data())
    }

    pub fn control(&self) -> PathBuf {
        self.gateway_folder().join("control.sock")
    }

    pub fn gateway_unit(&self, kind: &str) -> String {
        format!("stillframe-{}-gateway.{kind}", self.name)
    }

    pub fn scaler_unit(&self, kind: &str) -> String {
        format!("stillframe-{}-scaler.{kind}", self.name)
    }

    /// Every user of the host may connect; who is heard is `scaler`'s to say.
    pub fn scaler_socket(&self) -> PathBuf {
        Path::new(SCALERS).join(&self.name)
    }

    /// What an operator has said of the number of instances.
    pub fn scaling(&self) -> PathBuf {
        self.home.join("scaling.json")
    }

    /// Which of this service's units one is; none of another service. A pattern cannot tell: `stillframe-demo-*` takes in
    /// those of `demo-two`.
    pub fn unit(&self, unit: &str) -> Option<Unit> {
        let rest = unit.strip_prefix("stillframe-")?.strip_prefix(self.name.as_str())?.strip_prefix('-')?;
        match rest.rsplit_once('.')? {
            ("gateway", "service" | "socket") => Some(Unit::Gateway),
            ("scaler", "service" | "socket") => Some(Unit::Scaler),
            (own, "service") => {
                let attempt = own.strip_prefix("activation-").and_then(|number| number.parse().ok());
                let instance = || own.parse().ok().map(Unit::Instance);
                attempt.map(Unit::Activation).or_else(instance)
            }
            _ => None,
        }
    }

    pub fn activation_unit(&self, attempt: u64) -> String {
        format!("stillframe-{}-activation-{attempt}.service", self.name)
    }

    /// The profile's own link, and those of its generations.
    pub fn profile(&self) -> PathBuf {
        self.layout.nix.join("profiles").join(format!("stillframe-{}", self.name))
    }

    pub fn generation_link(&self, number: u64) -> PathBuf {
        self.layout.nix.join("profiles").join(format!("stillframe-{}-{number}-link", self.name))
    }

    /// Keep an attempt's snapshot and agent until its generation does.
    pub fn attempt_roots(&self, attempt: u64) -> [PathBuf; 2] {
        let root =
            |what: &str| self.layout.agent_roots().join(format!("{}-attempt-{attempt}{what}", self.name));
        [root(""), root("-agent")]
    }

    /// Keeps a generation's snapshot where the profile's own link does not: `nix-collect-garbage -d` removes those.
    pub fn snapshot_root(&self, number: u64) -> PathBuf {
        self.layout.agent_roots().join(format!("{}-{number}-snapshot", self.name))
    }

    pub fn agent_root(&self, number: u64) -> PathBuf {
        self.layout.agent_roots().join(format!("{}-{number}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_a_service_are_told_from_those_of_another() {
        let names = [
            "demo",
            "demo-two",
            "demo-gateway",
            "demo-scaler",
            "demo-s0",
            "demo-activation",
            "demo-activation-1",
        ];
        let layout = Layout::new(Path::new("/"));
        let services: Vec<Service> = names.iter().map(|name| layout.service(name)).collect();
        for service in &services {
            let own = [
                service.gateway_unit("service"),
                service.gateway_unit("socket"),
                service.scaler_unit("service"),
                service.scaler_unit("socket"),
                service.activation_unit(12),
                InstanceId { slot: 1, generation: 23 }.unit(&service.name),
            ];
            for unit in own {
                let of: Vec<&str> =
                    services.iter().filter(|s| s.unit(&unit).is_some()).map(|s| s.name.as_str()).collect();
                assert_eq!(of, [service.name.as_str()], "{unit}");
            }
        }
        let others = [
            "stillframe.service",
            "stillframe-demo.service",
            "stillframe-demo-s0-g1.timer",
            "demo-gateway.service",
        ];
        assert!(others.iter().all(|unit| services[0].unit(unit).is_none()));
    }
}
