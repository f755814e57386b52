//! `stillframe attach`: the deployment under way (or the last one) on each host, from its first event.
use super::events::Shown;
use super::exit;
use super::fleet::{self, HostsArgs};
use super::printer::{Printer, lines};
use crate::deploy::events::{Attached, Ended, Event, Observer};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::questions::{self, Followed};
use crate::protocol::messages::Status;
use crate::sys::error::Result;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &HostsArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let shown = Shown::new(printer, members.len());
    let heard = on_each(members.iter().collect(), |member: &Member| {
        questions::follow(member, |event| {
            shown.event(&event);
            // What is not read any more is not waited for.
            if printer.output().is_gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    let (mut hosts, mut failed, mut unknown) = (Vec::new(), 0, false);
    for (member, heard) in members.iter().zip(heard) {
        let host = member.name().to_string();
        match heard {
            Ok(followed) => {
                let outcome = followed.outcome().cloned();
                unknown |= outcome.is_none();
                failed += usize::from(outcome.as_ref().is_none_or(|o| o.status != Status::Succeeded));
                printer.line(format!("{host}  {}", text(&followed, printer)));
                let attempt = Box::new(followed.attempt);
                hosts.push(Attached::Followed { host, attempt, outcome });
            }
            Err(e) => {
                failed += 1;
                printer.error_text(&e);
                hosts.push(Attached::Lost { host, error: e.report() });
            }
        }
    }
    shown.event(&Event::Result(Ended::Attached { failed, hosts }));
    Ok(if unknown { ExitCode::from(exit::UNKNOWN) } else { exit::code(failed) })
}

fn text(followed: &Followed, printer: &Printer) -> String {
    let status = followed.last.as_ref().map_or(Status::Queued, |e| e.status);
    let text = followed.last.as_ref().map(|e| lines(&e.text)).unwrap_or_default();
    format!("{}  {text}", printer.bold(status.name()))
}
