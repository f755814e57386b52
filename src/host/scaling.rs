//! What an operator says of the number of instances (`stillframe scale`), and what a start of the host makes of it.
use crate::host::gateway_units::Gateway;
use crate::host::journal::Journal;
use crate::host::layout::Service;
use crate::host::lease;
use crate::host::scaling_order::order;
use crate::host::state::{Place, ServiceState};
use crate::protocol::control::{Request, ScalingView};
use crate::protocol::messages::{Attempt, AttemptKind, Outcome, Status};
use crate::protocol::scaling::{Change, Order, Policy};
use crate::scaling::schedule;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;

/// Whether an order can be carried out.
fn check(policy: &Policy, slots: u32, order: &Order) -> Result<()> {
    let wrong = |text: String| Err(Error::new(Kind::Input, text));
    let (minimum, maximum) = (order.minimum, order.maximum);
    if let Some(count) = minimum.max(maximum).filter(|count| *count > slots) {
        return wrong(format!("{count} instances are asked for, and there are {slots} slots"));
    }
    if maximum == Some(0) {
        return wrong(
            "a maximum of 0 lets nothing run: stillframe scale --minimum 0 --pause keeps it so".into(),
        );
    }
    match (minimum, maximum) {
        (Some(minimum), Some(maximum)) if minimum > maximum => {
            wrong(format!("the maximum is {maximum}, below the minimum of {minimum}"))
        }
        (None, Some(maximum)) if maximum < policy.minimum => {
            let text = format!(
                "the maximum is {maximum}, below the minimum of {} of the configuration",
                policy.minimum
            );
            Err(Error::new(Kind::Input, text).hint("say a minimum, too: --minimum"))
        }
        _ => Ok(()),
    }
}

/// What is to be shown, and changed.
/// `by` and `id`: who says so, and what the history calls it.
pub fn scale(service: &Service, change: &Change, (by, id): (&str, &str)) -> Result<ScalingView> {
    let state = ServiceState::load(&service.state(), &service.name)?;
    let serving = state.serving.and_then(|number| Some((number, state.generations.get(&number)?)));
    let Some((number, generation)) = serving else {
        return Err(Error::new(Kind::Input, format!("{} serves nothing here", service.name)));
    };
    let spec = &generation.wanted.spec;
    let Some(policy) = &spec.scaling else {
        let text = format!("{} has {} always", service.name, instances(spec.instances));
        let hint = "give it a policy: [service.scaling] with a minimum below its maximum, and [service.jobs] queue = \
                    \"gateway\"; then stillframe deploy";
        return Err(Error::new(Kind::Input, text).hint(hint));
    };
    let gateway = Gateway::new(service);
    if !change.is_none() {
        let changed = lease::unless_changing(service, || {
            let before = if change.reset { None } else { order(service)? };
            let order = change.over(before.as_ref(), by, clock::now_ms());
            check(policy, spec.slots.len() as u32, &order)?;
            record(service, &change.told(), (by, id), number, || {
                keep(service, &order)?;
                gateway.write_settings(generation)?;
                gateway.ask(&Request::Reload).map(drop)
            })
        })?;
        changed.map_err(|holder| {
            let text =
                format!("a {} of {} is under way, begun by {}", holder.kind.name(), service.name, holder.by);
            Error::new(Kind::Busy, text).hint("scale when it has ended")
        })?;
    }
    gateway.ask(&Request::Status)?.scaling.ok_or_else(|| {
        Error::new(Kind::Host, format!("the gateway of {} tells nothing of its instances", service.name))
            .hint("it may be of another version, or have just begun: ask again")
    })
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".into() } else { format!("{count} instances") }
}

/// On disk for good, or gone where it says nothing.
fn keep(service: &Service, order: &Order) -> Result<()> {
    if order.minimum.is_none() && order.maximum.is_none() && !order.paused {
        files::remove(&service.scaling())?;
        return files::sync_dir(&service.home);
    }
    let bytes = serde_json::to_vec_pretty(order)
        .map_err(|e| Error::new(Kind::Io, "cannot write the order").caused_by(e))?;
    files::write_atomic(&service.scaling(), &bytes)
}

/// An attempt of its own in the history, whatever comes of it.
fn record(
    service: &Service,
    told: &str,
    (by, id): (&str, &str),
    serving: u64,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let asked = Attempt::asked(id, AttemptKind::Scale, &service.name, by, &[]);
    let (mut journal, _) = Journal::begin(service, asked)?;
    journal.event(Status::Starting, told, None)?;
    let done = act();
    let outcome = match &done {
        Ok(()) => Outcome::unchanged(Status::Succeeded, Some(serving)),
        Err(e) => Outcome::unchanged(Status::Failed, Some(serving)).because(e),
    };
    journal.end(&outcome)?;
    done
}

/// After a start of the host exactly the minimum of this hour runs; the gateway asks for more. Only where nothing of the
/// service was made since: this may be called again while it serves.
pub fn begin_with_the_minimum(service: &Service) -> Result<()> {
    if service.run().exists() {
        return Ok(());
    }
    let mut state = ServiceState::load(&service.state(), &service.name)?;
    let Some(number) = state.serving.filter(|_| state.pending.is_none()) else { return Ok(()) };
    let order = order(service).ok().flatten();
    let Some(generation) = state.generations.get_mut(&number) else { return Ok(()) };
    let spec = &generation.wanted.spec;
    let Some(policy) = &spec.scaling else { return Ok(()) };
    let slots = spec.slots.len() as u32;
    let minimum = schedule::bounds(policy, order.as_ref(), slots, clock::now_ms()).minimum;
    let places: Vec<Place> = (0..minimum).map(|slot| Place { slot, port: None }).collect();
    if generation.instances != places {
        generation.instances = places;
        state.save(&service.state())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::Layout;
    use crate::protocol::scaling::{ORDER_VERSION, Target};
    use std::path::Path;

    fn policy() -> Policy {
        Policy {
            minimum: 1,
            maximum: 3,
            target: Target::Waiting(1),
            step: 1,
            cool_down_ms: 0,
            idle_ms: 1,
            schedules: vec![],
        }
    }

    #[test]
    fn an_order_is_checked_against_the_slots_and_the_configuration() {
        let check = |minimum, maximum| {
            let order = Order { minimum, maximum, ..Order::default() };
            check(&policy(), 4, &order).map_err(|e| e.to_string())
        };
        assert_eq!(check(None, None), Ok(()));
        assert_eq!(check(Some(4), Some(4)), Ok(()));
        assert_eq!(check(Some(5), None), Err("5 instances are asked for, and there are 4 slots".into()));
        assert_eq!(check(None, Some(9)), Err("9 instances are asked for, and there are 4 slots".into()));
        assert_eq!(check(Some(3), Some(2)), Err("the maximum is 2, below the minimum of 3".into()));
        assert!(check(Some(0), Some(0)).unwrap_err().starts_with("a maximum of 0 lets nothing run"));
        let below = Policy { minimum: 2, ..policy() };
        let error = super::check(&below, 4, &Order { maximum: Some(1), ..Order::default() }).unwrap_err();
        assert_eq!(error.to_string(), "the maximum is 1, below the minimum of 2 of the configuration");
    }

    #[test]
    fn an_order_is_kept_and_one_that_says_nothing_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        std::fs::create_dir_all(&service.home).unwrap();
        assert_eq!(order(&service).unwrap(), None);
        let paused = Order { version: ORDER_VERSION, paused: true, by: "a@b".into(), ..Order::default() };
        keep(&service, &paused).unwrap();
        assert_eq!(order(&service).unwrap(), Some(paused.clone()));
        keep(&service, &Order { paused: false, ..paused }).unwrap();
        assert_eq!(order(&service).unwrap(), None);
        for (text, why) in [("{", "EOF while parsing"), ("{\"version\":9}", "version 9")] {
            std::fs::write(service.scaling(), text).unwrap();
            let error = order(&service).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.to_string().contains(Path::new("demo/scaling.json").to_str().unwrap()));
        }
    }
}
