//! What the removal of a service would take from this host, and what would stay.
use crate::host::layout::{Layout, Service};
use crate::host::state::ServiceState;
use crate::protocol::removal::{Part, REMOVAL_VERSION, Removal};
use crate::sys::error::Result;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub fn look(layout: &Layout, name: &str, data: bool) -> Result<Removal> {
    let service = layout.service(name);
    // What is there goes also where its state cannot be read.
    let state = ServiceState::read(&service.state(), name).map(|found| found.state);
    let state = state.unwrap_or_else(|_| ServiceState::new(name));
    let mut going = runs(&service, &state);
    let mut staying = Vec::new();
    let own = [
        ("pictures, uploads and user data", service.data()),
        ("the jobs of the gateway", Path::new("/var/lib").join(service.gateway_state())),
    ];
    for (what, place) in own {
        let part = part(what, [place]);
        if data { going.extend(part) } else { staying.extend(part) }
    }
    let homes = [service.home.clone(), layout.removed(name)];
    going.extend(part("state, history and secrets", homes));
    staying.extend(others(&state));
    Ok(Removal {
        version: REMOVAL_VERSION,
        service: name.into(),
        serving: state.serving,
        stopped: state.stopped,
        going,
        staying,
    })
}

/// Those of the places that are there.
fn part(what: &str, places: impl IntoIterator<Item = PathBuf>) -> Option<Part> {
    let there = places.into_iter().filter(|place| place.symlink_metadata().is_ok());
    let places: Vec<String> = there.map(|place| place.display().to_string()).collect();
    (!places.is_empty()).then(|| Part { what: what.into(), places })
}

fn runs(service: &Service, state: &ServiceState) -> Vec<Part> {
    let units = |name: String| service.layout.units.join(name);
    let gateway = ["socket", "service"].map(|kind| units(service.gateway_unit(kind)));
    let scaler = ["socket", "service"].map(|kind| units(service.scaler_unit(kind)));
    let instances = state.generations.keys().flat_map(|number| state.units(*number)).map(units);
    let links = state.generations.keys().flat_map(|number| {
        [service.generation_link(*number), service.snapshot_root(*number), service.agent_root(*number)]
    });
    let run = [service.run(), service.gateway_folder()];
    let all = [
        part("units", gateway.into_iter().chain(scaler).chain(instances)),
        part("the profile and the roots of its generations", [service.profile()].into_iter().chain(links)),
        part("instances' slots", [service.slots()[0].clone()]),
        part("files of what runs", run),
    ];
    all.into_iter().flatten().collect()
}

/// What instances use and is the host's own.
fn others(state: &ServiceState) -> Option<Part> {
    let specs = state.generations.values().map(|generation| &generation.wanted.spec);
    let of = |spec: &crate::protocol::spec::Spec| {
        let folders = spec.folders.iter().map(|folder| folder.path.clone());
        folders.chain([spec.models.clone()]).chain(spec.output.clone()).collect::<Vec<_>>()
    };
    let places: BTreeSet<PathBuf> = specs.flat_map(of).map(PathBuf::from).collect();
    part("folders of the host's own", places)
}
