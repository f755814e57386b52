//! What a host knows of a service, in one versioned file (`state_file`): its generations, which of them serves, and the
//! activation that is under way. It is written before each effect that it speaks of, so whoever reads it
//! after a crash knows what may have happened.
use crate::protocol::control::{Address, GATEWAY_VERSION, Table, Target};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::messages::{Outcome, Stopped};
use crate::protocol::spec::Wanted;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

pub const STATE_VERSION: u32 = 2;
/// As version 2, but every instance has a port.
pub const WITH_PORTS: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceState {
    pub version: u32,
    pub service: String,
    /// Numbers are never used twice, whatever became of them.
    pub next_generation: u64,
    /// The truth: what serves when nothing is under way.
    pub serving: Option<u64>,
    /// Then nothing serves, also after a start of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    pub generations: BTreeMap<u64, Generation>,
    pub pending: Option<Pending>,
    /// The instances' folder was not there before the first activation: if that fails, it goes again.
    #[serde(default)]
    pub data_is_new: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    pub wanted: Wanted,
    /// Seconds since 1970.
    pub created: u64,
    /// The attempt that brought it.
    pub attempt: u64,
    /// The slot of each instance.
    pub instances: Vec<Place>,
    /// What served before it did: where a rollback from it goes.
    pub before: Option<u64>,
    /// That was stopped when this one came: without this one, it is again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_stop: Option<Stopped>,
}

impl Generation {
    /// Whether somebody took its snapshot or its agent out of the store.
    pub fn is_gone(&self) -> bool {
        [&self.wanted.snapshot, &self.wanted.agent].into_iter().any(|path| !Path::new(path).exists())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub slot: u32,
    /// The loopback port of an instance that an earlier agent deployed. Now each listens on a socket of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// An activation that is not over. `previous` is exactly what serves if it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    pub attempt: u64,
    pub generation: u64,
    pub previous: Option<u64>,
    /// The generation existed before (a rollback): a failure does not remove it.
    pub kept: bool,
    #[serde(default, skip_serializing_if = "Work::is_activation")]
    pub work: Work,
}

/// What is under way. Of all but an activation, `generation` is what serves, or served last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    #[default]
    Activation,
    Restart,
    Stop,
    /// `begun`: what served is drained, and everything goes from here on.
    Remove {
        data: bool,
        begun: bool,
    },
}

impl Work {
    fn is_activation(&self) -> bool {
        *self == Work::Activation
    }
}

impl ServiceState {
    pub fn new(service: &str) -> Self {
        ServiceState {
            version: STATE_VERSION,
            service: service.into(),
            next_generation: 1,
            serving: None,
            stopped: None,
            generations: BTreeMap::new(),
            pending: None,
            data_is_new: false,
        }
    }

    /// What serves, or would if it were not stopped.
    pub fn current(&self) -> Option<u64> {
        self.serving.or_else(|| self.stopped.as_ref().map(|stopped| stopped.generation))
    }

    /// An outcome with the snapshot that serves after it.
    pub fn complete(&self, outcome: Outcome) -> Outcome {
        let generation = outcome.generation.and_then(|n| self.generations.get(&n));
        Outcome { snapshot: generation.map(|g| g.wanted.snapshot.clone()), ..outcome }
    }

    pub fn instances(&self, generation: u64) -> Vec<InstanceId> {
        let places = self.generations.get(&generation).map_or(&[][..], |g| &g.instances);
        places.iter().map(|place| InstanceId { slot: place.slot, generation }).collect()
    }

    /// Their systemd units.
    pub fn units(&self, generation: u64) -> Vec<String> {
        self.instances(generation).into_iter().map(|id| id.unit(&self.service)).collect()
    }

    /// Where an instance of a generation listens.
    pub fn address(&self, generation: u64, place: Place) -> Address {
        match place.port {
            Some(port) => Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            None => Address::Unix(InstanceId { slot: place.slot, generation }.socket(&self.service)),
        }
    }

    /// The gateway's table when exactly this generation serves.
    pub fn table(&self, generation: Option<u64>) -> Table {
        let found = generation.and_then(|n| Some((n, self.generations.get(&n)?)));
        let targets = found.map_or_else(Vec::new, |(number, g)| {
            g.instances
                .iter()
                .map(|place| Target {
                    id: InstanceId { slot: place.slot, generation: number }.to_string(),
                    address: self.address(number, *place),
                    slot: place.slot,
                    generation: number,
                })
                .collect()
        });
        Table {
            version: GATEWAY_VERSION,
            targets,
            starting: Vec::new(),
            serving: found.map(|(number, _)| number),
        }
    }

    /// The same without one instance.
    pub fn table_without(&self, generation: u64, instance: InstanceId) -> Table {
        let mut table = self.table(Some(generation));
        let id = instance.to_string();
        table.targets.retain(|target| target.id != id);
        table
    }
}
