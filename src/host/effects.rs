//! The effects of an activation, carried out: files, links, systemd, the instances' own answers.
use crate::formats::comfy::api::history::{self, NodeFailure, Outcome};
use crate::formats::comfy::api::{ids, paths, prompt};
use crate::formats::comfy::log;
use crate::host::cancel;
use crate::host::durable;
use crate::host::gateway_units::{self, Gateway};
use crate::host::instance::{INSTANCE_VERSION, Instance};
use crate::host::journal::{self, Journal};
use crate::host::layout::Service;
use crate::host::listeners;
use crate::host::made_places;
use crate::host::offers::{self, Offers};
use crate::host::receive;
use crate::host::reserve;
use crate::host::roots;
use crate::host::slots;
use crate::host::socket;
use crate::host::state::{Generation, ServiceState};
use crate::host::system_files;
use crate::host::units;
use crate::host::users::Users;
use crate::host::world::{Cleared, Status, UnitState, World};
use crate::protocol::control::{Address, Reply, Request, Table};
use crate::protocol::instance_id::InstanceId;
use crate::protocol::launch;
use crate::protocol::spec::{Spec, Wanted};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::http;
use crate::sys::progress::check_interrupt;
use crate::sys::say::say;
use crate::sys::systemd;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// ComfyUI answers late while a node computes: it has one interpreter lock.
const QUEUE_LIMIT: Duration = Duration::from_secs(5);
/// Of a log, in an error.
const TAIL_LINES: u32 = 20;
/// Of a log, for what it says of imports: they come first, and a program may say much in the minutes after.
const IMPORT_LINES: u32 = 50_000;

pub struct HostWorld {
    service: Service,
    gateway: Gateway,
    /// None after a boot: nobody's attempt.
    journal: Option<Journal>,
    client: http::Client,
    born: Instant,
    /// Unit files have changed since systemd last read them.
    stale: bool,
    /// Who may be looked at, and for which deployment, to stop this activation.
    cancel: Option<String>,
    must_end: bool,
    /// The steps that are in no journal.
    pub told: Vec<String>,
}

impl HostWorld {
    /// `deployment`: the one that may be cancelled; none on the way back, and while what was interrupted is
    /// brought to an end.
    pub fn new(service: &Service, journal: Option<Journal>, deployment: Option<&str>) -> Result<HostWorld> {
        Ok(HostWorld {
            service: service.clone(),
            gateway: Gateway::new(service),
            journal,
            client: http::Client::new()?,
            born: Instant::now(),
            stale: false,
            cancel: deployment.map(String::from),
            must_end: false,
            told: Vec::new(),
        })
    }

    fn reload(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stale) {
            systemd::reload().inspect_err(|_| self.stale = true)?;
        }
        Ok(())
    }

    fn unit_file(&self, id: InstanceId) -> PathBuf {
        self.service.layout.units.join(id.unit(&self.service.name))
    }

    fn instance(&self, number: u64, generation: &Generation, at: usize, mark: String) -> Instance {
        let place = generation.instances[at];
        let wanted = &generation.wanted;
        let spec = &wanted.spec;
        let id = InstanceId { slot: place.slot, generation: number };
        let data = self.service.data();
        let outputs = self.service.outputs(spec.output.as_deref());
        Instance {
            version: INSTANCE_VERSION,
            launch: Path::new(&wanted.snapshot).join(launch::file_of(&wanted.launch)),
            output: outputs.join(id.to_string()),
            data,
            models: spec.models.clone(),
            port: place.port.unwrap_or(launch::NOMINAL_PORT),
            socket: place.port.is_none().then(|| id.socket(&self.service.name)),
            slot: place.port.is_none().then(|| self.service.slot(id)),
            gpus: spec.slots.get(place.slot as usize).cloned().unwrap_or_default(),
            folders: spec.folders.clone(),
            keep: spec.keep.clone(),
            secrets: spec.secrets.clone(),
            arguments: spec.arguments.clone(),
            environment: spec
                .environment
                .iter()
                .chain([(&socket::MARK.to_string(), &mark)])
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            driver: spec.driver.as_ref().map(PathBuf::from),
            id: id.to_string(),
        }
    }

    /// What an instance's files are named by: no other instance of the service has had it, not even one of the same slot and
    /// generation, whose files are no longer where this one begins to count. It stays as long as the instance does.
    fn mark(&self, file: &Path, generation: &Generation, id: InstanceId) -> String {
        let is_there =
            Instance::read(file).ok().and_then(|there| there.environment.get(socket::MARK).cloned());
        is_there.unwrap_or_else(|| {
            let attempt = self.journal.as_ref().map_or(generation.attempt, Journal::attempt);
            let slot = id.slot;
            // One that went and comes again under the same attempt: what it made before is another's to show now.
            match &generation.wanted.spec.scaling {
                Some(_) if self.journal.is_none() => format!("{attempt}s{slot}t{:x}", clock::now()),
                _ => format!("{attempt}s{slot}"),
            }
        })
    }

    /// Asks the gateway, which is a moment late when it was just started.
    fn control(&self, request: &Request) -> Result<Reply> {
        self.gateway.ask(request)
    }

    /// An error once somebody wants this activation to end.
    fn heed(&self) -> Result<()> {
        self.cancelled()?;
        check_interrupt().map_err(|_| Error::new(Kind::Interrupted, "stopped by a signal"))
    }

    /// What cannot be written for want of space ends the way forward; the way to an end takes the reserve.
    fn write<T>(&self, write: impl FnMut() -> Result<T>) -> Result<T> {
        let mut write = write;
        if self.must_end {
            reserve::spend(&self.service.layout, write)
        } else {
            write().map_err(reserve::named)
        }
    }

    fn cancelled(&self) -> Result<()> {
        self.cancel.as_ref().map_or(Ok(()), |deployment| cancel::check(&self.service, deployment))
    }
}

impl World for HostWorld {
    fn step(&mut self, status: Status, text: &str) -> Result<()> {
        let Some(mut journal) = self.journal.take() else {
            say(format_args!("{}: {status}: {text}", self.service.name));
            self.told.push(format!("{}: {text}", self.service.name));
            return Ok(());
        };
        let written = self.write(|| journal.event(status, text, None).map(drop));
        self.journal = Some(journal);
        written
    }

    fn save(&mut self, state: &ServiceState) -> Result<()> {
        self.write(|| state.save(&self.service.state()))
    }

    fn must_end(&mut self) {
        self.must_end = true;
        self.cancel = None;
    }

    fn link(&mut self, number: u64, wanted: &Wanted) -> Result<()> {
        files::replace_link(&self.service.generation_link(number), Path::new(&wanted.snapshot))?;
        files::replace_link(&self.service.snapshot_root(number), Path::new(&wanted.snapshot))?;
        files::replace_link(&self.service.agent_root(number), Path::new(&wanted.agent))
    }

    fn unlink(&mut self, number: u64, attempt: u64) -> Result<()> {
        files::remove(&self.service.generation_link(number))?;
        files::remove(&self.service.snapshot_root(number))?;
        files::remove(&self.service.agent_root(number))?;
        // The state forgets it next, on another file system.
        for path in [self.service.generation_link(number), self.service.agent_root(number)] {
            let folder = path.parent().unwrap_or(Path::new("/"));
            if folder.exists() {
                files::sync_dir(folder)?;
            }
        }
        files::remove_tree(&self.service.secrets(attempt))
    }

    fn forget(&mut self, state: &ServiceState) -> Result<()> {
        roots::prune(&self.service, state)
    }

    fn sync_store(&mut self) -> Result<()> {
        let nix = self.service.layout.nix.clone();
        durable::sync_store(&receive::store_config(None), &nix, &mut || self.heed())
    }

    fn point(&mut self, number: Option<u64>) -> Result<()> {
        let profile = self.service.profile();
        let Some(number) = number else { return files::remove(&profile) };
        // Relative, as Nix's own profiles are.
        let target = self.service.generation_link(number);
        files::replace_link(&profile, Path::new(target.file_name().unwrap_or_default()))
    }

    fn write_units(&mut self, number: u64, generation: &Generation) -> Result<()> {
        let users = Users::of(&self.service, &generation.wanted.spec)?;
        let files = system_files::of(&generation.wanted)?;
        made_places::note(&self.service, &files)?;
        let system = system_files::lines_for(&files)?;
        for (at, place) in generation.instances.iter().enumerate() {
            let id = InstanceId { slot: place.slot, generation: number };
            let file = self.service.instance_file(id);
            let mark = self.mark(&file, generation, id);
            let instance = self.instance(number, generation, at, mark);
            let text = serde_json::to_vec_pretty(&instance)
                .map_err(|e| Error::new(Kind::Io, "cannot write the instance file").caused_by(e))?;
            files::write_private_if_changed(&file, &text)?;
            let wanted = &generation.wanted;
            let attempt = generation.attempt;
            let text = units::instance(&self.service, number, *place, wanted, attempt, users, &system);
            self.stale |= files::write_if_changed(&self.unit_file(id), text.as_bytes())?;
        }
        Ok(())
    }

    fn remove_units(&mut self, instances: &[InstanceId]) -> Result<()> {
        for id in instances {
            files::remove(&self.unit_file(*id))?;
            files::remove(&self.service.instance_file(*id))?;
        }
        // systemd forgets a stopped unit by itself; reading all units again takes it a quarter of a second.
        self.stale = true;
        Ok(())
    }

    fn start(&mut self, id: InstanceId) -> Result<()> {
        self.reload()?;
        systemd::start(&[&id.unit(&self.service.name)])
    }

    fn stop(&mut self, id: InstanceId) -> Result<()> {
        systemd::stop(&id.unit(&self.service.name))
    }

    fn unit(&mut self, id: InstanceId) -> Result<UnitState> {
        let shown =
            systemd::show(&id.unit(&self.service.name), &["ActiveState", "NRestarts", "Result", "Job"])?;
        let text = |key: &str| shown.get(key).cloned().unwrap_or_default();
        // A start job that waits for other units, or for a busy systemd, leaves the unit as it was.
        let waits = text("Job").parse().is_ok_and(|job: u32| job > 0);
        let active = match text("ActiveState").as_str() {
            "inactive" | "failed" if waits => "activating".into(),
            now => now.into(),
        };
        Ok(UnitState { active, restarts: text("NRestarts").parse().unwrap_or(0), result: text("Result") })
    }

    fn listens(&mut self, id: InstanceId) -> Vec<String> {
        listeners::of_unit(&id.unit(&self.service.name))
    }

    fn log_tail(&mut self, id: InstanceId) -> String {
        systemd::log_tail(&id.unit(&self.service.name), TAIL_LINES)
    }

    fn failed_imports(&mut self, id: InstanceId) -> BTreeMap<String, String> {
        log::failed_imports(&systemd::log_of_this_start(&id.unit(&self.service.name), IMPORT_LINES))
    }

    fn others(&mut self, keep: &[InstanceId]) -> Result<Vec<InstanceId>> {
        slots::others(&self.service, keep)
    }

    fn clear_slots(
        &mut self,
        state: &ServiceState,
        keep: &[InstanceId],
        heir: Option<u64>,
    ) -> Result<Vec<Cleared>> {
        slots::clear(&self.service, state, keep, heir)
    }

    fn share_pictures(&mut self, state: &ServiceState, from: u64, to: u64) -> Result<()> {
        slots::share(&self.service, state, from, to)
    }

    fn probe(&mut self, at: &Address, spec: &Spec) -> Result<std::result::Result<(), String>> {
        let limit = Duration::from_millis(spec.health.timeout_ms);
        Ok(self.client.get(at, &spec.health.path, limit).and_then(|reply| {
            if reply.status.is_success() {
                Ok(())
            } else {
                Err(format!("answered {}", reply.status.as_u16()))
            }
        }))
    }

    fn offers(
        &mut self,
        id: InstanceId,
        at: &Address,
        wanted: &Wanted,
    ) -> Result<std::result::Result<Offers, String>> {
        let failed = if wanted.offered.packs.is_empty() { BTreeMap::new() } else { self.failed_imports(id) };
        Ok(offers::ask(&self.client, at, wanted).map(|offers| Offers { failed, ..offers }))
    }

    fn smoke(
        &mut self,
        at: &Address,
        workflow: &Value,
        limit_ms: u64,
    ) -> Result<std::result::Result<(), String>> {
        let body = prompt::request(workflow, "stillframe-smoke");
        let limit = Duration::from_secs(30);
        let posted = self.client.post(at, paths::PROMPT, body.to_string().into(), limit).and_then(|reply| {
            let id = ids::job_of(&reply.body).filter(|_| reply.status.is_success());
            id.ok_or_else(|| refusal(reply.status.as_u16(), &prompt::refusal(&reply.body)))
        });
        let id = match posted {
            Ok(id) => id,
            Err(why) => return Ok(Err(why)),
        };
        let until = self.now() + limit_ms;
        loop {
            let looked = self.client.get(at, &paths::history_of(&id), limit);
            match looked.map(|reply| history::outcome(&reply.body, &id)) {
                Ok(None) => {}
                Ok(Some(Outcome::Success)) => return Ok(Ok(())),
                Ok(Some(Outcome::Failure { status, error })) => {
                    return Ok(Err(execution_error(&status, error.as_ref())));
                }
                Err(why) => return Ok(Err(why)),
            }
            if self.now() >= until {
                return Ok(Err(format!("it did not end within {} s", limit_ms / 1000)));
            }
            self.wait(200)?;
        }
    }

    fn queue(&mut self, at: &Address) -> Option<u64> {
        let reply = self.client.get(at, paths::PROMPT, QUEUE_LIMIT).ok()?;
        prompt::queue_remaining(&reply.body)
    }

    fn gateway(&mut self, generation: &Generation) -> Result<()> {
        self.stale |= self.gateway.write(generation)?;
        self.reload()?;
        self.gateway.run(generation)
    }

    fn ports_are_free(&mut self, wanted: &Wanted, serving: &Wanted) -> Result<()> {
        gateway_units::ports_are_free(&wanted.spec, &serving.spec)
    }

    fn remove_gateway(&mut self) -> Result<()> {
        self.gateway.remove()?;
        self.stale = true;
        self.reload()
    }

    fn has_data(&mut self) -> bool {
        self.service.data().exists()
    }

    fn remove_data(&mut self) -> Result<()> {
        self.service.remove_slots_folder()?;
        self.service.remove_data()
    }

    fn remove_jobs(&mut self) -> Result<()> {
        self.service.remove_gateway_state()
    }

    fn remove_rest(&mut self, state: &ServiceState) -> Result<()> {
        self.reload()?;
        let service = &self.service;
        roots::prune(service, &ServiceState::new(&state.service))?;
        for attempt in journal::numbers(service) {
            service.attempt_roots(attempt).iter().try_for_each(|root| files::remove(root))?;
        }
        service.remove_folders()?;
        made_places::remove(service)
    }

    fn set_table(&mut self, table: &Table) -> Result<()> {
        self.control(&Request::Set { table: table.clone() }).map(drop)
    }

    fn gateway_status(&mut self) -> Result<Reply> {
        self.control(&Request::Status)
    }

    fn cut(&mut self, id: &str) -> Result<()> {
        self.control(&Request::Cut { id: id.into() }).map(drop)
    }

    fn now(&mut self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn wait(&mut self, milliseconds: u64) -> Result<()> {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        loop {
            self.heed()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(200)));
        }
    }
}

/// What ComfyUI says of a workflow that it does not take: the first node's first error, if it names one.
fn refusal(status: u16, said: &prompt::Refusal) -> String {
    let general = said.message.as_deref().unwrap_or("no reason given");
    let detail = said.node.as_ref().map(|error| {
        let class = error.class.as_deref().unwrap_or("?");
        let text = format!("; node {} ({class}): {} {}", error.node, error.message, error.details);
        text.trim_end().to_string()
    });
    format!("it is refused with {status}: {general}{}", detail.unwrap_or_default())
}

fn execution_error(status: &str, error: Option<&NodeFailure>) -> String {
    match error {
        Some(error) => {
            let [node, class, message] =
                [&error.node, &error.class, &error.message].map(|text| text.as_deref().unwrap_or("?"));
            format!("node {node} ({class}): {message}")
        }
        None => format!("it ended with {status:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refused_workflow_says_why() {
        let golden = include_bytes!("../../tests/golden/comfyui-wire/prompt_400_unknown_node.json");
        let text = refusal(400, &prompt::refusal(golden));
        assert!(text.starts_with("it is refused with 400: "), "{text}");
        let node = json!({"error": {"message": "Prompt outputs failed validation"},
            "node_errors": {"4": {"class_type": "Loader", "errors": [{"message": "Value not in list", "details": "ckpt_name"}]}}});
        assert_eq!(
            refusal(400, &prompt::refusal(node.to_string().as_bytes())),
            "it is refused with 400: Prompt outputs failed validation; node 4 (Loader): Value not in list ckpt_name"
        );
        let ended = json!({"a": {"status": {"status_str": "error", "messages": [["execution_start", {}], ["execution_error",
            {"node_id": "7", "node_type": "Edge", "exception_message": "no such file\n"}]]}}});
        let Some(Outcome::Failure { status, error }) = history::outcome(ended.to_string().as_bytes(), "a")
        else {
            panic!("{ended}");
        };
        assert_eq!(execution_error(&status, error.as_ref()), "node 7 (Edge): no such file");
    }
}
