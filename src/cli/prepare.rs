//! `stillframe host prepare`: what a host needs once, shown, agreed to, done.
use super::agree;
use super::documents::{Answer, Prepared};
use super::exit;
use super::fleet;
use super::printer::Printer;
use super::settings::Settings;
use crate::deploy::fleet::Member;
use crate::deploy::prepare::{self, Found, Step};
use crate::ship::copy::Load;
use crate::sys::error::{Error, Result};
use crate::sys::signals;
use std::process::ExitCode;

fn text(step: Step) -> &'static str {
    match step {
        Step::Nix => "install Nix with apt: nix-bin, nix-setup-systemd; start its daemon",
        Step::Agent => {
            "put stillframe-agent into the Nix store; link /var/lib/stillframe/agent to it, as a root of Nix"
        }
        Step::BootService => {
            "make /var/lib/stillframe; write and enable /etc/systemd/system/stillframe.service, which brings the \
             services back at boot"
        }
    }
}

pub fn run(settings: &Settings, members: &[Member], yes: bool, printer: &Printer) -> Result<ExitCode> {
    signals::heed()?;
    let source = settings.store();
    let load = Load::agent(&source)?;
    let mut to_do: Vec<(&Member, Found)> = Vec::new();
    let mut values = Vec::new();
    for (member, found) in members.iter().zip(prepare::look(members, &load)) {
        match found {
            Ok(found) => {
                show(member, &found, printer);
                to_do.push((member, found));
            }
            Err(e) => values.push(lost(member, &e, printer)),
        }
    }
    if !yes && to_do.iter().any(|(_, found)| !found.steps.is_empty()) {
        agree::ask("stillframe host prepare --yes", printer)?;
    }
    let mut failed = values.len();
    for (member, done) in prepare::carry_out(to_do, &load) {
        match done {
            Ok(steps) => {
                if !steps.is_empty() {
                    printer.line(format!("{} is prepared", member.name()));
                }
                values.push(Answer::said(member.name(), Prepared { done: steps }));
            }
            Err(e) => {
                failed += 1;
                values.push(lost(member, &e, printer));
            }
        }
    }
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}

fn show(member: &Member, found: &Found, printer: &Printer) {
    printer.line(printer.bold(member.name()));
    if found.steps.is_empty() {
        printer.line("  is prepared: nothing to do");
    }
    found.steps.iter().for_each(|step| printer.line(format!("  {}", text(*step))));
}

fn lost(member: &Member, e: &Error, printer: &Printer) -> Answer<Prepared> {
    printer.error_text(e);
    Answer::lost(member.name(), e)
}
