//! What a host serves now: wanted and actual instances, the life of each, and who deploys.
use crate::formats::comfy::api::{paths, prompt};
use crate::host::gateway_units::Gateway;
use crate::host::layout::{Layout, Service};
use crate::host::lease;
use crate::host::lookup;
use crate::host::maintenance;
use crate::host::state::{Generation, Place, ServiceState};
use crate::protocol::control::{Address, Reply, Request, TargetStatus};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::overview::{
    Brought, Condition, GenerationView, HostView, InstanceView, OVERVIEW_VERSION, ServiceView,
};
use crate::sys::error::Result;
use crate::sys::http;
use crate::sys::systemd;
use std::net::SocketAddr;
use std::time::Duration;

const QUEUE_LIMIT: Duration = Duration::from_secs(2);

/// Everything of a host, or one service of it.
pub fn look(layout: &Layout, only: Option<&str>) -> Result<HostView> {
    let names = layout.known();
    let wanted = names.iter().filter(|n| only.is_none_or(|only| only == n.as_str()));
    let services = wanted.map(|name| told(&layout.service(name))).collect::<Result<_>>()?;
    let agent = std::fs::read_link(layout.agent()).unwrap_or_default().display().to_string();
    // A file that says nothing is told where it stops something.
    let maintenance = maintenance::read(layout).ok().flatten();
    Ok(HostView { version: OVERVIEW_VERSION, agent, services, maintenance })
}

/// One whose state cannot be read says so, and the others go on.
fn told(service: &Service) -> Result<ServiceView> {
    match ServiceState::read(&service.state(), &service.name) {
        Ok(found) => Ok(ServiceView { problem: found.warning, ..view(service, found.state)? }),
        Err(e) => {
            let hint = e.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let problem = Some(format!("{}{hint}", e.full()));
            Ok(ServiceView { problem, ..view(service, ServiceState::new(&service.name))? })
        }
    }
}

/// Services of this host whose state is not as it should be, a line each.
pub fn problems(layout: &Layout) -> Vec<String> {
    let of = |name: &String| match ServiceState::read(&layout.service(name).state(), name) {
        Ok(found) => found.warning.map(|warning| format!("{name} {warning}")),
        Err(e) => Some(format!("{name} {}", e.full())),
    };
    layout.known().iter().filter_map(of).collect()
}

fn view(service: &Service, state: ServiceState) -> Result<ServiceView> {
    // What serves, and what an activation has begun to put in its place.
    let shown: Vec<u64> = state
        .pending
        .iter()
        .map(|p| p.generation)
        .chain(state.serving)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let gateway = if state.serving.is_some() || state.pending.is_some() {
        Some(Gateway::new(service).ask(&Request::Status))
    } else {
        None
    };
    let (reply, gateway_error) = match gateway {
        Some(Ok(reply)) => (Some(reply), None),
        Some(Err(e)) => (None, Some(e.full())),
        None => (None, None),
    };
    let instances = instances(&state, &shown, reply.as_ref())?;
    let serving = state.serving.and_then(|n| state.generations.get(&n));
    let ready = |i: &&InstanceView| Some(i.generation) == state.serving && i.condition == Condition::Healthy;
    let (holder, activating) = lease::under_way(service).map_or((None, false), |(h, a)| (Some(h), a));
    Ok(ServiceView {
        service: service.name.clone(),
        serving: state.serving,
        stopped: state.stopped.clone(),
        address: serving.map(|g| SocketAddr::new(g.wanted.spec.listen, g.wanted.spec.port)),
        wanted: serving.map_or(0, |g| g.instances.len() as u32),
        ready: instances.iter().filter(ready).count() as u32,
        held: reply.as_ref().map_or(0, |r| r.held as u64),
        waiting_jobs: reply.as_ref().and_then(|r| r.waiting_jobs),
        scaling: reply.as_ref().and_then(|r| r.scaling.clone()),
        gateway_error,
        instances,
        generations: state.generations.iter().map(|(n, g)| generation(service, &state, *n, g)).collect(),
        deployment: holder,
        activating,
        problem: None,
    })
}

fn generation(service: &Service, state: &ServiceState, number: u64, g: &Generation) -> GenerationView {
    let attempt = (state.current() == Some(number)).then(|| lookup::brought(service, state)).flatten();
    let brought = attempt.and_then(|attempt| Some(Brought { by: attempt.by, project: attempt.project? }));
    GenerationView {
        brought,
        generation: number,
        snapshot: g.wanted.snapshot.clone(),
        created: g.created,
        attempt: g.attempt,
        before: g.before,
        gone: g.is_gone(),
    }
}

const PROPERTIES: &[&str] =
    &["ActiveState", "SubState", "NRestarts", "MainPID", "MemoryCurrent", "ExecMainStartTimestampMonotonic"];

fn instances(state: &ServiceState, shown: &[u64], gateway: Option<&Reply>) -> Result<Vec<InstanceView>> {
    let all: Vec<(u64, &Generation, Place)> = shown
        .iter()
        .filter_map(|n| Some((*n, state.generations.get(n)?)))
        .flat_map(|(n, g)| g.instances.iter().map(move |place| (n, g, *place)))
        .collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let id = |number: u64, place: Place| InstanceId { slot: place.slot, generation: number };
    let units: Vec<String> = all.iter().map(|(n, _, place)| id(*n, *place).unit(&state.service)).collect();
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let looks = systemd::show_all(&names, PROPERTIES)?;
    let client = http::Client::new()?;
    let uptime = uptime_us();
    let mut views = Vec::new();
    for (((number, generation, place), unit), look) in all.into_iter().zip(&units).zip(&looks) {
        let text = |key: &str| look.get(key).map_or("", String::as_str);
        let id = id(number, place).to_string();
        let target = gateway.and_then(|r| r.targets.iter().find(|t| t.id == id));
        let pid: u32 = text("MainPID").parse().unwrap_or(0);
        let started: u64 = text("ExecMainStartTimestampMonotonic").parse().unwrap_or(0);
        let runs = pid > 0;
        let address = state.address(number, place);
        let queue = if runs { queue(&client, &address) } else { None };
        views.push(InstanceView {
            unit: unit.clone(),
            generation: number,
            slot: place.slot,
            gpus: generation.wanted.spec.slots.get(place.slot as usize).cloned().unwrap_or_default(),
            address: Some(address),
            condition: condition(text("ActiveState"), text("SubState"), target, queue.is_some()),
            reason: target.and_then(|t| t.reason.clone()),
            age_s: (runs && started > 0).then(|| uptime.saturating_sub(started) / 1_000_000),
            restarts: text("NRestarts").parse().unwrap_or(0),
            queue,
            // Where the memory controller is not there, the program's own resident memory.
            memory_bytes: text("MemoryCurrent").parse().ok().or_else(|| resident(pid)),
            requests: target.map_or(0, |t| t.requests),
            websockets: target.map_or(0, |t| t.websockets),
            id,
        });
    }
    Ok(views)
}

fn condition(active: &str, sub: &str, target: Option<&TargetStatus>, answers: bool) -> Condition {
    match (active, sub) {
        ("failed", _) => Condition::Failed,
        (_, "auto-restart") => Condition::Restarting,
        ("active", _) => match target {
            Some(target) if target.draining => Condition::Draining,
            Some(target) if target.healthy => Condition::Healthy,
            _ if answers => Condition::Starting,
            Some(_) => Condition::Unhealthy,
            None => Condition::Starting,
        },
        ("activating", _) => Condition::Starting,
        _ => Condition::Stopped,
    }
}

fn queue(client: &http::Client, at: &Address) -> Option<u64> {
    let reply = client.get(at, paths::PROMPT, QUEUE_LIMIT).ok()?;
    prompt::queue_remaining(&reply.body)
}

fn uptime_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let target = |healthy, draining| TargetStatus {
            id: "s0-g1".into(),
            address: "127.0.0.1:1".parse().unwrap(),
            generation: 1,
            draining,
            healthy,
            reason: None,
            requests: 0,
            websockets: 0,
            jobs: 0,
            served: 0,
            failed: 0,
        };
        for (active, sub, target, answers, expected) in [
            ("active", "running", Some(target(true, false)), true, Condition::Healthy),
            ("active", "running", Some(target(true, true)), true, Condition::Draining),
            ("active", "running", Some(target(false, false)), false, Condition::Unhealthy),
            ("active", "running", None, true, Condition::Starting),
            ("activating", "auto-restart", None, false, Condition::Restarting),
            ("activating", "start-pre", None, false, Condition::Starting),
            ("failed", "failed", None, false, Condition::Failed),
            ("inactive", "dead", Some(target(false, false)), false, Condition::Stopped),
        ] {
            assert_eq!(condition(active, sub, target.as_ref(), answers), expected, "{active} {sub}");
        }
    }
}
