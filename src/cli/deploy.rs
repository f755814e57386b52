//! `stillframe deploy`: a snapshot to its hosts: looked at, copied to side by side, activated in stages.
use super::deployments::{self, Deployment, HostResult};
use super::fleet::{self, Member, Private, Selection, error_value, on_each};
use super::printer::{Printer, bytes, plain};
use super::rollout_run::{Host, Rollout};
use super::settings::Settings;
use super::snapshot::{self, How, take};
use crate::build::diff;
use crate::build::registry::{Record, Registry};
use crate::ship::conversation::{Begun, Conversation};
use crate::ship::copy::{self, Load, Ready};
use crate::ship::orders::{Attempt, Kind as What, Order, Serving, Status};
use crate::ship::preflight::{self, Needs};
use crate::ship::rollout::allowed;
use crate::ship::spec::{Rotation, Spec, Wanted};
use crate::store::StoreConfig;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Progress, check_interrupt};
use crate::sys::signals;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot: id, label or store path (default: a new one of the environment).
    #[arg(long)]
    snapshot: Option<String>,
    #[command(flatten)]
    hosts: Selection,
    /// Show what would be done, and do nothing (hosts get the agent alone).
    #[arg(long)]
    dry_run: bool,
    /// Return as soon as it is under way; `stillframe attach` shows it.
    #[arg(long)]
    detach: bool,
    /// Start new instances even where exactly this serves already.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    how: How,
}

/// What goes to the hosts.
struct Plan {
    settings: Settings,
    record: Record,
    load: Load,
    id: String,
    by: String,
    again: bool,
    dry_run: bool,
    hosts: Vec<String>,
}

/// A host before its activation.
struct Prepared {
    member: Member,
    private: Private,
    spec: Spec,
    ready: Ready,
    /// None in a dry run.
    conversation: Option<Mutex<Box<Conversation>>>,
    serving: Option<Serving>,
}

struct Failed {
    host: String,
    error: Error,
    /// The host has a record of it.
    on_host: bool,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::resolve(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    signals::heed()?;
    let id = std::env::var(super::detach::VARIABLE).unwrap_or_else(|_| deployments::new_id());
    // All that can be wrong here is found before a host is troubled.
    let with_private = members
        .into_iter()
        .map(|member| {
            let private = member.private()?;
            let smoke = member.smoke()?;
            // GPUs are the host's to tell; everything else can be checked.
            member
                .spec(&["0".into()], &private, None)
                .map(drop)
                .or_else(|e| if e.message.contains("service.gpus") { Ok(()) } else { Err(e) })?;
            Ok((member, private, smoke))
        })
        .collect::<Result<Vec<_>>>()?;
    let record = match &args.snapshot {
        Some(wanted) => Registry::new(&settings.state).find(Some(wanted))?,
        None => {
            let taken = take(&settings, &args.how, printer)?;
            super::capture::findings_text(&taken.grave, printer);
            printer.line(&taken.line);
            printer.event(&json!({"type": "snapshot", "snapshot": taken.report}));
            taken.record
        }
    };
    if args.detach {
        return super::detach::begin(
            &settings,
            config,
            &id,
            &record,
            args.hosts.hosts.as_deref(),
            args.again,
            printer,
        );
    }
    let source = StoreConfig::from_environment(settings.config.store.remote.as_deref());
    let load = Load::of(&source, &record.snapshot)?;
    let plan = Plan {
        by: format!("{}@{}", snapshot::user(), snapshot::host()),
        hosts: with_private.iter().map(|(m, _, _)| m.name().to_string()).collect(),
        again: args.again,
        dry_run: args.dry_run,
        settings,
        record,
        load,
        id,
    };
    plan.carry_out(with_private, printer)
}

impl Plan {
    fn carry_out(
        self,
        members: Vec<(Member, Private, Option<Value>)>,
        printer: &Printer,
    ) -> Result<ExitCode> {
        let started = Instant::now();
        let config = &self.settings.config;
        printer.line(printer.bold(&format!(
            "deploying {}{} to {}",
            self.record.id,
            self.record.label.as_ref().map(|l| format!(" ({})", plain(l))).unwrap_or_default(),
            self.hosts.join(", ")
        )));
        printer.event(
            &json!({"type": "begin", "version": 1, "deployment": self.id, "snapshot": self.record.snapshot,
            "id": self.record.id, "label": self.record.label, "hosts": self.hosts}),
        );
        let mut deployment = Deployment::new(&self.id, What::Deploy, config.service.name(), &self.by);
        deployment.snapshot = Some(self.record.snapshot.clone());
        deployment.label = self.record.label.clone();
        if !self.dry_run {
            deployment.save(&self.settings.state)?;
        }
        printer.progress().stage(&format!("looking at {} hosts", members.len()), None);
        let (mut prepared, mut failed) = (Vec::new(), Vec::new());
        for looked in on_each(members, |(member, private, smoke)| self.prepare(member, private, smoke)) {
            match looked {
                Ok(ready) => prepared.push(ready),
                Err(e) => failed.push(e),
            }
        }
        self.show(&prepared, &failed, printer);
        if self.dry_run {
            printer.event(&json!({"type": "result", "dry_run": true, "failed": failed.len()}));
            return Ok(code(&failed));
        }
        // What is missing may be more than may be missing.
        let limit = allowed(&config.rollout, self.hosts.len());
        if prepared.is_empty() || failed.len() > limit {
            if !prepared.is_empty() {
                let text = format!(
                    "{} of {} hosts cannot be deployed to; at most {limit} may be missing ([rollout] max-unavailable)",
                    failed.len(),
                    self.hosts.len()
                );
                let error = Error::new(Kind::Host, text);
                failed.extend(prepared.into_iter().map(|host| host.give_up(Status::Cancelled, &error)));
            }
            return self.end(deployment, Vec::new(), failed, started, printer);
        }
        let total = prepared.iter().map(|p| p.ready.missing_bytes).sum::<u64>();
        let names: Vec<&str> = prepared.iter().map(|p| p.member.name()).collect();
        if total > 0 {
            printer.progress().stage(&format!("copying to {}", names.join(", ")), Some(total));
        }
        let mut copied = Vec::new();
        for result in on_each(prepared, |host| self.copy(host, printer)) {
            match result {
                Ok(host) => copied.push(host),
                Err(e) => {
                    if !printer.json {
                        printer.error(&e.error);
                    }
                    failed.push(e);
                }
            }
        }
        if copied.is_empty() || failed.len() > limit || check_interrupt().is_err() {
            let error = match check_interrupt() {
                Err(e) => e,
                Ok(()) => Error::new(Kind::Host, "too many hosts of this deployment failed"),
            };
            failed.extend(copied.into_iter().map(|host| host.give_up(Status::Cancelled, &error)));
            return self.end(deployment, Vec::new(), failed, started, printer);
        }
        let rotation = match copied.iter().any(|h| h.spec.rotation == Rotation::Replace) {
            true => Rotation::Replace,
            false => Rotation::Surge,
        };
        let hosts: Vec<Host> = copied.into_iter().map(|host| self.rolled(host)).collect();
        let rollout = Rollout { config: &config.rollout, missing: failed.len(), rotation };
        let results = rollout.run(hosts, printer);
        self.end(deployment, results, failed, started, printer)
    }

    /// Arrives, looks, brings the agent, takes the lease, checks.
    fn prepare(&self, member: Member, private: Private, smoke: Option<Value>) -> Result<Prepared, Failed> {
        let name = member.name().to_string();
        let lost = |error| Failed { host: name.clone(), error, on_host: false };
        let needs = member.needs(smoke.as_ref());
        let arrived = copy::arrive(&member.host.target, &needs, &self.load.agent.program).map_err(lost)?;
        let system = &self.record.requires.system;
        arrived.can_have_agent(system).map_err(lost)?;
        let mut ready = arrived.plan(&self.load).map_err(lost)?;
        if self.dry_run {
            let spec = self.checked(&member, &private, smoke, needs, &ready).map_err(lost)?;
            let serving = serving_of(&ready, member.service.name());
            return Ok(Prepared { member, private, spec, ready, conversation: None, serving });
        }
        let (mut conversation, serving) = self.begin(&member, &ready).map_err(lost)?;
        let checked = self.checked(&member, &private, smoke, needs, &ready).and_then(|spec| {
            self.fetch(&mut conversation, &mut ready)?;
            ready.has_room()?;
            Ok(spec)
        });
        match checked {
            Ok(spec) => {
                let conversation = Some(Mutex::new(conversation));
                Ok(Prepared { member, private, spec, ready, conversation, serving })
            }
            Err(error) => {
                conversation.give_up(Status::Failed, &error);
                Err(Failed { host: name, error, on_host: true })
            }
        }
    }

    fn checked(
        &self,
        member: &Member,
        private: &Private,
        smoke: Option<Value>,
        needs: Needs,
        ready: &Ready,
    ) -> Result<Spec> {
        let spec = member.spec(&ready.facts.gpus, private, smoke)?;
        let needs = Needs {
            gpus: spec.slots.iter().flatten().cloned().collect(),
            system: self.record.requires.system.clone(),
            cuda: self.record.requires.cuda.map(|major| major.to_string()),
            glibc: self.record.requires.glibc,
            memory_bytes: spec.memory_bytes.unwrap_or(0) * u64::from(spec.instances),
            ..needs
        };
        copy::refuse(member.name(), &preflight::check(&ready.facts, &needs))?;
        Ok(spec)
    }

    fn attempt(&self, member: &Member) -> Attempt {
        Attempt {
            version: 0,
            attempt: 0,
            service: member.service.name().into(),
            deployment: self.id.clone(),
            kind: What::Deploy,
            by: self.by.clone(),
            snapshot: Some(self.record.snapshot.clone()),
            label: self.record.label.clone(),
            hosts: self.hosts.clone(),
            began: clock::now_ms(),
        }
    }

    fn begin(&self, member: &Member, ready: &Ready) -> Result<(Box<Conversation>, Option<Serving>)> {
        let (channel, last_words) = ready.remote.channel(&[&self.load.agent.program, "order"])?;
        match Conversation::begin(channel, last_words, &self.attempt(member))? {
            Begun::Held(conversation, serving) => Ok((conversation, serving)),
            Begun::Busy(holder) => Err(super::rollout_run::busy(member.name(), &holder)),
        }
    }

    /// What a binary cache has need not go over this workstation's line.
    fn fetch(&self, conversation: &mut Conversation, ready: &mut Ready) -> Result<()> {
        let ship = &self.settings.config.ship;
        let Some(url) = ship.cache.as_ref().filter(|_| !ready.missing.paths.is_empty()) else {
            return Ok(());
        };
        conversation.fetch(url, &ship.cache_public_keys, &self.record.snapshot)?;
        ready.ask_again(&self.load)
    }

    fn show(&self, prepared: &[Prepared], failed: &[Failed], printer: &Printer) {
        for host in prepared {
            let from = host
                .serving
                .as_ref()
                .map_or("first deployment".into(), |s| format!("from generation {}", s.generation));
            let slots = match host.spec.slots.iter().flatten().count() {
                0 => "CPU".to_string(),
                _ => host
                    .spec
                    .slots
                    .iter()
                    .take(host.spec.instances as usize)
                    .map(|g| format!("GPU {}", g.join("+")))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            printer.line(format!(
                "  {}  {from}; {} of {} paths to copy, {}; {} on {slots}, {}:{}, {}",
                host.member.name(),
                host.ready.missing.paths.len(),
                self.load.closure.len(),
                bytes(host.ready.missing_bytes),
                if host.spec.instances == 1 {
                    "1 instance".into()
                } else {
                    format!("{} instances", host.spec.instances)
                },
                host.spec.listen,
                host.spec.port,
                match host.spec.rotation {
                    Rotation::Surge => "new beside old",
                    Rotation::Replace => "old stops first",
                }
            ));
            let changes = self.changes(host.serving.as_ref());
            for line in &changes {
                printer.line(format!("    {}", plain(line)));
            }
            printer.event(&json!({"type": "plan", "host": host.member.name(), "serving": host.serving,
                "missing_paths": host.ready.missing.paths.len(), "missing_bytes": host.ready.missing_bytes,
                "paths": self.load.closure.len(), "spec": host.spec, "changes": changes}));
        }
        for failed in failed {
            printer.event(
                &json!({"type": "unavailable", "host": failed.host, "error": error_value(&failed.error)}),
            );
            if !printer.json {
                printer.error(&failed.error);
            }
        }
    }

    /// What changes against what a host serves, where that was taken here too.
    fn changes(&self, serving: Option<&Serving>) -> Vec<String> {
        let Some(serving) = serving else { return Vec::new() };
        if serving.snapshot == self.record.snapshot {
            return vec!["the same snapshot".into()];
        }
        let registry = Registry::new(&self.settings.state);
        let Ok(old) = registry.find(Some(&serving.snapshot)) else {
            return vec![format!("instead of {}, which was not taken here", serving.snapshot)];
        };
        let (Ok(a), Ok(b)) = (registry.lock(&old), registry.lock(&self.record)) else { return Vec::new() };
        let diff = diff::diff(&a, &b, (old.probe.as_ref(), self.record.probe.as_ref()));
        let groups = [
            ("main program", diff.main.iter().collect::<Vec<_>>()),
            ("Python", diff.runtime.iter().collect()),
            ("pack", diff.packs.iter().collect()),
            ("distribution", diff.distributions.iter().collect()),
            ("cache", diff.cache.iter().collect()),
        ];
        let line = |what: &str, change: &diff::Change| {
            let mut sides: Vec<&str> =
                [&change.old, &change.new].into_iter().flatten().map(String::as_str).collect();
            sides.dedup();
            format!("{} {what} {} ({})", change.what, change.name, sides.join(" -> "))
        };
        let mut lines: Vec<String> =
            groups.iter().flat_map(|(what, changes)| changes.iter().map(move |c| line(what, c))).collect();
        if lines.len() > 8 {
            let more = lines.len() - 7;
            lines.truncate(7);
            lines.push(format!(
                "and {more} more changes: stillframe snapshots diff {} {}",
                old.id, self.record.id
            ));
        }
        lines
    }

    fn copy(&self, mut host: Prepared, printer: &Printer) -> Result<Prepared, Failed> {
        let name = host.member.name().to_string();
        let Some(conversation) = &host.conversation else { return Ok(host) };
        let progress = HostProgress {
            printer: printer.progress().as_ref(),
            conversation,
            total: host.ready.missing_bytes,
            done: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
        };
        let check = || {
            check_interrupt()?;
            lock(conversation).still_ours()
        };
        match host.ready.send(&self.load, &progress, &check) {
            Ok(sent) => {
                if sent.paths > 0 {
                    progress.tell(&format!("copied {} paths", sent.paths), sent.nar_bytes);
                }
                printer.event(&json!({"type": "copied", "host": name, "sent": sent}));
                if sent.paths > 0 {
                    let text = format!(
                        "{name}: copied {} paths, {} ({} over the network) in {:.1} s",
                        sent.paths,
                        bytes(sent.nar_bytes),
                        bytes(sent.wire_bytes),
                        sent.seconds
                    );
                    printer.progress().note(&text);
                }
                Ok(host)
            }
            Err(error) => {
                // A stop that the host asked for is recorded there already.
                let status = if error.kind == Kind::Interrupted { Status::Cancelled } else { Status::Failed };
                Err(Failed { host: name, ..host.give_up(status, &error).with(error) })
            }
        }
    }

    fn rolled(&self, host: Prepared) -> Host {
        let wanted = Wanted {
            snapshot: self.record.snapshot.clone(),
            agent: self.load.agent.path.to_absolute(&self.load.source.store_dir),
            launch: self.record.service.clone(),
            classes: self.classes(&host.member),
            spec: host.spec,
        };
        let order =
            Order::Activate { wanted: Box::new(wanted), secrets: host.private.secrets, again: self.again };
        let conversation = host.conversation.and_then(|c| c.into_inner().ok());
        Host { name: host.member.name().into(), conversation, order, _kept: host.ready }
    }

    /// The node classes of the environment's own server, where `--probe` found them.
    fn classes(&self, member: &Member) -> BTreeMap<String, String> {
        match &self.record.probe {
            Some(probe) if member.service.health.classes != Some(false) => probe.classes.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Writes down what came of it, and says it in one line a host.
    fn end(
        &self,
        mut deployment: Deployment,
        results: Vec<HostResult>,
        failed: Vec<Failed>,
        started: Instant,
        printer: &Printer,
    ) -> Result<ExitCode> {
        deployment.hosts = results;
        deployment.hosts.extend(failed.iter().map(|f| HostResult {
            host: f.host.clone(),
            status: if f.error.kind == Kind::Interrupted { Status::Cancelled } else { Status::Failed },
            generation: None,
            error: Some(f.error.message.clone()),
            hint: f.error.hint.clone(),
            on_host: f.on_host,
        }));
        let registry = Registry::new(&self.settings.state);
        let service = self.settings.config.service.name();
        for host in deployment.hosts.iter().filter(|h| h.status == Status::Succeeded) {
            registry.note_served(&host.host, service, Some(&self.record.snapshot))?;
        }
        super::rollout_run::end(deployment, &self.settings, started, printer)
    }
}

impl Prepared {
    fn give_up(self, status: Status, error: &Error) -> Failed {
        let mut on_host = false;
        if let Some(conversation) = self.conversation {
            let mut conversation = conversation.into_inner().unwrap_or_else(|e| e.into_inner());
            conversation.give_up(status, error);
            on_host = true;
        }
        let again = Error {
            kind: error.kind,
            message: format!("{}: {}", self.member.name(), error.message),
            hint: error.hint.clone(),
            source: None,
        };
        Failed { host: self.member.name().into(), error: again, on_host }
    }
}

impl Failed {
    fn with(self, error: Error) -> Failed {
        Failed { error, ..self }
    }
}

/// In a dry run there is no conversation: the public port tells whether the service is there.
fn serving_of(ready: &Ready, service: &str) -> Option<Serving> {
    let port = *ready.facts.serves.get(service)?;
    let view = crate::ship::ask::ask::<crate::run::overview::HostView>(
        &ready.remote,
        &["status", service],
        Duration::from_secs(20),
    )
    .ok()?;
    let service = view.services.into_iter().next()?;
    let generation = service.serving?;
    let snapshot = service.generations.into_iter().find(|g| g.generation == generation)?.snapshot;
    Some(Serving { generation, snapshot, port })
}

fn code(failed: &[Failed]) -> ExitCode {
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn lock(conversation: &Mutex<Box<Conversation>>) -> std::sync::MutexGuard<'_, Box<Conversation>> {
    conversation.lock().unwrap_or_else(|e| e.into_inner())
}

/// Passes progress on to the terminal, and now and then to the host's record.
struct HostProgress<'a> {
    printer: &'a dyn Progress,
    conversation: &'a Mutex<Box<Conversation>>,
    total: u64,
    done: AtomicU64,
    told: Mutex<Instant>,
}

const TELL_EVERY: Duration = Duration::from_secs(1);

impl HostProgress<'_> {
    fn tell(&self, text: &str, done: u64) {
        // A connection that is gone is noticed by the transfer itself.
        let _ = lock(self.conversation)
            .say(&Order::Copying { text: text.into(), bytes: Some((done, self.total)) });
    }
}

impl Progress for HostProgress<'_> {
    fn stage(&self, name: &str, total: Option<u64>) {
        self.printer.stage(name, total);
    }

    fn advance(&self, amount: u64) {
        self.printer.advance(amount);
        let done = self.done.fetch_add(amount, Ordering::Relaxed) + amount;
        let mut told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        if told.elapsed() > TELL_EVERY {
            *told = Instant::now();
            drop(told);
            self.tell("copying", done);
        }
    }

    fn note(&self, text: &str) {
        self.printer.note(text);
    }
}
