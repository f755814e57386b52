//! The figures that a decision is made from.
use crate::gateway::jobs::engine::Engine;
use crate::gateway::shared::Gateway;
use crate::protocol::scaling::{Figures, InstanceFigure, Life};
use crate::sys::clock::now_ms;

/// `start_ms`: how long an instance may take until it is healthy.
pub fn collect(gateway: &Gateway, engine: &Engine, start_ms: u64) -> Figures {
    let now = now_ms();
    let all = gateway.router.all();
    let named: Vec<_> = all.iter().filter(|(_, draining)| !draining).map(|(instance, _)| instance).collect();
    let unwell: Vec<&str> = named.iter().filter(|i| !i.is_healthy()).map(|i| i.id()).collect();
    let unwell = gateway.scaling.unwell_for(&unwell, now);
    let life = |id: &str| match unwell.get(id) {
        None => Life::Ready,
        Some(ms) if *ms > start_ms => Life::Failing,
        Some(_) => Life::Starting,
    };
    let instances = named.iter().map(|instance| InstanceFigure {
        slot: instance.target.slot,
        life: life(instance.id()),
        busy: engine.jobs_of(instance.id()) > 0 || instance.open() != (0, 0),
    });
    let instances = instances.collect();
    let waiting = engine.waiting() as u64;
    let served = named.iter().map(|i| (i.id().to_string(), i.status(false).served)).collect();
    Figures {
        now,
        waiting,
        given: (engine.remaining() as u64).saturating_sub(waiting),
        oldest_ms: engine.oldest_waiting().map_or(0, |accepted| now.saturating_sub(accepted)),
        held: gateway.waiting.count() as u64,
        requests: gateway.scaling.has_answered(served),
        job_ms: gateway.scaling.job_ms(),
        instances,
    }
}
