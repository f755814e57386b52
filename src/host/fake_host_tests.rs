//! A host made of maps, whose effects fail, or end the process, when a test says so.
use crate::host::state::{Generation, ServiceState};
use crate::host::world::{Cleared, Offers, Status, UnitState, World};
use crate::protocol::control::{Address, Reply, Table, TargetStatus};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::spec::{Spec, Wanted};
use crate::sys::error::{Error, Kind, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// By the folder they are in: whose pictures are there.
type Pictures = BTreeMap<InstanceId, BTreeSet<InstanceId>>;

/// What survives the agent's process, and, marked so, the power.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    // On disk.
    pub state: Option<ServiceState>,
    pub links: BTreeSet<u64>,
    pub data: bool,
    /// It could not be removed: that is said, and nothing else depends on it.
    pub data_stays: bool,
    /// The gateway's folder of jobs; and the same of that.
    pub jobs: bool,
    pub jobs_stay: bool,
    pub profile: Option<u64>,
    /// Snapshots in the store, and those of them whose files have reached the disk.
    pub store: BTreeSet<String>,
    pub on_disk: BTreeSet<String>,
    pub slots: BTreeSet<InstanceId>,
    /// They could not be thrown away.
    pub slots_stay: bool,
    pub pictures: Pictures,
    /// What the disk has had for long enough to keep it at a power loss, of the two before this.
    pub synced: Option<(BTreeSet<InstanceId>, Pictures)>,
    // In /run and in memory.
    pub units: BTreeSet<InstanceId>,
    pub running: BTreeSet<InstanceId>,
    pub gateway: bool,
    /// Whose settings it has: the snapshot of a generation.
    pub settings: String,
    pub table: Table,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The effect fails, once.
    Error,
    /// The process dies before the effect.
    Before,
    /// The process dies right after it.
    After,
}

pub struct Fake {
    pub host: Host,
    pub clock: u64,
    pub effects: u64,
    pub fault: Option<(u64, Fault)>,
    /// From this effect on the file system of the state is full.
    pub full_from: Option<u64>,
    /// Room is held there for an end.
    pub reserve: bool,
    pub must_end: bool,
    /// The activation is cancelled at this time.
    pub cancelled_at: Option<u64>,
    /// Until when each generation has a job, once it has traffic.
    pub jobs: BTreeMap<u64, u64>,
    /// The gateway owns the jobs; and how many more wait in it.
    pub owns: bool,
    pub waiting: u64,
    /// Generations that end at this time.
    pub dies: BTreeMap<u64, u64>,
    pub stopped_with_jobs: Vec<InstanceId>,
    pub dead: bool,
    /// Generations whose instances never get healthy.
    pub sick: BTreeSet<u64>,
    /// Generations that are healthy only until they have traffic.
    pub weak: BTreeSet<u64>,
    /// Open connections of a generation, and until when.
    pub open: BTreeMap<u64, u64>,
    pub cut: Vec<String>,
    /// Generations with a pack that failed to import.
    pub lame: BTreeSet<u64>,
    pub steps: Vec<(Status, String)>,
    /// Whose settings the gateway was given, in order.
    pub settings: Vec<String>,
    /// Who had traffic, in order: the last activation's tables.
    pub tables: Vec<Vec<String>>,
    /// Where its instances listen besides their sockets.
    pub elsewhere: Vec<String>,
}

impl Fake {
    pub fn new(host: Host) -> Fake {
        Fake {
            host,
            clock: 0,
            effects: 0,
            fault: None,
            full_from: None,
            reserve: false,
            must_end: false,
            cancelled_at: None,
            jobs: BTreeMap::new(),
            owns: false,
            waiting: 0,
            dies: BTreeMap::new(),
            stopped_with_jobs: Vec::new(),
            dead: false,
            sick: BTreeSet::new(),
            weak: BTreeSet::new(),
            open: BTreeMap::new(),
            cut: Vec::new(),
            lame: BTreeSet::new(),
            steps: Vec::new(),
            settings: Vec::new(),
            tables: Vec::new(),
            elsewhere: Vec::new(),
        }
    }

    pub fn effect<T>(&mut self, what: &str, act: impl FnOnce(&mut Host) -> T) -> Result<T> {
        let broken = || Error::new(Kind::Io, format!("{what} broke"));
        if self.dead {
            return Err(broken());
        }
        self.effects += 1;
        match self.fault {
            Some((at, Fault::Error)) if at == self.effects => Err(broken()),
            Some((at, Fault::Before)) if at == self.effects => {
                self.dead = true;
                Err(broken())
            }
            Some((at, Fault::After)) if at == self.effects => {
                act(&mut self.host);
                self.dead = true;
                Err(broken())
            }
            _ => Ok(act(&mut self.host)),
        }
    }

    fn is_dead(&self, number: u64) -> bool {
        self.dies.get(&number).is_some_and(|at| self.clock >= *at)
    }

    fn has_job(&self, number: u64) -> bool {
        let has_had_traffic =
            self.jobs.contains_key(&number) && self.host.running.iter().any(|id| id.generation == number);
        has_had_traffic && !self.is_dead(number) && self.clock < self.jobs[&number]
    }

    /// An effect on the file system of the state.
    fn write(&mut self, what: &str, act: impl FnOnce(&mut Host)) -> Result<()> {
        let full = self.full_from.is_some_and(|from| self.effects + 1 >= from);
        if full && !self.dead && !(self.must_end && self.reserve) {
            self.effects += 1;
            return Err(Error::io("write", what, std::io::ErrorKind::StorageFull.into()));
        }
        self.effect(what, act)
    }

    pub fn generation_of(&self, at: &Address) -> Option<u64> {
        let state = self.host.state.as_ref()?;
        let has = |n: u64, g: &Generation| g.instances.iter().any(|place| state.address(n, *place) == *at);
        state.generations.iter().find(|(n, g)| has(**n, g)).map(|(n, _)| *n)
    }
}

impl World for Fake {
    fn step(&mut self, status: Status, text: &str) -> Result<()> {
        self.steps.push((status, text.into()));
        self.write("journal", |_| ())
    }
    fn save(&mut self, state: &ServiceState) -> Result<()> {
        self.write("save", |h| h.state = Some(state.clone()))
    }
    fn must_end(&mut self) {
        self.must_end = true;
    }
    fn link(&mut self, number: u64, _: &Wanted) -> Result<()> {
        self.effect("link", |h| {
            h.links.insert(number);
        })
    }
    fn unlink(&mut self, number: u64, _: u64) -> Result<()> {
        self.effect("unlink", |h| {
            h.links.remove(&number);
        })
    }
    fn sync_store(&mut self) -> Result<()> {
        self.effect("sync", |h| h.on_disk.clone_from(&h.store))
    }
    fn forget(&mut self, state: &ServiceState) -> Result<()> {
        let known: BTreeSet<u64> = state.generations.keys().copied().collect();
        self.effect("forget", |h| h.links.retain(|number| known.contains(number)))
    }
    fn point(&mut self, number: Option<u64>) -> Result<()> {
        self.effect("point", |h| h.profile = number)
    }
    fn write_units(&mut self, number: u64, generation: &Generation) -> Result<()> {
        let names: Vec<InstanceId> =
            generation.instances.iter().map(|p| InstanceId { slot: p.slot, generation: number }).collect();
        self.effect("units", |h| h.units.extend(names))
    }
    fn remove_units(&mut self, units: &[InstanceId]) -> Result<()> {
        self.effect("remove units", |h| {
            units.iter().for_each(|u| {
                h.units.remove(u);
            })
        })
    }
    fn start(&mut self, unit: InstanceId) -> Result<()> {
        assert!(self.dead || self.host.units.contains(&unit), "{unit} is started without its file");
        assert!(self.dead || self.host.gateway, "{unit} is started with nobody to let in");
        self.effect("start", |h| {
            h.data = true;
            h.slots.insert(unit);
            h.pictures.entry(unit).or_default().insert(unit);
            h.running.insert(unit);
        })
    }
    fn stop(&mut self, unit: InstanceId) -> Result<()> {
        if self.has_job(unit.generation) {
            self.stopped_with_jobs.push(unit);
        }
        self.effect("stop", |h| {
            h.running.remove(&unit);
        })
    }
    fn unit(&mut self, unit: InstanceId) -> Result<UnitState> {
        let runs = self.host.running.contains(&unit) && !self.is_dead(unit.generation);
        let active = if runs { "active" } else { "inactive" };
        self.effect("look", |_| UnitState { active: active.into(), ..UnitState::default() })
    }
    fn listens(&mut self, _: InstanceId) -> Vec<String> {
        self.elsewhere.clone()
    }
    fn log_tail(&mut self, _: InstanceId) -> String {
        "Traceback".into()
    }
    fn failed_imports(&mut self, id: InstanceId) -> BTreeMap<String, String> {
        let why = ("edge".to_string(), "ImportError: no oil (edge/brush.py, line 1)".to_string());
        self.lame.contains(&id.generation).then_some(why).into_iter().collect()
    }
    fn others(&mut self, keep: &[InstanceId]) -> Result<Vec<InstanceId>> {
        let all: BTreeSet<InstanceId> = self.host.units.union(&self.host.running).copied().collect();
        let others = self.effect("others", |_| all.into_iter().filter(|id| !keep.contains(id)).collect());
        // No slot goes while it is not known what runs.
        self.host.slots_stay |= others.is_err() && !self.dead;
        others
    }
    fn clear_slots(
        &mut self,
        state: &ServiceState,
        keep: &[InstanceId],
        heir: Option<u64>,
    ) -> Result<Vec<Cleared>> {
        let going = |id: &InstanceId| !keep.contains(id);
        let running = self.host.running.iter().find(|id| going(id));
        assert!(self.dead || running.is_none(), "the slot of running {running:?} is thrown away");
        let heirs = heir.map(|number| state.instances(number)).unwrap_or_default();
        let cleared = self.effect("clear", |h| {
            h.synced = Some((h.slots.clone(), h.pictures.clone()));
            let gone: Vec<InstanceId> = h.slots.iter().copied().filter(going).collect();
            h.slots.retain(|id| keep.contains(id));
            for id in h.pictures.keys().copied().filter(going).collect::<Vec<_>>() {
                let heir = heirs.iter().find(|heir| heir.slot == id.slot).or(heirs.first());
                if let Some(heir) = heir {
                    let moved = h.pictures.remove(&id).unwrap_or_default();
                    h.pictures.entry(*heir).or_default().extend(moved);
                }
            }
            gone.into_iter().map(|id| Cleared { id: id.to_string(), ..Cleared::default() }).collect()
        });
        self.host.slots_stay |= cleared.is_err() && !self.dead;
        cleared
    }
    fn share_pictures(&mut self, state: &ServiceState, from: u64, to: u64) -> Result<()> {
        let (from, to) = (state.instances(from), state.instances(to));
        self.effect("share", |h| {
            for id in from {
                let heir = to.iter().find(|heir| heir.slot == id.slot).or(to.first());
                let shared = h.pictures.get(&id).cloned().unwrap_or_default();
                h.pictures.entry(*heir.unwrap()).or_default().extend(shared);
            }
        })
    }
    fn offers(
        &mut self,
        id: InstanceId,
        at: &Address,
        _: &Wanted,
    ) -> Result<std::result::Result<Offers, String>> {
        let lame = self.generation_of(at).is_some_and(|n| self.lame.contains(&n));
        let all = if lame { vec!["KSampler"] } else { vec!["KSampler", "Edge"] };
        let failed = self.failed_imports(id);
        self.effect("classes", |_| {
            Ok(Offers { classes: all.into_iter().map(String::from).collect(), failed, ..Offers::default() })
        })
    }
    fn smoke(&mut self, at: &Address, _: &Value, _: u64) -> Result<std::result::Result<(), String>> {
        let lame = self.generation_of(at).is_some_and(|n| self.lame.contains(&n));
        self.effect("smoke", |_| if lame { Err("node 3 failed".into()) } else { Ok(()) })
    }
    fn probe(&mut self, at: &Address, _: &Spec) -> Result<std::result::Result<(), String>> {
        let number = self.generation_of(at).unwrap_or(0);
        let has_traffic = self.host.table.targets.iter().any(|t| t.generation == number);
        let ill = self.sick.contains(&number) || has_traffic && self.weak.contains(&number);
        self.effect("probe", |_| if ill { Err("answered 500".into()) } else { Ok(()) })
    }
    fn queue(&mut self, at: &Address) -> Option<u64> {
        let number = self.generation_of(at)?;
        (!self.is_dead(number)).then(|| u64::from(self.has_job(number)))
    }
    fn gateway(&mut self, generation: &Generation) -> Result<()> {
        let wanted = &generation.wanted;
        self.settings.push(wanted.snapshot.clone());
        let owns = self.owns;
        self.effect("gateway", |h| {
            h.gateway = true;
            h.jobs |= owns;
            h.settings = wanted.snapshot.clone();
        })
    }
    fn ports_are_free(&mut self, _: &Wanted, _: &Wanted) -> Result<()> {
        self.effect("ports", |_| ())
    }
    fn remove_gateway(&mut self) -> Result<()> {
        self.effect("remove gateway", |h| {
            h.gateway = false;
            h.settings.clear();
            h.table = Table::default();
        })
    }
    fn has_data(&mut self) -> bool {
        self.host.data
    }
    fn remove_data(&mut self) -> Result<()> {
        assert!(self.dead || self.host.running.is_empty(), "the folder of a running instance");
        let removed = self.effect("remove data", |h| {
            h.data = false;
            h.pictures.clear();
        });
        self.host.data_stays |= removed.is_err() && !self.dead;
        removed
    }
    fn remove_jobs(&mut self) -> Result<()> {
        assert!(self.dead || !self.host.gateway, "the jobs of a running gateway");
        let removed = self.effect("remove jobs", |h| h.jobs = false);
        self.host.jobs_stay |= removed.is_err() && !self.dead;
        removed
    }
    fn remove_rest(&mut self, _: &ServiceState) -> Result<()> {
        assert!(self.dead || self.host.running.is_empty(), "the slots of running instances");
        self.effect("remove rest", |h| {
            h.links.clear();
            h.slots.clear();
        })
    }
    fn set_table(&mut self, table: &Table) -> Result<()> {
        assert!(self.dead || self.host.gateway, "a table for no gateway");
        for target in &table.targets {
            let name: InstanceId = target.id.parse().unwrap();
            assert!(self.dead || self.host.running.contains(&name), "traffic for {name}, which is stopped");
        }
        self.tables.push(table.targets.iter().map(|target| target.id.clone()).collect());
        self.effect("table", |h| h.table = table.clone())
    }
    fn gateway_status(&mut self) -> Result<Reply> {
        if !self.host.gateway {
            return Err(Error::new(Kind::Host, "no gateway"));
        }
        let (clock, open) = (self.clock, self.open.clone());
        let given: BTreeMap<u64, u64> = self
            .host
            .running
            .iter()
            .filter(|_| self.owns)
            .map(|id| (id.generation, u64::from(self.has_job(id.generation))))
            .collect();
        let waiting_jobs = self.owns.then_some(self.waiting);
        self.effect("status", |h| {
            let named =
                h.table.targets.iter().map(|t| (t.id.clone(), t.address.clone(), t.generation, false));
            let open = open.iter().filter(|(_, until)| clock < **until).map(|(n, _)| *n);
            let busy = given.iter().filter(|(_, jobs)| **jobs > 0).map(|(n, _)| *n);
            let open: BTreeSet<u64> = open.collect();
            let drained: BTreeSet<u64> = open.iter().copied().chain(busy).collect();
            let drained = drained.into_iter().filter(|n| !h.table.targets.iter().any(|t| t.generation == *n));
            let drained = drained.map(|n| (format!("s0-g{n}"), "127.0.0.1:1".parse().unwrap(), n, true));
            let targets = named.chain(drained).map(|(id, address, generation, draining)| TargetStatus {
                id,
                address,
                generation,
                draining,
                healthy: true,
                reason: None,
                requests: u64::from(draining && open.contains(&generation)),
                websockets: 0,
                jobs: given.get(&generation).copied().unwrap_or(0),
                served: 0,
                failed: 0,
            });
            Reply { targets: targets.collect(), waiting_jobs, ..Reply::default() }
        })
    }
    fn cut(&mut self, id: &str) -> Result<()> {
        self.cut.push(id.into());
        if self.owns
            && let Ok(id) = id.parse::<InstanceId>()
            && self.has_job(id.generation)
        {
            // Interrupted, and back among those that wait.
            self.jobs.remove(&id.generation);
            self.waiting += 1;
        }
        self.effect("cut", |_| ())
    }
    fn now(&mut self) -> u64 {
        self.clock
    }
    fn wait(&mut self, milliseconds: u64) -> Result<()> {
        self.clock += milliseconds;
        if self.cancelled_at.is_some_and(|at| self.clock >= at) && !self.must_end {
            return Err(Error::new(Kind::Interrupted, "cancelled by a@b"));
        }
        self.effect("wait", |_| ())
    }
}
