//! What is remembered and shown of the number of instances.
use crate::protocol::control::ScalingView;
use crate::protocol::scaling::Decision;
use crate::scaling::estimate::Estimate;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;

/// How many decisions are told; all of them are in the log.
const DECISIONS: usize = 20;

#[derive(Default)]
pub struct Scaling {
    inner: Mutex<Inner>,
    /// Instances that were started and ended since this process began, and questions that came to nothing.
    pub ups: AtomicU64,
    pub downs: AtomicU64,
    pub failures: AtomicU64,
}

#[derive(Default)]
struct Inner {
    view: Option<ScalingView>,
    decisions: VecDeque<Decision>,
    estimate: Estimate,
    /// Requests that each instance had answered when it was last looked at.
    served: HashMap<String, u64>,
    /// Since when an instance is not healthy, in milliseconds since 1970.
    unwell: HashMap<String, u64>,
}

impl Scaling {
    pub fn view(&self) -> Option<ScalingView> {
        self.inner.lock().view.clone()
    }

    /// None: the number of instances does not change.
    pub fn set_view(&self, view: Option<ScalingView>) {
        let mut inner = self.inner.lock();
        let decisions = inner.decisions.iter().cloned().collect();
        inner.view = view.map(|view| ScalingView { decisions, ..view });
    }

    pub fn decided(&self, decision: Decision) {
        let mut inner = self.inner.lock();
        inner.decisions.push_front(decision);
        inner.decisions.truncate(DECISIONS);
    }

    /// A job has ended that had begun; milliseconds since 1970.
    pub fn job_ended(&self, accepted: u64, started: u64, ended: u64) {
        self.inner.lock().estimate.ended(accepted, started, ended);
    }

    pub fn job_ms(&self) -> Option<u64> {
        self.inner.lock().estimate.job_ms()
    }

    pub fn waits(&self, now: u64) -> Option<(u64, u64)> {
        self.inner.lock().estimate.waits(now)
    }

    /// Whether any of these has answered a request since they were last looked at. One that is new had its own before.
    pub fn has_answered(&self, served: HashMap<String, u64>) -> bool {
        let mut inner = self.inner.lock();
        let before = std::mem::replace(&mut inner.served, served);
        inner.served.iter().any(|(id, count)| before.get(id).is_some_and(|before| count > before))
    }

    /// For how long each of these is not healthy, in milliseconds. Whoever is not among them is forgotten.
    pub fn unwell_for(&self, ids: &[&str], now: u64) -> HashMap<String, u64> {
        let mut inner = self.inner.lock();
        inner.unwell.retain(|id, _| ids.contains(&id.as_str()));
        let since = |id: &&str| {
            (id.to_string(), now.saturating_sub(*inner.unwell.entry(id.to_string()).or_insert(now)))
        };
        ids.iter().map(since).collect()
    }

    /// Nothing runs, and whoever comes has an instance started.
    pub fn starts_on_demand(&self) -> bool {
        let inner = self.inner.lock();
        let paused = |view: &ScalingView| view.order.as_ref().is_some_and(|order| order.paused);
        inner.view.as_ref().is_some_and(|view| view.minimum == 0 && view.maximum > 0 && !paused(view))
    }

    /// What a job waits for while no instance is ready.
    pub fn waiting_for(&self) -> Option<String> {
        let inner = self.inner.lock();
        let view = inner.view.as_ref()?;
        if let Some(order) = view.order.as_ref().filter(|order| order.paused && view.actual == 0) {
            return Some(format!("an instance, and none is started: paused by {}", order.by));
        }
        Some(if view.actual > 0 { "an instance that starts" } else { "an instance to be started" }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::scaling::Order;

    fn view(actual: u32, paused: bool) -> ScalingView {
        let order = paused.then(|| Order { paused, by: "a@b".into(), ..Order::default() });
        ScalingView {
            minimum: 0,
            maximum: 2,
            wanted: 0,
            actual,
            ready: 0,
            why: String::new(),
            order,
            wait_p50_ms: None,
            wait_p95_ms: None,
            decisions: vec![],
        }
    }

    #[test]
    fn a_job_hears_what_it_waits_for() {
        let scaling = Scaling::default();
        assert_eq!(scaling.waiting_for(), None);
        scaling.set_view(Some(view(0, false)));
        assert_eq!(scaling.waiting_for().unwrap(), "an instance to be started");
        assert!(scaling.starts_on_demand());
        scaling.set_view(Some(view(1, false)));
        assert_eq!(scaling.waiting_for().unwrap(), "an instance that starts");
        scaling.set_view(Some(view(0, true)));
        assert_eq!(scaling.waiting_for().unwrap(), "an instance, and none is started: paused by a@b");
        assert!(!scaling.starts_on_demand());
    }

    #[test]
    fn a_new_instance_has_answered_nothing_yet() {
        let scaling = Scaling::default();
        let served = |counts: &[(&str, u64)]| counts.iter().map(|(id, n)| (id.to_string(), *n)).collect();
        assert!(!scaling.has_answered(served(&[("s0-g1", 5)])));
        assert!(!scaling.has_answered(served(&[("s0-g1", 5), ("s1-g1", 9)])));
        assert!(scaling.has_answered(served(&[("s0-g1", 6), ("s1-g1", 9)])));
        // One that has left takes nothing away.
        assert!(!scaling.has_answered(served(&[("s1-g1", 9)])));
    }

    #[test]
    fn it_is_known_for_how_long_one_is_unwell() {
        let scaling = Scaling::default();
        assert_eq!(scaling.unwell_for(&["a"], 1_000)["a"], 0);
        assert_eq!(scaling.unwell_for(&["a", "b"], 3_000), [("a".into(), 2_000), ("b".into(), 0)].into());
        assert_eq!(scaling.unwell_for(&["b"], 4_000)["b"], 1_000);
        assert_eq!(scaling.unwell_for(&["a"], 5_000)["a"], 0);
    }
}
