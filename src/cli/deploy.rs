//! `stillframe deploy`: a snapshot to its hosts: looked at, copied to side by side, activated in stages.
use super::deploy_host::{Failed, Plan, Prepared};
use super::deployments::{self, Deployment, HostResult};
use super::fleet::{self, Member, Private, Selection, on_each};
use super::printer::{Printer, plain};
use super::rollout_run::{Host, Rollout};
use super::settings::Settings;
use super::snapshot::{How, take};
use crate::closure::registry::Registry;
use crate::protocol::messages::{AttemptKind, Order, Status};
use crate::protocol::spec::{Rotation, Wanted};
use crate::ship::copy::Load;
use crate::ship::rollout::allowed;
use crate::store::StoreConfig;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, check_interrupt};
use crate::sys::signals;
use crate::sys::who;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, Default, clap::Args)]
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

/// The first one: with the node classes that later ones are measured by.
pub fn first(config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let how = How { probe: true, ..How::default() };
    run(&Args { how, ..Args::default() }, config, printer)
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
            member.service.check().map_err(|wrong| member.located(wrong))?;
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
        by: who::me(),
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
        let mut deployment = Deployment::new(&self.id, AttemptKind::Deploy, config.service.name(), &self.by);
        deployment.snapshot = Some(self.record.snapshot.clone());
        deployment.label = self.record.label.clone();
        if !self.dry_run {
            deployment.save(&self.settings.state)?;
        }
        let ready = match members.as_slice() {
            [one] => format!("getting {} ready", one.0.name()),
            all => format!("getting {} hosts ready", all.len()),
        };
        printer.progress().stage(&ready, Amount::Unknown);
        let (mut copied, mut failed) = (Vec::new(), Vec::new());
        // Each goes its way: one that does not answer holds no other back before the traffic is to move.
        for way in on_each(members, |(member, private, smoke)| self.way(member, private, smoke, printer)) {
            match way {
                Ok(host) => copied.push(host),
                Err(e) => failed.push(e),
            }
        }
        if self.dry_run {
            printer.event(&json!({"type": "result", "dry_run": true, "failed": failed.len()}));
            return Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let limit = allowed(&config.rollout, self.hosts.len());
        let stop = match check_interrupt() {
            Err(e) => Some(e),
            Ok(()) if failed.len() > limit => Some(Error::new(
                Kind::Host,
                format!(
                    "{} of {} hosts cannot be deployed to; at most {limit} may be missing ([rollout] max-unavailable)",
                    failed.len(),
                    self.hosts.len()
                ),
            )),
            Ok(()) => None,
        };
        if let Some(error) = stop {
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
