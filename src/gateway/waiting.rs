//! Requests that wait while no instance is ready, as in a deploy's last moments or a crashed instance's
//! restart.
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::router::{Claim, Preference, Router};
use crate::protocol::control::Limits;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

#[derive(Default)]
pub struct Waiting {
    waiting: AtomicUsize,
}

/// One request's place among those that wait.
struct Place<'a>(&'a Waiting);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Waiting {
    pub fn count(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn enter(&self, most: usize) -> Option<Place<'_>> {
        let room = |n: usize| (n < most).then_some(n + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).ok()?;
        Some(Place(self))
    }

    /// Waits for an instance. `until` is set at a request's first wait and holds for all its waits.
    pub async fn claim(
        &self,
        router: &Router,
        preference: &Preference,
        limits: &Limits,
        until: &mut Option<Instant>,
    ) -> Result<Claim, Refusal> {
        let Some(_place) = self.enter(limits.held) else {
            let message = format!("{} requests wait for an instance already", limits.held);
            return Err(Refusal::new(Fault::TooManyWaiting, message));
        };
        let too_late = || {
            let message =
                format!("no instance was ready within {} ms: {}", limits.hold_ms, router.why_none());
            Refusal::new(Fault::NoInstance, message)
        };
        if until.is_some_and(|until| until <= Instant::now()) {
            // It found instances meanwhile, but they refused it.
            return Err(too_late());
        }
        let until = *until.get_or_insert_with(|| Instant::now() + Duration::from_millis(limits.hold_ms));
        loop {
            // Listens before it asks, so that nothing is missed between the two.
            let mut changed = pin!(router.changed.notified());
            changed.as_mut().enable();
            if let Some(claim) = router.claim(preference) {
                return Ok(claim);
            }
            if timeout_at(until, changed).await.is_err() {
                return Err(too_late());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::instance::FirstHealth;
    use crate::protocol::control::Target;
    use std::sync::Arc;

    fn target() -> Target {
        let address = "127.0.0.1:1".parse().unwrap();
        Target { id: "s0-g1".into(), address, slot: 0, generation: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_until_an_instance_is_named_or_its_time_is_over() {
        let router = Arc::new(Router::default());
        let place = Arc::new(Waiting::default());
        let limits = Limits { hold_ms: 1_000, held: 1, ..Limits::default() };
        let waiting = tokio::spawn({
            let (router, place, limits) = (router.clone(), place.clone(), limits.clone());
            async move { place.claim(&router, &Preference::default(), &limits, &mut None).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        assert_eq!(place.count(), 1);
        let refused = place.claim(&router, &Preference::default(), &limits, &mut None).await.err().unwrap();
        assert_eq!(refused.fault, Fault::TooManyWaiting);
        router.set(&[target()], FirstHealth::Well);
        waiting.await.unwrap().unwrap();
        assert_eq!(place.count(), 0);

        // The limit holds for all its waits together.
        let mut until = Some(Instant::now());
        let refused = place.claim(&router, &Preference::default(), &limits, &mut until).await.err().unwrap();
        assert_eq!(refused.fault, Fault::NoInstance);

        router.set(&[], FirstHealth::Well);
        let before = Instant::now();
        let refused = place.claim(&router, &Preference::default(), &limits, &mut None).await.err().unwrap();
        assert_eq!(refused.fault, Fault::NoInstance);
        assert_eq!(refused.message, "no instance was ready within 1000 ms: no instance is in the table");
        assert_eq!(before.elapsed(), Duration::from_millis(1_000));
        assert_eq!(place.count(), 0);
    }
}
