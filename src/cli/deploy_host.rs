//! One host's way through a deployment, up to its activation: arrive, bring the agent, take the lease, check,
//! show what is about to happen, copy.
use super::fleet::{Member, Private, error_value};
use super::printer::{Printer, bytes, plain};
use super::settings::Settings;
use crate::closure::diff;
use crate::closure::registry::{Record, Registry};
use crate::protocol::launch::Launch;
use crate::protocol::messages::{Attempt, AttemptKind, Order, Serving, Status};
use crate::protocol::overview::HostView;
use crate::protocol::spec::{Rotation, Spec};
use crate::ship::ask;
use crate::ship::conversation::{Begun, Conversation};
use crate::ship::copy::{self, Load, Ready};
use crate::ship::preflight::{self, Needs};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, Progress, check_interrupt};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What goes to the hosts.
pub struct Plan {
    pub settings: Settings,
    pub record: Record,
    pub load: Load,
    pub id: String,
    pub by: String,
    pub again: bool,
    pub dry_run: bool,
    pub hosts: Vec<String>,
}

/// A host before its activation.
pub struct Prepared {
    pub member: Member,
    pub private: Private,
    pub spec: Spec,
    pub ready: Ready,
    /// None in a dry run.
    pub conversation: Option<Mutex<Box<Conversation>>>,
    pub serving: Option<Serving>,
}

pub struct Failed {
    pub host: String,
    pub error: Error,
    /// The host has a record of it.
    pub on_host: bool,
}

impl Plan {
    /// A host's way up to its activation: looked at, held, shown, copied to.
    pub fn way(
        &self,
        member: Member,
        private: Private,
        smoke: Option<Value>,
        printer: &Printer,
    ) -> Result<Prepared, Failed> {
        let gone = self.prepare(member, private, smoke).and_then(|host| {
            self.show(&host, printer);
            self.copy(host, printer)
        });
        // Named at once, whatever the others are about.
        gone.inspect_err(|failed| {
            printer.event(
                &json!({"type": "unavailable", "host": failed.host, "error": error_value(&failed.error)}),
            );
            if !printer.json {
                printer.error(&failed.error);
            }
        })
    }

    /// Arrives, looks, brings the agent, takes the lease, checks.
    fn prepare(&self, member: Member, private: Private, smoke: Option<Value>) -> Result<Prepared, Failed> {
        let name = member.name().to_string();
        let lost = |error| Failed { host: name.clone(), error, on_host: false };
        let needs = member.needs(smoke.as_ref());
        let arrived = copy::arrive(&member.host.target, &needs, &self.load).map_err(lost)?;
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
            kind: AttemptKind::Deploy,
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

    /// What is about to happen on a host.
    fn show(&self, host: &Prepared, printer: &Printer) {
        let (name, spec) = (host.member.name(), &host.spec);
        let from = match &host.serving {
            Some(serving) => format!("from generation {}", serving.generation),
            None => "first deployment".into(),
        };
        let count = spec.instances as usize;
        let slots: Vec<String> = spec.slots.iter().take(count).map(|gpus| gpus.join("+")).collect();
        let place = if slots.iter().all(String::is_empty) {
            "CPU".into()
        } else {
            format!("GPU {}", slots.join(", "))
        };
        let rotation = match spec.rotation {
            Rotation::Surge => "new beside old",
            Rotation::Replace => "old stops first",
        };
        let changes = self.changes(host.serving.as_ref());
        let mut text = format!(
            "  {name}  {from}; {} of {} paths to copy, {}; {count} instance{} on {place}, {}:{}, {rotation}",
            host.ready.missing.paths.len(),
            self.load.closure.len(),
            bytes(host.ready.missing_bytes),
            if count == 1 { "" } else { "s" },
            spec.listen,
            spec.port,
        );
        for change in &changes {
            text.push_str(&format!("\n    {}", plain(change)));
        }
        // In one piece: other hosts speak too.
        printer.line(text);
        printer.event(&json!({"type": "plan", "host": name, "serving": host.serving,
            "missing_paths": host.ready.missing.paths.len(), "missing_bytes": host.ready.missing_bytes,
            "paths": self.load.closure.len(), "spec": spec, "changes": changes}));
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
        // Both are in this workstation's store, unless that has another place: then nothing is said of it.
        let launch = |record: &Record| Launch::read(&record.launch_file()).ok();
        let starts = launch(&old).zip(launch(&self.record));
        let starts = starts.as_ref().map(|(old, new)| (old, new));
        let diff = diff::diff(&a, &b, starts, (old.probe.as_ref(), self.record.probe.as_ref()));
        let groups = [
            ("main program", diff.main.iter().collect::<Vec<_>>()),
            ("Python", diff.runtime.iter().collect()),
            ("pack", diff.packs.iter().collect()),
            ("distribution", diff.distributions.iter().collect()),
            ("cache", diff.cache.iter().collect()),
            ("folder outside", diff.sources.iter().collect()),
            ("", diff.unowned.iter().collect()),
            ("service's", diff.service.iter().collect()),
        ];
        let line = |what: &str, change: &diff::Change| {
            let mut sides: Vec<&str> =
                [&change.old, &change.new].into_iter().flatten().map(String::as_str).collect();
            sides.dedup();
            let what = if what.is_empty() { String::new() } else { format!("{what} ") };
            format!("{} {what}{} ({})", change.what, change.name, sides.join(" -> "))
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
        if self.hosts.len() > 1 && host.ready.missing_bytes > 0 {
            printer.progress().note(&format!("{name}: copying {}", bytes(host.ready.missing_bytes)));
        }
        let progress = HostProgress {
            printer: printer.progress().beside(&format!("copying to {name}"), host.ready.missing_bytes),
            conversation,
            total: host.ready.missing_bytes,
            done: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
        };
        let check = || {
            check_interrupt()?;
            Ok(lock(conversation).still_ours()?)
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
}

impl Prepared {
    pub fn give_up(self, status: Status, error: &Error) -> Failed {
        let mut on_host = false;
        if let Some(conversation) = self.conversation {
            let mut conversation = conversation.into_inner().unwrap_or_else(|e| e.into_inner());
            conversation.give_up(status, error);
            on_host = true;
        }
        let again = error.clone().within(self.member.name());
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
    let view = ask::ask::<HostView>(&ready.remote, &["status", service], Duration::from_secs(20)).ok()?;
    let service = view.services.into_iter().next()?;
    let generation = service.serving?;
    let snapshot = service.generations.into_iter().find(|g| g.generation == generation)?.snapshot;
    Some(Serving { generation, snapshot, port })
}

fn lock(conversation: &Mutex<Box<Conversation>>) -> std::sync::MutexGuard<'_, Box<Conversation>> {
    conversation.lock().unwrap_or_else(|e| e.into_inner())
}

/// Passes progress on to the terminal, and now and then to the host's record.
struct HostProgress<'a> {
    printer: Box<dyn Progress>,
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
    fn stage(&self, name: &str, of: Amount) {
        self.printer.stage(name, of);
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

    fn beside(&self, name: &str, bytes: u64) -> Box<dyn Progress> {
        self.printer.beside(name, bytes)
    }
}
