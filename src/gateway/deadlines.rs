//! The one task that keeps the limits of time. Every connection says which phase it is in and since when; a
//! few times a second this task checks them all. So a request sets no timer, and a limit is kept to within
//! one tick.
use crate::gateway::access_log::Level;
use crate::gateway::client::Phase;
use crate::gateway::clock::{Millis, tick};
use crate::gateway::shared::Gateway;
use crate::protocol::control::Limits;
use std::sync::Arc;
use std::time::Duration;

/// How long a closing connection is still read from.
pub const LINGER: Millis = 5_000;

/// A connection without a request is put to rest after this time.
const REST: Millis = 1_000;

/// A connection of the reserve has one short request, which is there soon.
const RESERVE: Millis = 2_000;

/// How long a connection may stay in a phase.
fn limit(phase: Phase, limits: &Limits) -> Option<Millis> {
    match phase {
        Phase::Idle | Phase::Body | Phase::Stream => Some(limits.idle_ms),
        Phase::Head => Some(limits.head_ms),
        Phase::Answer => Some(limits.response_ms),
        Phase::Linger => Some(LINGER),
        // These have timers of their own.
        Phase::Wait => None,
    }
}

/// Between two ticks: an eighth of the smallest limit, but neither busy nor slow.
fn pause(limits: &Limits) -> Duration {
    let least = limits.idle_ms.min(limits.head_ms).min(limits.response_ms);
    Duration::from_millis((least / 8).clamp(20, 250))
}

pub async fn run(gateway: Arc<Gateway>) {
    let mut tidied = tick();
    loop {
        let active = gateway.active();
        let pause = pause(&active.settings.limits);
        tokio::time::sleep(pause).await;
        let now = tick();
        // A phase that began since the last tick bears that tick's time. This allows for it, so that nobody's
        // time is up too early.
        let ago = now.saturating_sub(pause.as_millis() as Millis);
        gateway.connections.each(|client| {
            let phase = client.phase();
            let most = limit(phase, &active.settings.limits);
            let short = client.is_reserve() && matches!(phase, Phase::Idle | Phase::Head);
            let most = if short { most.map(|most| most.min(RESERVE)) } else { most };
            if most.is_some_and(|most| ago > client.since() + most) {
                client.expire(phase);
            } else if phase == Phase::Idle && ago > client.since() + REST {
                client.rest();
            }
        });
        if now > tidied + 1_000 {
            tidied = now;
            gateway.router.tidy();
            gateway.hub.tick(now);
            for line in gateway.throttle.tidy(now) {
                gateway.log.note(Level::Warning, &line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_limit() {
        let limits = Limits { head_ms: 1, response_ms: 2, idle_ms: 3, ..Limits::default() };
        let shown = |phase| limit(phase, &limits);
        assert_eq!((shown(Phase::Head), shown(Phase::Answer)), (Some(1), Some(2)));
        assert_eq!(
            (shown(Phase::Idle), shown(Phase::Body), shown(Phase::Stream)),
            (Some(3), Some(3), Some(3))
        );
        assert_eq!(shown(Phase::Wait), None);
        assert_eq!(pause(&limits), Duration::from_millis(20));
        assert_eq!(pause(&Limits::default()), Duration::from_millis(250));
    }
}
