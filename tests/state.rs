//! State files and records as earlier versions wrote them, on real hosts and a real workstation: every later
//! version loads each of them, or refuses it by name. A folder of `tests/golden/state` is never changed.
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use stillframe::closure::registry::Registry;
use stillframe::deploy::records;
use stillframe::gateway;
use stillframe::host::goal::{self, Goal};
use stillframe::host::instance::Instance;
use stillframe::host::journal;
use stillframe::host::layout::{Layout, Service};
use stillframe::host::state::ServiceState;
use stillframe::protocol::control::Table;
use stillframe::protocol::messages::Status;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state/v1").join(file)
}

fn document(file: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(file)).unwrap()).unwrap()
}

/// A service of a scratch host, with one golden file at its place.
fn with(file: &str, place: impl Fn(&Service) -> PathBuf) -> (tempfile::TempDir, Service) {
    let dir = tempfile::tempdir().unwrap();
    let service = Layout::new(dir.path()).service("demo");
    let place = place(&service);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::copy(golden(file), place).unwrap();
    (dir, service)
}

/// Raises the version that a JSON file begins with; a newer one has a field that nobody knows yet.
fn raise(file: &Path) {
    raise_to(file, 2);
}

fn raise_to(file: &Path, version: u32) {
    let text = fs::read_to_string(file).unwrap();
    let (head, rest) = text.split_once("\"version\":").unwrap();
    let rest = rest.trim_start().strip_prefix('1').unwrap();
    fs::write(file, format!("{head}\"version\":{version},\"since-version-{version}\":true{rest}")).unwrap();
}

#[test]
fn the_state_of_a_service() {
    let (_dir, service) = with("state.json", Service::state);
    let state = ServiceState::load(&service.state(), "demo").unwrap();
    assert_eq!((state.serving, state.next_generation, state.generations.len()), (Some(1), 3, 2));
    assert_eq!(state.units(1), ["stillframe-demo-s0-g1.service"]);
    // As version 1, but for the number: its instances go on with their ports.
    let mut migrated = document("state.json");
    migrated["version"] = 2.into();
    assert_eq!(serde_json::to_value(&state).unwrap(), migrated);
    let written: Table = serde_json::from_value(document("table.json")).unwrap();
    // A table says since whose it is, also where it names no instance.
    assert_eq!(state.table(Some(1)), Table { serving: Some(1), ..written });

    // Of what an older stillframe asked for, and of a newer one's file.
    let newer = fs::read_to_string(service.state()).unwrap().replacen(
        "\"spec\": {\n          \"version\": 1",
        "\"spec\": {\n          \"since-version-2\": true,\n          \"version\": 2",
        1,
    );
    fs::write(service.state(), newer).unwrap();
    let name = service.state().display().to_string();
    assert_eq!(
        ServiceState::load(&service.state(), "demo").unwrap_err().to_string(),
        format!(
            "{name} is not a service's state: what generation 1 is to serve is of version 2, this program reads 1"
        )
    );
    let newest = fs::read_to_string(service.state()).unwrap().replacen("\"version\": 1", "\"version\": 3", 1);
    fs::write(service.state(), newest).unwrap();
    assert_eq!(
        ServiceState::load(&service.state(), "demo").unwrap_err().to_string(),
        format!("{name} is not a service's state: version 3, this agent reads 2")
    );
}

#[test]
fn what_an_activation_is_to_do() {
    let (_dir, service) = with("goal.json", |service| service.goal(2));
    let Goal::New(wanted) = goal::read(&service, 2).unwrap() else { panic!("another goal") };
    assert_eq!(serde_json::to_value(&wanted).unwrap(), document("goal.json")["new"]);
    for goal in [
        Goal::New(wanted.clone()),
        Goal::Kept(3),
        Goal::Restored { to: 2, why: "beta failed".into() },
        Goal::Withdraw { why: "beta failed".into() },
    ] {
        goal::write(&service, 4, &goal).unwrap();
        assert_eq!(goal::read(&service, 4).unwrap(), goal);
    }
    raise(&service.goal(4));
    let name = service.goal(4).display().to_string();
    let error = goal::read(&service, 4).unwrap_err().to_string();
    assert_eq!(error, format!("{name} is no goal: version 2, this program reads 1"));
}

#[test]
fn the_record_of_an_attempt() {
    let (_dir, service) = with("attempt.jsonl", |service| service.attempts().join("000003.jsonl"));
    let record = journal::read(&service, 3).unwrap();
    let outcome = record.outcome().unwrap();
    assert_eq!(
        (record.status(), outcome.generation, outcome.previous),
        (Status::Succeeded, Some(1), Some(2))
    );
    assert_eq!((record.attempt.deployment.as_str(), record.events.len()), ("20261128T230710356Z-615e", 8));
    let file = service.attempts().join("000003.jsonl");
    raise(&file);
    let error = journal::read(&service, 3).unwrap_err().to_string();
    let name = file.display();
    assert_eq!(error, format!("{name} is not a deployment's record: version 2, this program reads 1"));
}

#[test]
fn the_lease_of_an_agent_that_is_newer_is_not_free() {
    let dir = tempfile::tempdir().unwrap();
    let service = Layout::new(dir.path()).service("demo");
    fs::create_dir_all(&service.home).unwrap();
    let holder = stillframe::protocol::messages::Holder {
        deployment: "d1".into(),
        kind: stillframe::protocol::messages::AttemptKind::Deploy,
        by: "a@b".into(),
        since: 0,
        attempt: 1,
    };
    let lease = stillframe::host::lease::take(&service, &holder).unwrap().unwrap();
    raise(&service.lease());
    let error = stillframe::host::lease::take(&service, &holder).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the lease of demo is held by another agent: version 2, this program reads 1"
    );
    drop(lease);
}

#[test]
fn what_an_instance_and_a_gateway_are_started_with() {
    let instance = Instance::read(&golden("instance.json")).unwrap();
    assert_eq!(serde_json::to_value(&instance).unwrap(), document("instance.json"));
    let active = gateway::settings::read(&golden("gateway.json")).unwrap();
    assert_eq!(serde_json::to_value(&active.settings).unwrap(), document("gateway.json"));
    let dir = tempfile::tempdir().unwrap();
    for (file, error) in [
        ("instance.json", "is no instance file: version 2, this program reads 1"),
        ("gateway.json", "version 2, and this gateway knows 1"),
    ] {
        let newer = dir.path().join(file);
        fs::copy(golden(file), &newer).unwrap();
        raise(&newer);
        let got = match file {
            "instance.json" => Instance::read(&newer).unwrap_err(),
            _ => gateway::settings::read(&newer).err().unwrap(),
        };
        assert!(got.to_string().ends_with(error), "{got}");
    }
}

#[test]
fn what_a_workstation_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshots/1wxv35wraa");
    let deployments = dir.path().join("deployments");
    for folder in [&snapshot, &deployments] {
        fs::create_dir_all(folder).unwrap();
    }
    for file in ["record.json", "served.json", "stillframe.lock"] {
        fs::copy(golden(file), snapshot.join(file)).unwrap();
    }
    fs::copy(golden("deployment.json"), deployments.join("20261128T230710356Z-615e.json")).unwrap();
    let registry = Registry::new(dir.path());
    let record = registry.find(Some("one")).unwrap();
    assert_eq!(serde_json::to_value(&record).unwrap(), document("record.json"));
    assert_eq!(registry.served_by(&record).unwrap()[0].host, "alpha");
    assert_eq!(
        registry.lock(&record).unwrap().to_toml().unwrap(),
        fs::read_to_string(golden("stillframe.lock")).unwrap()
    );
    let newest = records::newest(dir.path(), "demo", 2);
    assert_eq!(newest.len(), 1);
    assert_eq!((newest[0].hosts[0].status, newest[0].hosts[0].generation), (Status::Succeeded, Some(1)));
    raise_to(&snapshot.join("record.json"), 3);
    let error = registry.list().unwrap_err().to_string();
    assert!(error.ends_with("record.json has record version 3, this stillframe reads 1 to 2"), "{error}");
}
