//! Requests that wait while no instance is ready, as in a deploy's last moments or a crashed instance's
//! restart.
use crate::gateway::key::Key;
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::router::{Claim, Preference, Router};
use crate::gateway::share::{Full, Share, Shares, Source, Who};
use crate::protocol::control::Limits;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

#[derive(Default)]
pub struct Waiting {
    clients: Arc<Shares<Source>>,
    keys: Arc<Shares<Key>>,
}

/// One request's place among those that wait.
struct Place {
    _client: Share<Source>,
    _key: Option<Share<Key>>,
}

impl Waiting {
    pub fn count(&self) -> usize {
        self.clients.count()
    }

    /// One client, and one key where there are several, has a part of the places.
    fn enter(&self, who: &Who, limits: &Limits) -> Result<Place, Refusal> {
        let refused = |message: String| Refusal::new(Fault::TooManyWaiting, message);
        let (own, of_key) = (limits.held_of_client(), limits.held_of_key(who.keys));
        let client = self.clients.take(who.source, own, limits.held).map_err(|full| {
            refused(match full {
                Full::Own if own < limits.held => format!(
                    "{own} requests of {} wait for an instance already, which is its share \
                     ([service.gateway] waiting-per-client)",
                    who.source
                ),
                Full::All | Full::Own => format!("{} requests wait for an instance already", limits.held),
            })
        })?;
        let key = who.key.map(|key| self.keys.take(key, of_key, usize::MAX)).transpose().map_err(|_| {
            refused(format!(
                "{of_key} requests with this API key wait for an instance already, which is its share \
                 ([service.gateway] waiting-per-key)"
            ))
        })?;
        Ok(Place { _client: client, _key: key })
    }

    /// Waits for an instance. `until` is set at a request's first wait and holds for all its waits.
    pub async fn claim(
        &self,
        router: &Router,
        preference: &Preference,
        limits: &Limits,
        who: &Who,
        until: &mut Option<Instant>,
    ) -> Result<Claim, Refusal> {
        let _place = self.enter(who, limits)?;
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

    fn target() -> Target {
        let address = "127.0.0.1:1".parse().unwrap();
        Target { id: "s0-g1".into(), address, slot: 0, generation: 1 }
    }

    fn who(n: u32) -> Who {
        Who { source: Source::of(std::net::Ipv4Addr::from_bits(n).into()), key: None, keys: 0 }
    }

    #[test]
    fn one_client_or_key_does_not_fill_the_hold() {
        let waiting = Waiting::default();
        let limits = Limits::default();
        let enter = |who: &Who| waiting.enter(who, &limits).map_err(|refusal| refusal.message);
        let mut places: Vec<Place> = (0..64).map(|_| enter(&who(1)).unwrap()).collect();
        let why = enter(&who(1)).err().unwrap();
        assert!(
            why.starts_with("64 requests of 0.0.0.1 wait") && why.contains("waiting-per-client"),
            "{why}"
        );
        let of_key = |n, key| Who { key: Some((key, key)), keys: 2, ..who(n) };
        places.extend((0..128).map(|n| enter(&of_key(2 + n / 64, 1)).unwrap()));
        assert!(enter(&of_key(9, 1)).err().unwrap().contains("waiting-per-key"));
        places.extend((0..64).map(|_| enter(&of_key(9, 2)).unwrap()));
        assert_eq!(enter(&who(10)).err().unwrap(), "256 requests wait for an instance already");
        drop(places);
        assert_eq!((waiting.count(), waiting.keys.count()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_until_an_instance_is_named_or_its_time_is_over() {
        let router = Arc::new(Router::default());
        let place = Arc::new(Waiting::default());
        let limits = Limits { hold_ms: 1_000, held: 1, ..Limits::default() };
        let waiting = tokio::spawn({
            let (router, place, limits) = (router.clone(), place.clone(), limits.clone());
            async move {
                place.claim(&router, &Preference::default(), &limits, &who(1), &mut None).await.map(|_| ())
            }
        });
        tokio::task::yield_now().await;
        assert_eq!(place.count(), 1);
        let refused =
            place.claim(&router, &Preference::default(), &limits, &who(1), &mut None).await.err().unwrap();
        assert_eq!(refused.fault, Fault::TooManyWaiting);
        router.set(&[target()], FirstHealth::Well);
        waiting.await.unwrap().unwrap();
        assert_eq!(place.count(), 0);

        // The limit holds for all its waits together.
        let mut until = Some(Instant::now());
        let refused =
            place.claim(&router, &Preference::default(), &limits, &who(1), &mut until).await.err().unwrap();
        assert_eq!(refused.fault, Fault::NoInstance);

        router.set(&[], FirstHealth::Well);
        let before = Instant::now();
        let refused =
            place.claim(&router, &Preference::default(), &limits, &who(1), &mut None).await.err().unwrap();
        assert_eq!(refused.fault, Fault::NoInstance);
        assert_eq!(refused.message, "no instance was ready within 1000 ms: no instance is in the table");
        assert_eq!(before.elapsed(), Duration::from_millis(1_000));
        assert_eq!(place.count(), 0);
    }
}
