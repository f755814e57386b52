//! What a host needs once before it can be deployed to, and doing it.
use crate::deploy::fleet::{Member, on_each};
use crate::ship::copy::{self, Arrived, Load};
use crate::ship::preflight::{self, Needs};
use crate::sys::error::Result;
use schemars::JsonSchema;
use serde::Serialize;
use std::time::Duration;

/// Packages come from the host's own mirrors.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);
const LIMIT: Duration = Duration::from_secs(120);

/// Nix of the distribution, with its daemon.
const INSTALL_NIX: &str = "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; \
    apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends nix-bin nix-setup-systemd && \
    systemctl enable --quiet --now nix-daemon.socket";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Nix, with its daemon.
    Nix,
    /// The agent, as a root of Nix.
    Agent,
    /// What brings the services back at boot.
    BootService,
}

/// A host that was looked at, and what is to be done there.
pub struct Found {
    pub steps: Vec<Step>,
    arrived: Arrived,
}

/// What every host must have, whatever it serves.
fn needs() -> Needs {
    Needs { system: format!("{}-linux", std::env::consts::ARCH), ..Needs::default() }
}

/// What is to be done on each host, or what stops it. Changes nothing.
pub fn look(members: &[Member], load: &Load) -> Vec<Result<Found>> {
    on_each(members.iter().collect(), |member: &Member| {
        let mut arrived = copy::arrive(&member.host.target, &needs(), load)?;
        Ok(Found { steps: steps(&mut arrived, load)?, arrived })
    })
}

fn steps(arrived: &mut Arrived, load: &Load) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut facts = arrived.facts.clone();
    if facts.nix.is_none() && is_debian(arrived) {
        steps.push(Step::Nix);
        facts.nix = Some("99.0".into());
        facts.daemon = Some(String::new());
    }
    copy::refuse(&arrived.remote.name, &preflight::check(&facts, &needs()))?;
    if !facts.prepared {
        steps.extend([Step::Agent, Step::BootService]);
    } else if facts.broken_agent.is_some() || arrived.has_wrong_agent(load)? {
        steps.push(Step::Agent);
    }
    Ok(steps)
}

fn is_debian(arrived: &Arrived) -> bool {
    arrived.remote.run(&["sh", "-c", "command -v apt-get"], &[], LIMIT).is_ok_and(|o| o.code == 0)
}

/// Does it; what was done on each host.
pub fn carry_out<'a>(found: Vec<(&'a Member, Found)>, load: &Load) -> Vec<(&'a Member, Result<Vec<Step>>)> {
    on_each(found, |(member, Found { steps, arrived })| {
        let done = on_host(member, arrived, &steps, load).map(|()| steps);
        (member, done)
    })
}

fn on_host(member: &Member, mut arrived: Arrived, steps: &[Step], load: &Load) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    if steps.contains(&Step::Nix) {
        arrived.remote.must(&["sh", "-c", INSTALL_NIX], &[], INSTALL_LIMIT)?;
        // Look again: what was installed may be too old, and where it is, is known only now.
        arrived = copy::arrive(&member.host.target, &needs(), load)?;
    }
    arrived.can_have_agent(&needs().system)?;
    let ready = arrived.plan(load)?;
    ready.remote.must(&[&load.agent.program, "install"], &[], LIMIT).map(drop)
}
