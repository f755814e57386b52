//! What is kept of a service, and why; and letting go of the rest.
use crate::formats::nix::store_path::StorePath;
use crate::host::activation::{self, expired};
use crate::host::effects::HostWorld;
use crate::host::layout::{Layout, Service};
use crate::host::lease;
use crate::host::state::ServiceState;
use crate::host::world::World;
use crate::protocol::messages::{AttemptKind, Holder};
use crate::protocol::retention::{KeptGeneration, RetentionReport};
use crate::store::{Store, StoreConfig};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use std::collections::BTreeSet;

fn why(state: &ServiceState, number: u64, goes: &[u64]) -> Option<String> {
    let serving = state.current().and_then(|n| state.generations.get(&n));
    if state.stopped.as_ref().is_some_and(|stopped| stopped.generation == number) {
        return Some("it served when the service was stopped: start brings it back".into());
    }
    if state.serving == Some(number) {
        return Some("it serves".into());
    }
    if state.pending.as_ref().is_some_and(|p| p.generation == number) {
        return Some("it is being activated".into());
    }
    if serving.and_then(|g| g.before) == Some(number) {
        return Some("it served before: rollback goes there".into());
    }
    let keep = serving.map_or(0, |g| g.wanted.spec.retention.generations);
    (!goes.contains(&number)).then(|| format!("one of the newest {keep} besides the serving one"))
}

/// Shows what is kept; with `free`, lets go of the rest and runs Nix's garbage collector.
pub fn retention(
    layout: &Layout,
    only: Option<&str>,
    config: &StoreConfig,
    free: bool,
) -> Result<RetentionReport> {
    let mut store = Store::connect(config)?;
    let (mut generations, mut tidied, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    let mut closures: Vec<BTreeSet<StorePath>> = Vec::new();
    let mut sizes = std::collections::BTreeMap::new();
    for name in layout.known() {
        let service = layout.service(&name);
        let state = match ServiceState::load(&service.state(), &name) {
            Ok(state) => state,
            // Its links are there all the same.
            Err(e) => {
                problems.push(format!("{name}: {}", e.full()));
                continue;
            }
        };
        let goes = expired(&state);
        for (number, generation) in &state.generations {
            let snapshot = &generation.wanted.snapshot;
            let roots = [snapshot, &generation.wanted.agent]
                .map(|path| StorePath::from_absolute(&config.store_dir, path));
            let mut closure = BTreeSet::new();
            for root in roots.into_iter().flatten() {
                // A path that was deleted by hand has no closure any more.
                for (path, info) in store.closure(&[root]).unwrap_or_default() {
                    sizes.insert(path.clone(), info.nar_size);
                    closure.insert(path);
                }
            }
            generations.push(KeptGeneration {
                service: name.clone(),
                generation: *number,
                snapshot: snapshot.clone(),
                created: generation.created,
                why: why(&state, *number, &goes),
                bytes: closure.iter().filter_map(|p| sizes.get(p)).sum(),
                own_bytes: 0,
                gone: generation.is_gone(),
            });
            closures.push(closure);
        }
        if free && only.is_none_or(|only| only == name) {
            tidied.extend(let_go(&service, !goes.is_empty())?);
        }
    }
    for at in 0..closures.len() {
        let others = closures.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, c)| c);
        let shared: BTreeSet<&StorePath> = others.flatten().collect();
        generations[at].own_bytes =
            closures[at].iter().filter(|p| !shared.contains(p)).filter_map(|p| sizes.get(p)).sum();
    }
    let mut collect = || fault::around(fault::HOST, "retention/collect", || store.collect_garbage());
    let freed_bytes = if free { Some(collect()?) } else { None };
    Ok(RetentionReport { generations, incoming_bytes: incoming(layout), freed_bytes, tidied, problems })
}

/// Lets go of what is not kept, and of what an earlier crash left. Unless it `must`, it leaves a deployment alone.
fn let_go(service: &Service, must: bool) -> Result<Vec<String>> {
    let holder = Holder {
        deployment: lease::RETENTION.into(),
        kind: AttemptKind::Deploy,
        by: "retention".into(),
        since: clock::now_ms(),
        attempt: 0,
    };
    let busy = |holder: Holder| {
        let text = format!("a deployment of {} is under way, begun by {}", service.name, holder.by);
        Error::new(Kind::Busy, text).hint("run it again when that has ended")
    };
    let _lease = match lease::take(service, &holder)? {
        Ok(lease) => lease,
        Err(other) if must => return Err(busy(other)),
        Err(_) => return Ok(Vec::new()),
    };
    // As it is now that nobody else changes it.
    let mut state = ServiceState::load(&service.state(), &service.name)?;
    if state.pending.is_some() && !must {
        return Ok(Vec::new());
    }
    if state.pending.is_some() {
        return Err(busy(lease::cut_off(service).unwrap_or(holder)));
    }
    let mut world = HostWorld::new(service, None, None)?;
    let goes = expired(&state);
    for number in &goes {
        if let Some(generation) = state.generations.remove(number) {
            fault::around(&service.name, "retention/unlink", || world.unlink(*number, generation.attempt))?;
        }
    }
    if !goes.is_empty() {
        fault::around(&service.name, "retention/save", || world.save(&state))?;
    }
    fault::point(&service.name, "retention/tidy")?;
    let failed = activation::tidy(&mut world, &mut state);
    fault::point(&service.name, "retention/tidied")?;
    let failed = failed.iter().map(|e| format!("{}: {}", service.name, e.full()));
    Ok(world.told.drain(..).chain(failed).collect())
}

fn incoming(layout: &Layout) -> u64 {
    let Ok(entries) = std::fs::read_dir(layout.incoming()) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}
