//! The effects of an activation, behind one trait: the host carries them out, the tests break them.
pub use crate::host::clearing::Cleared;
pub use crate::host::offers::Offers;
use crate::host::state::{Generation, ServiceState};
use crate::protocol::control::{Address, Reply, Table};
use crate::protocol::instance_id::InstanceId;
pub use crate::protocol::messages::Status;
use crate::protocol::spec::{Spec, Wanted};
use crate::sys::error::Result;
use serde_json::Value;
use std::collections::BTreeMap;

/// How an instance's unit is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitState {
    /// systemd's ActiveState.
    pub active: String,
    pub restarts: u64,
    /// How it ended the last time: `exit-code`, `signal`, `oom-kill`; empty or `success`: it did not.
    pub result: String,
}

impl UnitState {
    /// ActiveState, and why.
    pub fn told(&self) -> String {
        match self.result.as_str() {
            "" | "success" => self.active.clone(),
            result => format!("{}: {result}", self.active),
        }
    }
}

impl UnitState {
    pub fn is_over(&self) -> bool {
        matches!(self.active.as_str(), "failed" | "inactive")
    }
}

pub trait World {
    /// A step, in the journal before it is taken.
    fn step(&mut self, status: Status, text: &str) -> Result<()>;
    fn save(&mut self, state: &ServiceState) -> Result<()>;
    /// From here on an end is brought about that must be: what is written may take the room that is held for
    /// that, and no request to stop is heard.
    fn must_end(&mut self);
    /// The links that keep a generation from the garbage collector.
    fn link(&mut self, number: u64, wanted: &Wanted) -> Result<()>;
    /// Lets go of a generation: its links, and the secrets that came with it.
    fn unlink(&mut self, number: u64, attempt: u64) -> Result<()>;
    /// Links of generations that the state does not know go.
    fn forget(&mut self, state: &ServiceState) -> Result<()>;
    /// Everything in the store is on disk for good: no power cut takes what a commit refers to.
    fn sync_store(&mut self) -> Result<()>;
    /// The profile's own link: what serves.
    fn point(&mut self, number: Option<u64>) -> Result<()>;
    fn write_units(&mut self, number: u64, generation: &Generation) -> Result<()>;
    fn remove_units(&mut self, instances: &[InstanceId]) -> Result<()>;
    fn start(&mut self, id: InstanceId) -> Result<()>;
    /// Stops an instance; one that is not there is stopped.
    fn stop(&mut self, id: InstanceId) -> Result<()>;
    fn unit(&mut self, id: InstanceId) -> Result<UnitState>;
    /// TCP ports that the processes of an instance listen on, as `IP:PORT`: for a person who asks why it does not
    /// answer on its socket.
    fn listens(&mut self, id: InstanceId) -> Vec<String>;
    /// The last lines an instance logged.
    fn log_tail(&mut self, id: InstanceId) -> String;
    /// Packs that an instance could not import, and why, as its log tells.
    fn failed_imports(&mut self, id: InstanceId) -> BTreeMap<String, String>;
    /// Instances besides `keep` that run, or have units or files for that, whoever began them.
    fn others(&mut self, keep: &[InstanceId]) -> Result<Vec<InstanceId>>;
    /// Throws every slot on this disk away but those of `keep`, and says what their instances had written into
    /// their own programs. Pictures go to the slots of generation `heir`.
    fn clear_slots(
        &mut self,
        state: &ServiceState,
        keep: &[InstanceId],
        heir: Option<u64>,
    ) -> Result<Vec<Cleared>>;
    /// Generation `to` has the pictures of generation `from` too, from now on.
    fn share_pictures(&mut self, state: &ServiceState, from: u64, to: u64) -> Result<()>;
    /// One look at an instance; the inner error says what is wrong with its answer.
    fn probe(&mut self, at: &Address, spec: &Spec) -> Result<std::result::Result<(), String>>;
    /// What an instance has of what is wanted: node classes, and what else the environment's own server has. The inner
    /// error says what it does not tell.
    fn offers(
        &mut self,
        id: InstanceId,
        at: &Address,
        wanted: &Wanted,
    ) -> Result<std::result::Result<Offers, String>>;
    /// Runs a workflow on an instance, to its end.
    fn smoke(
        &mut self,
        at: &Address,
        workflow: &Value,
        limit_ms: u64,
    ) -> Result<std::result::Result<(), String>>;
    /// Jobs that wait or run in an instance; `None` when it does not answer.
    fn queue(&mut self, at: &Address) -> Option<u64>;
    /// Units and settings of the gateway as wanted, running, in the newest agent's program.
    fn gateway(&mut self, generation: &Generation) -> Result<()>;
    /// Whether the gateway can listen where `wanted` says, and does not yet for `serving`.
    fn ports_are_free(&mut self, wanted: &Wanted, serving: &Wanted) -> Result<()>;
    fn remove_gateway(&mut self) -> Result<()>;
    /// Whether the instances' own folder is there: pictures, uploads, user data.
    fn has_data(&mut self) -> bool;
    fn remove_data(&mut self) -> Result<()>;
    /// The jobs that the gateway owned; it does not run any more.
    fn remove_jobs(&mut self) -> Result<()>;
    /// What else is on this host of a service that goes: links, slots, folders in /run, places that were made for it;
    /// all but its data, and the state that says that it goes.
    fn remove_rest(&mut self, state: &ServiceState) -> Result<()>;
    fn set_table(&mut self, table: &Table) -> Result<()>;
    fn gateway_status(&mut self) -> Result<Reply>;
    fn cut(&mut self, id: &str) -> Result<()>;
    /// Milliseconds on a clock that only goes forward.
    fn now(&mut self) -> u64;
    /// Sleeps; an error when the activation was cancelled.
    fn wait(&mut self, milliseconds: u64) -> Result<()>;
}
