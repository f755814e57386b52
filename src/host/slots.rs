//! What instances leave on a host: which of them run or have files for that, and the orders to take their slots
//! apart and to hand their pictures over, which another process carries out as the service's user.
use crate::host::clearing::{Cleared, Heir, Known, ORDER_VERSION, Order, Task};
use crate::host::layout::{Service, Unit};
use crate::host::state::{Generation, ServiceState};
use crate::host::users::Users;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::launch;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::process;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIST_LIMIT: Duration = Duration::from_secs(20);
/// For what runs as the service's user, to the end.
const CLEAR_LIMIT: Duration = Duration::from_secs(300);

/// The units of a service that systemd has loaded.
pub fn loaded(service: &Service) -> Result<BTreeSet<String>> {
    let pattern = format!("stillframe-{}-*", service.name);
    let list = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", &pattern];
    let text = process::must(&list, LIST_LIMIT)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let named = text.lines().filter_map(|line| line.split_whitespace().next());
    Ok(named.filter(|unit| service.unit(unit).is_some()).map(String::from).collect())
}

fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Instances that run, or have a unit or a file for that, but for those of `keep`.
pub fn others(service: &Service, keep: &[InstanceId]) -> Result<Vec<InstanceId>> {
    let units = loaded(service)?.into_iter().chain(names(&service.layout.units));
    let of_units = units.filter_map(|unit| match service.unit(&unit) {
        Some(Unit::Instance(id)) => Some(id),
        _ => None,
    });
    let of_files = names(&service.run()).filter_map(|name| name.strip_suffix(".json")?.parse().ok());
    let all: BTreeSet<InstanceId> = of_units.chain(of_files).collect();
    Ok(all.into_iter().filter(|id| !keep.contains(id)).collect())
}

fn launch_file(generation: &Generation) -> PathBuf {
    Path::new(&generation.wanted.snapshot).join(launch::file_of(&generation.wanted.launch))
}

/// All instances of all generations: what their slots were made from.
fn known(state: &ServiceState) -> Vec<Known> {
    let of = |(number, generation): (&u64, &Generation)| -> Vec<Known> {
        let spec = &generation.wanted.spec;
        let linked: Vec<String> =
            spec.folders.iter().map(|folder| &folder.at).chain(&spec.keep).cloned().collect();
        let placed: Vec<String> = spec.secrets.iter().filter_map(|secret| secret.at.clone()).collect();
        let one = |id: InstanceId| Known {
            id: id.to_string(),
            launch: launch_file(generation),
            linked: linked.clone(),
            placed: placed.clone(),
        };
        state.instances(*number).into_iter().map(one).collect()
    };
    state.generations.iter().flat_map(of).collect()
}

fn heirs(service: &Service, state: &ServiceState, heir: Option<u64>) -> Vec<Heir> {
    let found = heir.and_then(|number| Some((number, state.generations.get(&number)?)));
    let Some((number, generation)) = found else { return Vec::new() };
    let output = service.outputs(generation.wanted.spec.output.as_deref());
    let one = |id: InstanceId| Heir { id: id.to_string(), output: output.join(id.to_string()) };
    state.instances(number).into_iter().map(one).collect()
}

pub fn clear(
    service: &Service,
    state: &ServiceState,
    keep: &[InstanceId],
    heir: Option<u64>,
) -> Result<Vec<Cleared>> {
    let names = keep.iter().map(InstanceId::to_string).collect();
    let mut cleared =
        carry_out(service, state, heir, Task::Clear { keep: names, known: known(state) }, keep)?;
    for id in going(service, keep) {
        let told = cleared.iter_mut().find(|slot| slot.id == id.to_string());
        if told.as_ref().is_some_and(|slot| slot.error.is_some()) {
            continue;
        }
        if let (Err(e), Some(slot)) = (service.remove_slot_folder(id), told) {
            slot.error = Some(e.full());
        }
    }
    Ok(cleared)
}

/// Whose slots are there, but for those of `keep`. The folders that systemd makes for them are in one of root's.
fn going(service: &Service, keep: &[InstanceId]) -> BTreeSet<InstanceId> {
    let there = service.slots().into_iter().flat_map(|folder| names(&folder));
    there.filter_map(|name| name.parse().ok()).filter(|id| !keep.contains(id)).collect()
}

pub fn share(service: &Service, state: &ServiceState, from: u64, to: u64) -> Result<()> {
    let from = state.instances(from).iter().map(InstanceId::to_string).collect();
    carry_out(service, state, Some(to), Task::Share { from }, &[]).map(drop)
}

fn carry_out(
    service: &Service,
    state: &ServiceState,
    heir: Option<u64>,
    task: Task,
    keep: &[InstanceId],
) -> Result<Vec<Cleared>> {
    let newest = || state.generations.keys().next_back().copied();
    let number = heir.or(state.serving).or_else(newest);
    let Some(generation) = number.and_then(|number| state.generations.get(&number)) else {
        return Ok(Vec::new());
    };
    if !service.data().exists() {
        return Ok(Vec::new());
    }
    let all = state.generations.values().filter_map(|g| g.wanted.spec.output.as_ref());
    let outputs: BTreeSet<PathBuf> = all.map(PathBuf::from).collect();
    let order = Order {
        version: ORDER_VERSION,
        data: service.data(),
        slots: service.slots()[0].clone(),
        outputs: outputs.into_iter().collect(),
        task,
        heirs: heirs(service, state, heir),
    };
    let unread =
        |e| Error::new(Kind::Host, format!("cannot clear the slots of {}", service.name)).caused_by(e);
    let file = service.clearing();
    files::write_atomic(&file, &serde_json::to_vec(&order).map_err(unread)?)?;
    let slots = match order.task {
        Task::Clear { .. } => going(service, keep),
        Task::Share { .. } => BTreeSet::new(),
    };
    let words = words(service, generation, &order, &slots, &file)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = process::must(&words, CLEAR_LIMIT);
    files::remove(&file)?;
    serde_json::from_slice(&said?).map_err(unread)
}

/// This very program, which knows the order's version, as the service's user.
fn words(
    service: &Service,
    generation: &Generation,
    order: &Order,
    slots: &BTreeSet<InstanceId>,
    file: &Path,
) -> Result<Vec<String>> {
    let own = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let mut words: Vec<String> =
        ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"].map(String::from).to_vec();
    let mut property = |text: String| words.extend(["-p".to_string(), text]);
    Users::for_all(&generation.wanted.spec).lines().for_each(|line| property(line.into()));
    let slots = slots.iter().map(|id| format!(" {}", service.slot_folder(*id))).collect::<String>();
    property(format!("StateDirectory={}{slots}", service.data_folder()));
    for line in
        ["ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "PrivateNetwork=yes"]
    {
        property(line.into());
    }
    for output in &order.outputs {
        // That of an older generation may not be mounted any more.
        property(format!("ReadWritePaths=-{}", output.display()));
    }
    words.extend([own.display().to_string(), "clear".into(), file.display().to_string()]);
    Ok(words)
}
