//! `stillframe host drain`, `return` and `retire`: a whole host, whatever projects it serves.
use super::agree;
use super::documents::{DrainedHost, Retired};
use super::events::event_text;
use super::exit;
use super::fleet;
use super::printer::{Printer, lines, plain};
use crate::deploy::events::{Event, Observer};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::maintenance::{self, Drained};
use crate::deploy::{questions, records};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::Progress;
use crate::sys::signals;
use crate::sys::who;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  stillframe host drain gpu-1                       before its driver, kernel or hardware changes
  stillframe host return gpu-1                      afterwards

All services of the host, of whatever project, finish what they have and stop, and stay so through a start of the host. Until it
returns, deployments to it are refused; other hosts go on.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names, globs, @tags, !exclusions.
    #[arg(value_name = "SELECTOR", required = true)]
    pub hosts: Vec<String>,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

/// Steps as lines; with --json the document at the end has all.
pub struct Steps<'a>(pub &'a Printer);

impl Observer for Steps<'_> {
    fn event(&self, event: &Event) {
        if let Event::Event { host, event } = event
            && event.outcome.is_none()
        {
            self.0.progress().note(&format!("{host}  {:9}  {}", event.status, event_text(event)));
        }
    }

    fn copying(&self, host: &str, bytes: u64) -> Box<dyn Progress> {
        self.0.progress().beside(&format!("copying to {host}"), bytes)
    }
}

pub fn drain(members: &[Member], yes: bool, printer: &Printer) -> Result<ExitCode> {
    signals::heed()?;
    let mut lost = 0;
    for (member, view) in members.iter().zip(on_each(members.iter().collect(), questions::whole_host)) {
        match view {
            Ok(view) => {
                let serves = view.services.iter().filter_map(|service| {
                    Some(format!("{} (generation {})", service.service, service.serving?))
                });
                let serves: Vec<String> = serves.collect();
                let what = if serves.is_empty() {
                    "nothing serves there".into()
                } else {
                    format!("stops {}", serves.join(", "))
                };
                printer.line(format!(
                    "{}  {what}; nothing is deployed there until: stillframe host return {}",
                    printer.bold(member.name()),
                    member.name()
                ));
            }
            Err(e) => {
                lost += 1;
                printer.error_text(&e);
            }
        }
    }
    if lost > 0 {
        return Err(Error::new(Kind::Host, "nothing was done").hint("name the hosts that answer"));
    }
    if !yes {
        agree::ask("stillframe host drain --yes NAME", printer)?;
    }
    carry_out(members, printer, &maintenance::drain, |member, done| match done.failed() {
        0 => format!("{member} is under maintenance"),
        failed => format!("{member} is under maintenance, but {failed} of its services serve on"),
    })
}

pub fn bring_back(members: &[Member], printer: &Printer) -> Result<ExitCode> {
    signals::heed()?;
    carry_out(members, printer, &maintenance::bring_back, |member, done| match &done.maintenance {
        None => format!("{member} is not under maintenance"),
        Some(_) => format!("{member} stays under maintenance: run this again"),
    })
}

type Work<'a> = &'a (dyn Fn(&Member, &str, &str, &dyn Observer) -> Result<Drained> + Sync);

fn carry_out(
    members: &[Member],
    printer: &Printer,
    work: Work,
    last: impl Fn(&str, &Drained) -> String,
) -> Result<ExitCode> {
    let (id, by, steps) = (records::new_id(), who::me(), Steps(printer));
    let mut unwell = 0;
    let ask = |member: &Member| work(member, &id, &by, &steps);
    let (values, failed) = fleet::each_says(members, printer, ask, |member, done| {
        unwell += usize::from(done.failed() > 0);
        for one in &done.services {
            let said = one.result.error.as_deref().map(|e| format!(": {}", lines(e))).unwrap_or_default();
            printer.line(format!("{}  {}  {}{said}", member.name(), plain(&one.service), one.result.status));
        }
        printer.line(last(member.name(), done));
        DrainedHost { done: done.clone() }
    });
    fleet::document(values, failed + unwell, printer);
    Ok(exit::code(failed + unwell))
}

pub fn retire(members: &[Member], yes: bool, printer: &Printer) -> Result<ExitCode> {
    signals::heed()?;
    for member in members {
        printer.line(printer.bold(member.name()));
        printer.line("  stop, disable and remove /etc/systemd/system/stillframe.service");
        printer.line("  remove /var/lib/stillframe and the agent's root of Nix; Nix itself stays");
    }
    if !yes {
        agree::ask("stillframe host retire --yes NAME", printer)?;
    }
    let (values, failed) = fleet::each_says(members, printer, questions::uninstall, |member, ()| {
        printer.line(format!("{} has nothing of stillframe any more", member.name()));
        Retired { retired: true }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}
