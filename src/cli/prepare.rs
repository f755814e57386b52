//! `stillframe host prepare`: what a host needs once, shown, agreed to, done.
use super::fleet::{Member, on_each};
use super::printer::Printer;
use super::settings::Settings;
use crate::ship::copy::{self, Arrived, Load};
use crate::ship::preflight::{self, Needs};
use crate::store::StoreConfig;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::signals;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Packages come from the host's own mirrors.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);
const LIMIT: Duration = Duration::from_secs(120);

/// Nix of the distribution, with its daemon.
const INSTALL_NIX: &str = "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; \
    apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends nix-bin nix-setup-systemd && \
    systemctl enable --quiet --now nix-daemon.socket";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nix,
    Agent,
    Boot,
}

impl Step {
    fn text(self) -> &'static str {
        match self {
            Step::Nix => "install Nix with apt: nix-bin, nix-setup-systemd; start its daemon",
            Step::Agent => {
                "put stillframe-agent into the Nix store; link /var/lib/stillframe/agent to it, as a root of Nix"
            }
            Step::Boot => {
                "make /var/lib/stillframe; write and enable /etc/systemd/system/stillframe.service, which brings the \
                 services back at boot"
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Step::Nix => "nix",
            Step::Agent => "agent",
            Step::Boot => "boot-service",
        }
    }
}

fn is_debian(arrived: &Arrived) -> bool {
    arrived.remote.run(&["sh", "-c", "command -v apt-get"], &[], LIMIT).is_ok_and(|o| o.code == 0)
}

/// What is to be done on a host; and what stops it.
fn plan(arrived: &Arrived, needs: &Needs) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut facts = arrived.facts.clone();
    if facts.nix.is_none() && is_debian(arrived) {
        steps.push(Step::Nix);
        facts.nix = Some("99.0".into());
        facts.daemon = Some(String::new());
    }
    copy::refuse(&arrived.remote.name, &preflight::check(&facts, needs))?;
    if !facts.prepared {
        steps.extend([Step::Agent, Step::Boot]);
    }
    Ok(steps)
}

pub fn run(settings: &Settings, members: &[Member], yes: bool, printer: &Printer) -> Result<ExitCode> {
    signals::heed()?;
    let source = StoreConfig::from_environment(settings.config.store.remote.as_deref());
    let load = Load::agent(&source)?;
    let needs = Needs { system: format!("{}-linux", std::env::consts::ARCH), ..Needs::default() };
    let looked = on_each(members.iter().collect(), |member: &Member| {
        let arrived = copy::arrive(&member.host.target, &needs, &load)?;
        let steps = plan(&arrived, &needs)?;
        Ok((member, arrived, steps))
    });
    let (mut to_do, mut failed) = (Vec::new(), Vec::new());
    for (member, found) in members.iter().zip(looked) {
        match found {
            Ok((member, arrived, steps)) => {
                printer.line(printer.bold(member.name()));
                if steps.is_empty() {
                    printer.line("  is prepared: nothing to do");
                }
                steps.iter().for_each(|step| printer.line(format!("  {}", step.text())));
                to_do.push((member.clone(), arrived, steps));
            }
            Err(e) => {
                if !printer.json {
                    printer.error(&e);
                }
                failed.push(json!({"host": member.name(), "error": super::fleet::error_value(&e)}));
            }
        }
    }
    let work = to_do.iter().any(|(_, _, steps)| !steps.is_empty());
    if work && !yes {
        agree(printer)?;
    }
    let done = on_each(to_do, |(member, arrived, steps): (Member, Arrived, Vec<Step>)| {
        let names: Vec<&str> = steps.iter().map(|s| s.name()).collect();
        (member.clone(), carry_out(&member, arrived, &steps, &load).map(|()| names))
    });
    let mut values = failed;
    let mut count = values.len();
    for (member, result) in done {
        match result {
            Ok(steps) => {
                if !steps.is_empty() {
                    printer.line(format!("{} is prepared", member.name()));
                }
                values.push(json!({"host": member.name(), "done": steps}));
            }
            Err(e) => {
                count += 1;
                if !printer.json {
                    printer.error(&e);
                }
                values.push(json!({"host": member.name(), "error": super::fleet::error_value(&e)}));
            }
        }
    }
    printer.value(&json!({"version": 1, "hosts": values, "failed": count}));
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn agree(printer: &Printer) -> Result<()> {
    if printer.json || !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Input, "nothing was done: nobody can be asked here")
            .hint("say yes beforehand: stillframe host prepare --yes"));
    }
    eprint!("Do this? [y/N] ");
    // What is not seen is not agreed to.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| Error::io("read", "the answer", e))?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Error::new(Kind::Interrupted, "nothing was done").hint("run it again and answer y, or give --yes"))
}

fn carry_out(member: &Member, mut arrived: Arrived, steps: &[Step], load: &Load) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    if steps.contains(&Step::Nix) {
        arrived.remote.must(&["sh", "-c", INSTALL_NIX], &[], INSTALL_LIMIT)?;
        // Look again: what was installed may be too old, and where it is, is known only now.
        let needs = Needs { system: format!("{}-linux", std::env::consts::ARCH), ..Needs::default() };
        arrived = copy::arrive(&member.host.target, &needs, load)?;
    }
    arrived.can_have_agent(&format!("{}-linux", std::env::consts::ARCH))?;
    let ready = arrived.plan(load)?;
    ready.remote.must(&[&load.agent.program, "install"], &[], LIMIT).map(drop)
}
