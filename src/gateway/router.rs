//! Which instance a request goes to. A request picks its instance and counts itself on it under the read
//! lock; `set` swaps under the write lock. So when `set` has returned, every request that is on its way to
//! an instance that left the table is counted on it, and none comes to it later (kamal-proxy's rule).
use crate::gateway::instance::{FirstHealth, Instance};
use crate::protocol::control::{GATEWAY_VERSION, Table, Target, TargetStatus};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// How many instances that left the table with nothing open are remembered, for results that only they have.
const REMEMBERED: usize = 32;

#[derive(Default)]
pub struct Router {
    routes: RwLock<Routes>,
    turn: AtomicUsize,
    /// An instance was named, or became healthy: whoever waits may ask again.
    pub changed: Notify,
}

#[derive(Default)]
struct Routes {
    current: Vec<Arc<Instance>>,
    /// Out of the table, oldest first.
    draining: Vec<Arc<Instance>>,
}

/// Which instance a request prefers.
#[derive(Default, Clone)]
pub struct Preference {
    /// The one that has its job or its results, even while it drains.
    pub holder: Option<Arc<str>>,
    /// The one with its client's WebSocket, if it is in the table and healthy.
    pub instance: Option<Arc<str>>,
    /// A browser's slot.
    pub slot: Option<u32>,
    /// It becomes a WebSocket, so those that are open count as load too.
    pub upgrade: bool,
    /// Those that could not be reached.
    pub not: Vec<Arc<Instance>>,
}

impl Preference {
    fn allows(&self, instance: &Arc<Instance>) -> bool {
        !instance.is_closed() && !self.not.iter().any(|n| Arc::ptr_eq(n, instance))
    }
}

/// One request's place on an instance, until it is dropped.
pub struct Claim {
    pub instance: Arc<Instance>,
    what: Counted,
}

#[derive(PartialEq)]
enum Counted {
    #[cfg(feature = "fault-late-claim")]
    Nothing,
    Request,
    Websocket,
}

impl Claim {
    #[cfg(not(feature = "fault-late-claim"))]
    fn new(instance: &Arc<Instance>) -> Claim {
        instance.begin_request();
        Claim { instance: instance.clone(), what: Counted::Request }
    }

    #[cfg(feature = "fault-late-claim")]
    fn new(instance: &Arc<Instance>) -> Claim {
        Claim { instance: instance.clone(), what: Counted::Nothing }
    }

    /// The fault of the proof: counted only once the head of the answer is there.
    #[cfg(feature = "fault-late-claim")]
    pub fn answered(&mut self) {
        if self.what == Counted::Nothing {
            self.instance.begin_request();
            self.what = Counted::Request;
        }
    }

    pub fn becomes_websocket(&mut self) {
        if self.what == Counted::Request {
            self.instance.request_becomes_websocket();
            self.what = Counted::Websocket;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        match self.what {
            #[cfg(feature = "fault-late-claim")]
            Counted::Nothing => {}
            Counted::Request => self.instance.end_request(),
            Counted::Websocket => self.instance.end_websocket(),
        }
    }
}

/// What a table must be to be accepted.
pub fn check_table(table: &Table) -> Result<(), String> {
    if table.version != GATEWAY_VERSION {
        return Err(format!(
            "the table is of version {}, this gateway knows {GATEWAY_VERSION}",
            table.version
        ));
    }
    for (at, target) in table.targets.iter().enumerate() {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if target.id.is_empty() || target.id.len() > 64 || !target.id.chars().all(plain) {
            return Err(format!("{:?} is not an id of an instance", target.id));
        }
        if table.targets[..at].iter().any(|t| t.id == target.id) {
            return Err(format!("the table names {} twice", target.id));
        }
    }
    Ok(())
}

impl Router {
    fn read(&self) -> RwLockReadGuard<'_, Routes> {
        self.routes.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Routes> {
        self.routes.write()
    }

    /// The new table; gives back the instances that were not known before.
    pub fn set(&self, targets: &[Target], health: FirstHealth) -> Vec<Arc<Instance>> {
        self.set_with(targets, health, &[])
    }

    /// The same; of these ids nobody has looked at the process, which is a new one where the table did not name it.
    pub fn set_with(
        &self,
        targets: &[Target],
        health: FirstHealth,
        starting: &[String],
    ) -> Vec<Arc<Instance>> {
        let mut fresh = Vec::new();
        {
            let mut routes = self.write();
            let mut old = std::mem::take(&mut routes.current);
            let mut draining = std::mem::take(&mut routes.draining);
            for target in targets {
                let same = |i: &Arc<Instance>| i.id() == target.id && i.target.address == target.address;
                let instance = if let Some(at) = old.iter().position(same) {
                    old.remove(at)
                } else if let Some(at) =
                    draining.iter().position(same).filter(|_| !starting.contains(&target.id))
                {
                    let back = draining.remove(at);
                    back.reopen();
                    back
                } else {
                    let seen = if starting.contains(&target.id) { FirstHealth::Unknown } else { health };
                    let instance = Arc::new(Instance::new(target.clone(), seen));
                    fresh.push(instance.clone());
                    instance
                };
                routes.current.push(instance);
            }
            draining.append(&mut old);
            for left in &draining {
                // Another instance has its address now: what this one had is gone.
                if targets.iter().any(|t| t.address == left.target.address) {
                    left.close();
                }
            }
            routes.draining = draining;
            tidy(&mut routes);
        }
        self.changed.notify_waiters();
        fresh
    }

    /// Picks an instance and counts a request on it.
    pub fn claim(&self, preference: &Preference) -> Option<Claim> {
        let routes = self.read();
        if let Some(id) = &preference.holder
            && let Some(holder) = routes
                .current
                .iter()
                .chain(&routes.draining)
                .find(|i| i.id() == &**id && preference.allows(i))
        {
            return Some(Claim::new(holder));
        }
        let ready = |i: &&Arc<Instance>| i.is_healthy() && preference.allows(i);
        let named = |i: &&Arc<Instance>| preference.instance.as_deref() == Some(i.id());
        let seated = |i: &&Arc<Instance>| preference.slot == Some(i.target.slot);
        if (preference.instance.is_some() || preference.slot.is_some())
            && let Some(wanted) = (routes.current.iter().filter(ready).find(named))
                .or_else(|| routes.current.iter().filter(ready).find(seated))
        {
            return Some(Claim::new(wanted));
        }
        // The first of the least loaded, from another start each time, so that equals take turns.
        let count = routes.current.len();
        let start = if count > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % count } else { 0 };
        let mut best: Option<(u64, &Arc<Instance>)> = None;
        for at in 0..count {
            let instance = &routes.current[(start + at) % count];
            if !ready(&instance) {
                continue;
            }
            let (requests, websockets) = instance.open();
            let load = if preference.upgrade { requests + websockets } else { requests };
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, instance));
            }
        }
        best.map(|(_, instance)| Claim::new(instance))
    }

    /// One that was not asked yet: those of the table first, then those that drain.
    pub fn claim_other(&self, asked: &[Arc<Instance>]) -> Option<Claim> {
        let routes = self.read();
        let open = |i: &&Arc<Instance>| !i.is_closed() && !asked.iter().any(|a| Arc::ptr_eq(a, i));
        let current = routes.current.iter().filter(open).find(|i| i.is_healthy());
        current.or_else(|| routes.draining.iter().rev().find(open)).map(Claim::new)
    }

    /// How many instances could be asked at all.
    pub fn known(&self) -> usize {
        let routes = self.read();
        routes.current.len() + routes.draining.iter().filter(|i| !i.is_closed()).count()
    }

    /// How many get new requests.
    pub fn ready(&self) -> usize {
        self.read().current.iter().filter(|i| i.is_healthy()).count()
    }

    /// Why nothing is ready, for a person.
    pub fn why_none(&self) -> String {
        let routes = self.read();
        if routes.current.is_empty() {
            return "no instance is in the table".into();
        }
        let reasons: Vec<String> = (routes.current.iter())
            .filter_map(|i| i.status(false).reason.map(|reason| format!("{}: {reason}", i.id())))
            .collect();
        reasons.join("; ")
    }

    /// Ends what an instance still has. An unknown one has nothing.
    pub fn cut(&self, id: &str) -> Result<Vec<Arc<Instance>>, String> {
        let routes = self.write();
        if routes.current.iter().any(|i| i.id() == id) {
            return Err(format!("{id} is in the table; only an instance that left it can be cut"));
        }
        let gone: Vec<Arc<Instance>> = routes.draining.iter().filter(|i| i.id() == id).cloned().collect();
        gone.iter().for_each(|instance| instance.cut());
        Ok(gone)
    }

    /// Whether the table names it.
    pub fn is_named(&self, instance: &Arc<Instance>) -> bool {
        self.read().current.iter().any(|i| Arc::ptr_eq(i, instance))
    }

    /// Whether anything can still go to it.
    pub fn knows(&self, instance: &Arc<Instance>) -> bool {
        let routes = self.read();
        routes.current.iter().chain(&routes.draining).any(|i| Arc::ptr_eq(i, instance))
    }

    pub fn tidy(&self) {
        let mut routes = self.write();
        tidy(&mut routes);
        routes.current.iter().chain(&routes.draining).for_each(|i| i.drop_old_links());
    }

    /// Named instances and those with something open.
    pub fn status(&self) -> Vec<TargetStatus> {
        let routes = self.read();
        let draining = routes.draining.iter().map(|i| i.status(true));
        let draining = draining.filter(|s| s.requests + s.websockets > 0);
        routes.current.iter().map(|i| i.status(false)).chain(draining).collect()
    }

    /// All of them, for the metrics and for the next process; the flag says whether one is draining.
    pub fn all(&self) -> Vec<(Arc<Instance>, bool)> {
        let routes = self.read();
        let current = routes.current.iter().map(|i| (i.clone(), false));
        let draining = routes.draining.iter().filter(|i| !i.is_closed()).map(|i| (i.clone(), true));
        current.chain(draining).collect()
    }

    /// An instance that was draining in another process of this gateway.
    pub fn remember(&self, target: &Target) -> Option<Arc<Instance>> {
        let mut routes = self.write();
        if routes.current.iter().chain(&routes.draining).any(|i| i.id() == target.id) {
            return None;
        }
        let instance = Arc::new(Instance::new(target.clone(), FirstHealth::Well));
        routes.draining.push(instance.clone());
        Some(instance)
    }
}

fn tidy(routes: &mut Routes) {
    routes.draining.retain(|i| !i.is_closed() || i.open() != (0, 0));
    let mut spare = routes.draining.len().saturating_sub(REMEMBERED);
    routes.draining.retain(|i| {
        let go = spare > 0 && i.open() == (0, 0);
        spare -= usize::from(go);
        !go
    });
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
