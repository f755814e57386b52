//! One slot of the serving generation gets an instance, or loses it. The state comes first and the effect second: whoever
//! is cut off in between leaves a host that the next question, activation or boot brings to what the state says.
use crate::host::change::Change;
use crate::host::state::{Place, ServiceState};
use crate::host::world::{Status, World};
use crate::protocol::control::Table;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::scaling::{Order, Refused, SlotRequest, UpDown};
use crate::scaling::schedule;
use crate::sys::error::{Error, Result};

/// How long an instance that has no new requests may take to be seen with nothing.
const SETTLE_MS: u64 = 2_000;
const LOOK_MS: u64 = 100;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub refused: Refused,
    pub why: String,
}

impl Refusal {
    pub fn new(refused: Refused, why: impl Into<String>) -> Refusal {
        Refusal { refused, why: why.into() }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::new(Refused::Failed, error.full())
    }
}

/// Carries out what a gateway asks, where that may be.
pub fn carry_out(
    world: &mut dyn World,
    state: &mut ServiceState,
    order: Option<&Order>,
    asked: &SlotRequest,
) -> std::result::Result<(), Refusal> {
    let refuse = |refused, why: String| Err(Refusal::new(refused, why));
    if state.pending.is_some() {
        return refuse(Refused::Busy, "an activation is not over".into());
    }
    if state.serving != Some(asked.generation) {
        let serving = state.serving.map_or_else(|| "nothing".to_string(), |n| format!("generation {n}"));
        return refuse(Refused::Generation, format!("{serving} serves, not generation {}", asked.generation));
    }
    let Some(generation) = state.generations.get(&asked.generation) else {
        return refuse(Refused::Generation, format!("there is no generation {}", asked.generation));
    };
    let spec = &generation.wanted.spec;
    let Some(policy) = &spec.scaling else {
        return refuse(Refused::Bounds, "the number of its instances does not change".into());
    };
    let slots = spec.slots.len() as u32;
    if asked.slot >= slots {
        return refuse(Refused::Bounds, format!("there is no slot {}: there are {slots}", asked.slot));
    }
    let (least, most) = schedule::hull(policy, order, slots);
    let (now, has) =
        (generation.instances.len() as u32, generation.instances.iter().any(|p| p.slot == asked.slot));
    match asked.to {
        UpDown::Up if !has && now >= most => refuse(Refused::Bounds, format!("there may be {most} at most")),
        UpDown::Down if has && now <= least => {
            refuse(Refused::Bounds, format!("there are to be {least} at least"))
        }
        UpDown::Up => Ok(up(world, state, asked)?),
        UpDown::Down => down(world, state, asked),
    }
}

fn id(asked: &SlotRequest) -> InstanceId {
    InstanceId { slot: asked.slot, generation: asked.generation }
}

fn places<'a>(state: &'a mut ServiceState, asked: &SlotRequest) -> Option<&'a mut Vec<Place>> {
    state.generations.get_mut(&asked.generation).map(|generation| &mut generation.instances)
}

fn table(state: &ServiceState, asked: &SlotRequest) -> Table {
    state.table(Some(asked.generation))
}

fn up(world: &mut dyn World, state: &mut ServiceState, asked: &SlotRequest) -> Result<()> {
    let (number, id) = (asked.generation, id(asked));
    let mut first = false;
    if let Some(places) = places(state, asked)
        && !places.iter().any(|place| place.slot == asked.slot)
    {
        first = places.is_empty();
        places.push(Place { slot: asked.slot, port: None });
        places.sort_by_key(|place| place.slot);
        world.save(state)?;
    }
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    change.tell(Status::Starting, &format!("{id} starts"));
    let generation = change.generation(number)?;
    change.world.write_units(number, &generation)?;
    let starts = change.world.unit(id)?.is_over();
    if starts {
        change.world.start(id)?;
    }
    let starting = if starts { vec![id.to_string()] } else { Vec::new() };
    let table = Table { starting, ..table(change.state, asked) };
    change.world.set_table(&table)?;
    if first {
        // What those made that ended last is this one's to show.
        let keep = change.state.instances(number);
        change.clear_slots(&keep, Some(number));
    }
    Ok(())
}

fn down(
    world: &mut dyn World,
    state: &mut ServiceState,
    asked: &SlotRequest,
) -> std::result::Result<(), Refusal> {
    let (number, id) = (asked.generation, id(asked));
    let before = table(state, asked);
    let name = id.to_string();
    if before.targets.iter().any(|target| target.id == name) {
        let mut without = before.clone();
        without.targets.retain(|target| target.id != name);
        world.set_table(&without)?;
        if let Some(what) = occupied(world, state, &name, asked)? {
            world.set_table(&before)?;
            return Err(Refusal::new(Refused::Occupied, format!("{name} has {what}")));
        }
        if let Some(places) = places(state, asked) {
            places.retain(|place| place.slot != asked.slot);
        }
        world.save(state)?;
    }
    let mut change = Change { kept: true, ..Change::new(world, state, number) };
    change.tell(Status::Draining, &format!("{id} ends"));
    change.world.stop(id)?;
    let keep = change.state.instances(number);
    if !keep.is_empty() {
        change.clear_slots(&keep, Some(number));
    }
    change.world.remove_units(&[id])?;
    Ok(())
}

/// What an instance that gets nothing new still has after a moment.
fn occupied(
    world: &mut dyn World,
    state: &ServiceState,
    name: &str,
    asked: &SlotRequest,
) -> Result<Option<String>> {
    let until = world.now() + SETTLE_MS;
    loop {
        let reply = world.gateway_status()?;
        let target = reply.targets.iter().find(|target| target.id == name);
        let (requests, sockets, jobs) = target.map_or((0, 0, 0), |t| (t.requests, t.websockets, t.jobs));
        let own = world.queue(&state.address(asked.generation, Place { slot: asked.slot, port: None }));
        let jobs = jobs.max(own.unwrap_or(0));
        if requests + sockets + jobs == 0 {
            return Ok(None);
        }
        // A job runs to its end, which may take long: nobody waits for that here.
        if jobs > 0 || world.now() >= until {
            return Ok(Some(format!("{jobs} jobs, {requests} requests and {sockets} WebSockets")));
        }
        world.wait(LOOK_MS)?;
    }
}
