//! One host's way through a deployment, up to its activation: arrive, bring the agent, take the lease, check,
//! say what is about to happen, copy.
use crate::closure::registry::{Record, Registry};
use crate::deploy::again::{Heard, Line};
use crate::deploy::changes::changes;
use crate::deploy::events::{Event, Observer, Planned};
use crate::deploy::fleet::{Checked, Member, Private};
use crate::deploy::questions;
use crate::deploy::rollout::{busy, steps};
use crate::formats::nix::store_path::StorePath;
use crate::protocol::messages::{Attempt, AttemptKind, Project, Serving, Status, Stopped};
use crate::protocol::overview::{GenerationView, ServiceView};
use crate::protocol::spec::Spec;
use crate::ship::config::{RolloutConfig, ShipConfig};
use crate::ship::conversation::{Begun, Conversation};
use crate::ship::copy::{self, Load, Ready};
use crate::ship::preflight::{self, Needs};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What is to be deployed: the same for all hosts.
pub struct Plan {
    pub record: Record,
    pub load: Load,
    /// The deployment's id.
    pub id: String,
    /// `user@workstation`.
    pub by: String,
    /// Even where exactly this serves already.
    pub again: bool,
    pub dry_run: bool,
    /// Whose service it is to be, and whether also where it is another project's.
    pub project: Project,
    pub take_over: bool,
    /// All hosts, by name.
    pub hosts: Vec<String>,
    pub service: String,
    pub rollout: RolloutConfig,
    pub ship: ShipConfig,
    /// The folder of this workstation's records.
    pub state: PathBuf,
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
    /// None does, because somebody stopped it.
    pub stopped: Option<Stopped>,
}

/// A host that is not deployed to.
pub struct Failed {
    pub host: String,
    pub error: Box<Error>,
    /// The host has a record of it.
    pub on_host: bool,
}

impl Plan {
    /// A host's way up to its activation: looked at, held, shown, copied to.
    pub fn way(&self, host: Checked, observer: &dyn Observer) -> Result<Prepared, Failed> {
        let gone = self.prepare(host, observer).and_then(|host| {
            observer.event(&Event::Plan(Box::new(self.planned(&host))));
            self.copy(host, observer)
        });
        // Named at once, whatever the others are about.
        gone.inspect_err(|failed| {
            let error = failed.error.report();
            observer.event(&Event::Unavailable { host: failed.host.clone(), error });
        })
    }

    /// Arrives, looks, brings the agent, takes the lease, checks.
    fn prepare(&self, host: Checked, observer: &dyn Observer) -> Result<Prepared, Failed> {
        let Checked { member, private, smoke } = host;
        let name = member.name().to_string();
        // What a Ctrl-C ended did not fail.
        let stopped = |error| check_interrupt().err().unwrap_or(error);
        let lost = |error| Failed { host: name.clone(), error: Box::new(stopped(error)), on_host: false };
        let needs = member.needs(smoke.as_ref());
        let arrived = copy::arrive(&member.host.target, &needs, &self.load).map_err(lost)?;
        let system = &self.record.requires.system;
        arrived.can_have_agent(system).map_err(lost)?;
        let mut ready = arrived.plan(&self.load).map_err(lost)?;
        if self.dry_run {
            let spec = self.fits(&member, &private, smoke, needs, &ready).map_err(lost)?;
            let (serving, stopped) = self.serving_of(&ready, &member).map_err(lost)?;
            return Ok(Prepared { member, private, spec, ready, conversation: None, serving, stopped });
        }
        let (mut conversation, serving) = self.begin(&member, &ready, observer).map_err(lost)?;
        let checked = self.fits(&member, &private, smoke, needs, &ready).and_then(|spec| {
            self.fetch(member.name(), &mut conversation, &mut ready)?;
            ready.has_room()?;
            Ok(spec)
        });
        match checked {
            Ok(spec) => {
                let stopped = conversation.stopped.clone();
                let conversation = Some(Mutex::new(conversation));
                Ok(Prepared { member, private, spec, ready, conversation, serving, stopped })
            }
            Err(error) => {
                let error = stopped(error);
                conversation.give_up(Status::of(&error), &error);
                Err(Failed { host: name, error: Box::new(error), on_host: true })
            }
        }
    }

    /// In a dry run there is no conversation: the host's agent says what serves there, for whom, or that it was stopped.
    fn serving_of(&self, ready: &Ready, member: &Member) -> Result<(Option<Serving>, Option<Stopped>)> {
        let service = member.service.name();
        // An agent that does not answer is for the deployment to mend.
        let view = questions::status(&ready.remote, service).ok();
        let view = view.and_then(|view| view.services.into_iter().next());
        let Some(ServiceView { serving, stopped, generations, .. }) = view else { return Ok((None, None)) };
        let current = serving.or(stopped.as_ref().map(|stopped| stopped.generation));
        let found = generations.into_iter().find(|g| Some(g.generation) == current);
        let Some(GenerationView { generation, snapshot, brought, .. }) = found else {
            return Ok((None, stopped));
        };
        let kept = brought
            .filter(|_| !self.take_over)
            .and_then(|b| b.project.keeps(&b.by, service, &self.project, &self.attempt(member)));
        if let Some(error) = kept {
            return Err(error.within(&ready.remote.name));
        }
        // The public port tells whether the service is there.
        let port = ready.facts.serves.get(service).filter(|_| stopped.is_none());
        Ok((port.map(|port| Serving { generation, snapshot, port: *port }), stopped))
    }

    /// What the host is to serve, and whether it has all that this needs.
    fn fits(
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
            memory_bytes: spec.memory_bytes.unwrap_or(0) * u64::from(spec.maximum),
            ..needs
        };
        copy::refuse(member.name(), &preflight::check(&ready.facts, &needs))?;
        Ok(spec)
    }

    fn attempt(&self, member: &Member) -> Attempt {
        let service = member.service.name();
        Attempt {
            snapshot: Some(self.record.snapshot.clone()),
            label: self.record.label.clone(),
            project: Some(self.project.clone()),
            take_over: self.take_over,
            ..Attempt::asked(&self.id, AttemptKind::Deploy, service, &self.by, &self.hosts)
        }
    }

    fn begin(
        &self,
        member: &Member,
        ready: &Ready,
        observer: &dyn Observer,
    ) -> Result<(Box<Conversation>, Option<Serving>)> {
        let begin = || {
            let (channel, last_words) = ready.remote.conversation(&[&self.load.agent.program, "order"])?;
            Ok::<_, Error>(Conversation::begin(channel, last_words, &self.attempt(member))?)
        };
        let mut begun = begin()?;
        if let Begun::Busy(holder) = &begun
            && holder.deployment == self.id
        {
            // A workstation that died had begun it: the host brings that to its end first.
            let name = member.name();
            if let Heard::Unknown(error) =
                self.line(member).hear(AttemptKind::Deploy, 0, &busy(name, holder), steps(name, observer))
            {
                return Err(error);
            }
            begun = begin()?;
        }
        match begun {
            Begun::Held(conversation, serving) => Ok((conversation, serving)),
            Begun::Busy(holder) => Err(busy(member.name(), &holder)),
        }
    }

    /// How to reach a host once more.
    pub(super) fn line(&self, member: &Member) -> Line {
        Line {
            target: member.host.target.clone(),
            service: member.service.name().into(),
            deployment: self.id.clone(),
            by: self.by.clone(),
            hosts: self.hosts.clone(),
        }
    }

    /// What a binary cache has need not go over this workstation's line.
    fn fetch(&self, host: &str, conversation: &mut Conversation, ready: &mut Ready) -> Result<()> {
        let Some(url) = self.ship.cache.as_ref().filter(|_| !ready.missing.paths.is_empty()) else {
            return Ok(());
        };
        let known = ready.missing.wrong.clone();
        conversation.fetch(url, &self.ship.cache_public_keys, &self.record.snapshot)?;
        ready.ask_again(&self.load)?;
        let lies: BTreeSet<StorePath> = ready.missing.wrong.difference(&known).cloned().collect();
        let Some(first) = lies.first() else { return Ok(()) };
        let more = if lies.len() > 1 { format!(" and {} more", lies.len() - 1) } else { String::new() };
        // Nothing refers to them yet, and nothing ever finds them there as they are.
        ready.send_these(&self.load, &lies)?;
        let text = format!("{host}: {url} gave {first}{more} with another content than this workstation's");
        Err(Error::new(Kind::Store, text).hint(
            "nothing of it was used: the host has the right files now; somebody changes what the cache sends, or it was filled \
             by hand: name its key ([ship] cache-public-keys), use https, or leave the cache out",
        ))
    }

    /// What is about to happen on a host.
    fn planned(&self, host: &Prepared) -> Planned {
        let registry = Registry::new(&self.state);
        Planned {
            host: host.member.name().into(),
            serving: host.serving.clone(),
            stopped: host.stopped.clone(),
            missing_paths: host.ready.missing.paths.len(),
            missing_bytes: host.ready.missing_bytes,
            wrong_paths: host.ready.missing.wrong.len(),
            paths: self.load.closure.len(),
            spec: host.spec.clone(),
            changes: changes(&registry, &self.record, host.serving.as_ref()),
        }
    }
}

impl Prepared {
    /// Lets go of a host before its activation; the host records why.
    pub fn give_up(self, status: Status, error: &Error) -> Failed {
        let host = self.member.name().to_string();
        let on_host = self.conversation.is_some();
        if let Some(conversation) = self.conversation {
            conversation.into_inner().give_up(status, error);
        }
        Failed { error: Box::new(error.clone().within(&host)), host, on_host }
    }
}
