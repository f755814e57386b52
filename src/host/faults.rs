//! Every effect of an activation as a place of `sys::fault`, for the tests alone: a `World` around the real one, which the
//! feature `fault-points` compiles in.
use crate::host::state::{Generation, ServiceState};
use crate::host::world::{Cleared, Offers, Status, UnitState, World};
use crate::protocol::control::{Address, Reply, Table};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::spec::{Spec, Wanted};
use crate::sys::error::Result;
use crate::sys::fault;
use serde_json::Value;
use std::collections::BTreeMap;

pub struct Faulty<W> {
    inner: W,
    service: String,
}

impl<W: World> Faulty<W> {
    pub fn new(inner: W, service: &str) -> Faulty<W> {
        Faulty { inner, service: service.into() }
    }

    fn effect<T>(&mut self, name: &'static str, act: impl FnOnce(&mut W) -> Result<T>) -> Result<T> {
        fault::around(&self.service, name, || act(&mut self.inner))
    }
}

type Looked<T> = Result<std::result::Result<T, String>>;

impl<W: World> World for Faulty<W> {
    fn step(&mut self, status: Status, text: &str) -> Result<()> {
        self.effect("journal", |w| w.step(status, text))
    }
    fn save(&mut self, state: &ServiceState) -> Result<()> {
        self.effect("save", |w| w.save(state))
    }
    fn must_end(&mut self) {
        self.inner.must_end();
    }
    fn link(&mut self, number: u64, wanted: &Wanted) -> Result<()> {
        self.effect("link", |w| w.link(number, wanted))
    }
    fn unlink(&mut self, number: u64, attempt: u64) -> Result<()> {
        self.effect("unlink", |w| w.unlink(number, attempt))
    }
    fn forget(&mut self, state: &ServiceState) -> Result<()> {
        self.effect("forget", |w| w.forget(state))
    }
    fn sync_store(&mut self) -> Result<()> {
        self.effect("sync", |w| w.sync_store())
    }
    fn point(&mut self, number: Option<u64>) -> Result<()> {
        self.effect("point", |w| w.point(number))
    }
    fn write_units(&mut self, number: u64, generation: &Generation) -> Result<()> {
        self.effect("units", |w| w.write_units(number, generation))
    }
    fn remove_units(&mut self, instances: &[InstanceId]) -> Result<()> {
        self.effect("remove-units", |w| w.remove_units(instances))
    }
    fn start(&mut self, id: InstanceId) -> Result<()> {
        self.effect("start", |w| w.start(id))
    }
    fn stop(&mut self, id: InstanceId) -> Result<()> {
        self.effect("stop", |w| w.stop(id))
    }
    fn unit(&mut self, id: InstanceId) -> Result<UnitState> {
        self.effect("look", |w| w.unit(id))
    }
    fn listens(&mut self, id: InstanceId) -> Vec<String> {
        self.inner.listens(id)
    }
    fn log_tail(&mut self, id: InstanceId) -> String {
        self.inner.log_tail(id)
    }
    fn failed_imports(&mut self, id: InstanceId) -> BTreeMap<String, String> {
        self.inner.failed_imports(id)
    }
    fn others(&mut self, keep: &[InstanceId]) -> Result<Vec<InstanceId>> {
        self.effect("others", |w| w.others(keep))
    }
    fn clear_slots(
        &mut self,
        state: &ServiceState,
        keep: &[InstanceId],
        heir: Option<u64>,
    ) -> Result<Vec<Cleared>> {
        self.effect("clear", |w| w.clear_slots(state, keep, heir))
    }
    fn share_pictures(&mut self, state: &ServiceState, from: u64, to: u64) -> Result<()> {
        self.effect("share", |w| w.share_pictures(state, from, to))
    }
    fn probe(&mut self, at: &Address, spec: &Spec) -> Looked<()> {
        self.effect("probe", |w| w.probe(at, spec))
    }
    fn offers(&mut self, id: InstanceId, at: &Address, wanted: &Wanted) -> Looked<Offers> {
        self.effect("classes", |w| w.offers(id, at, wanted))
    }
    fn smoke(&mut self, at: &Address, workflow: &Value, limit_ms: u64) -> Looked<()> {
        self.effect("smoke", |w| w.smoke(at, workflow, limit_ms))
    }
    fn queue(&mut self, at: &Address) -> Option<u64> {
        self.inner.queue(at)
    }
    fn gateway(&mut self, generation: &Generation) -> Result<()> {
        self.effect("gateway", |w| w.gateway(generation))
    }
    fn ports_are_free(&mut self, wanted: &Wanted, serving: &Wanted) -> Result<()> {
        self.effect("ports", |w| w.ports_are_free(wanted, serving))
    }
    fn remove_gateway(&mut self) -> Result<()> {
        self.effect("remove-gateway", |w| w.remove_gateway())
    }
    fn has_data(&mut self) -> bool {
        self.inner.has_data()
    }
    fn remove_data(&mut self) -> Result<()> {
        self.effect("remove-data", |w| w.remove_data())
    }
    fn remove_jobs(&mut self) -> Result<()> {
        self.effect("remove-jobs", |w| w.remove_jobs())
    }
    fn remove_rest(&mut self, state: &ServiceState) -> Result<()> {
        self.effect("remove-rest", |w| w.remove_rest(state))
    }
    fn set_table(&mut self, table: &Table) -> Result<()> {
        self.effect("table", |w| w.set_table(table))
    }
    fn gateway_status(&mut self) -> Result<Reply> {
        self.effect("status", |w| w.gateway_status())
    }
    fn cut(&mut self, id: &str) -> Result<()> {
        self.effect("cut", |w| w.cut(id))
    }
    fn now(&mut self) -> u64 {
        self.inner.now()
    }
    fn wait(&mut self, milliseconds: u64) -> Result<()> {
        self.effect("wait", |w| w.wait(milliseconds))
    }
}
