//! What a host has and lacks for its service, as far as that is described yet. Changes nothing.
use crate::deploy::events::{Event, Observer};
use crate::deploy::fleet::{Checked, Member, on_each};
use crate::deploy::questions;
use crate::deploy::stages;
use crate::protocol::integrity::{Integrity, WrongPath};
use crate::ship::config::RolloutConfig;
use crate::ship::copy;
use crate::ship::nix_settings;
use crate::ship::preflight::{self, Facts, Needs, Problem};
use crate::sys::error::{Error, Result};
use crate::sys::progress::check_interrupt;

/// What a host says of itself, and what is wrong with it.
pub struct Look {
    pub facts: Facts,
    pub problems: Vec<Problem>,
    /// What is not safe, and stops no deployment.
    pub notes: Vec<Problem>,
    /// Of the files that it serves from, if they were asked for.
    pub integrity: Option<Integrity>,
}

/// `deep`: also whether the files of what serves are what they must be. Every one is read.
pub fn look(member: &Member, deep: bool) -> Result<Look> {
    let needs = member.needs(member.smoke()?.as_ref());
    let (facts, settings) = copy::look(&member.host.target, &needs)?;
    let notes = settings.iter().flat_map(nix_settings::notes).collect();
    let mut problems = problems(member, &facts, &needs);
    // Without an agent nothing was ever served, and one that does not run is a problem already.
    let can_tell = facts.prepared && facts.broken_agent.is_none();
    let integrity = if deep && can_tell { Some(questions::verify(member)?) } else { None };
    problems.extend(integrity.iter().flat_map(|found| &found.wrong).map(|w| wrong(member.name(), w)));
    Ok(Look { facts, problems, notes, integrity })
}

/// Before the environment is captured, which takes minutes: whether enough hosts can be deployed to. What depends on the
/// snapshot is asked later, and all of this once more.
pub fn ahead(hosts: &[Checked], rollout: &RolloutConfig, observer: &dyn Observer) -> Result<()> {
    let looked = on_each(hosts.iter().collect(), |host: &Checked| (host.member.name(), refused(host)));
    check_interrupt()?;
    let failed: Vec<(&str, Error)> =
        looked.into_iter().filter_map(|(name, looked)| Some((name, looked.err()?))).collect();
    match failed.as_slice() {
        [(_, error)] if hosts.len() == 1 => return Err(error.clone()),
        _ => failed.iter().for_each(|(host, error)| {
            observer.event(&Event::Unavailable { host: host.to_string(), error: error.report() });
        }),
    }
    stages::enough(rollout, failed.len(), hosts.len()).map_err(|error| {
        error.hint("nothing was captured: mend these hosts, or name the others with --hosts")
    })
}

/// What a deployment would refuse this host for, or why it cannot be asked.
fn refused(host: &Checked) -> Result<()> {
    let Checked { member, private, smoke } = host;
    let needs = member.needs(smoke.as_ref());
    // An agent that does not run is replaced by a deployment.
    let facts = Facts { broken_agent: None, ..copy::facts(&member.host.target, &needs)? };
    // A mistake in the configuration for this host's GPUs.
    member.spec(&facts.gpus, private, smoke.clone())?;
    copy::refuse(member.name(), &problems(member, &facts, &needs))
}

fn wrong(host: &str, wrong: &WrongPath) -> Problem {
    let WrongPath { path, what, services } = wrong;
    let (of, hint) = if services.is_empty() {
        ("the agent".to_string(), format!("bring it again: stillframe host prepare {host}"))
    } else {
        let again =
            "bring it again and start the instances anew: stillframe deploy --again --snapshot ID --hosts";
        (services.join(", "), format!("{again} {host}"))
    };
    Problem { what: format!("{path} (of {of}) {what}"), hint, mended_by_prepare: services.is_empty() }
}

fn problems(member: &Member, facts: &Facts, needs: &Needs) -> Vec<Problem> {
    let needs = match member.service.spec(&facts.gpus, Vec::new(), None) {
        Ok(spec) => Needs {
            gpus: spec.slots.iter().flatten().cloned().collect(),
            memory_bytes: spec.memory_bytes.unwrap_or(0) * u64::from(spec.maximum),
            ..needs.clone()
        },
        Err(_) => Needs { prepared: true, ..Needs::default() },
    };
    preflight::check(facts, &needs)
}
