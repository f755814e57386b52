//! The effects of an activation, behind one trait: the host carries them out, the tests break them.
use crate::run::control::{Reply, Table};
use crate::run::spec::Spec;
use crate::run::state::{Generation, ServiceState};
use crate::sys::error::Result;
use serde::{Deserialize, Serialize};

/// Where an activation is: what a user of an online service sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Queued,
    Copying,
    Starting,
    Checking,
    Rotating,
    Draining,
    Succeeded,
    Failed,
    Reverted,
    Cancelled,
    Interrupted,
}

impl Status {
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Status::Succeeded | Status::Failed | Status::Reverted | Status::Cancelled | Status::Interrupted
        )
    }
}

/// How an instance's unit is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitState {
    /// systemd's ActiveState.
    pub active: String,
    pub restarts: u64,
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
    /// The link that keeps a generation from the garbage collector.
    fn link(&mut self, number: u64, snapshot: &str) -> Result<()>;
    fn unlink(&mut self, number: u64) -> Result<()>;
    /// The profile's own link: what serves.
    fn point(&mut self, number: Option<u64>) -> Result<()>;
    fn write_units(&mut self, number: u64, generation: &Generation) -> Result<()>;
    fn remove_units(&mut self, units: &[String]) -> Result<()>;
    fn start(&mut self, unit: &str) -> Result<()>;
    /// Stops a unit; one that is not there is stopped.
    fn stop(&mut self, unit: &str) -> Result<()>;
    fn unit(&mut self, unit: &str) -> Result<UnitState>;
    /// The last lines an instance logged.
    fn log_tail(&mut self, unit: &str) -> String;
    /// What an instance wrote into its own program, then the slot is thrown away.
    fn clear_slot(&mut self, unit: &str) -> Result<()>;
    /// One look at an instance; the inner error says what is wrong with its answer.
    fn probe(&mut self, port: u16, spec: &Spec) -> Result<std::result::Result<(), String>>;
    /// Jobs that wait or run in an instance; `None` when it does not answer.
    fn queue(&mut self, port: u16) -> Option<u64>;
    /// Units and settings of the gateway as this spec wants them, running.
    fn gateway(&mut self, spec: &Spec) -> Result<()>;
    fn remove_gateway(&mut self) -> Result<()>;
    fn set_table(&mut self, table: &Table) -> Result<()>;
    fn gateway_status(&mut self) -> Result<Reply>;
    fn cut(&mut self, id: &str) -> Result<()>;
    /// Milliseconds on a clock that only goes forward.
    fn now(&mut self) -> u64;
    /// Sleeps; an error when the activation was cancelled.
    fn wait(&mut self, milliseconds: u64) -> Result<()>;
}
