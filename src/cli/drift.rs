//! `stillframe drift`: which host does not run what it should, and why.
use super::documents::Drift;
use super::exit;
use super::fleet::{self, HostsArgs, known_as};
use super::printer::{Printer, lines, plain};
use super::settings::Settings;
use crate::deploy::drift::{Standing, State};
use crate::sys::clock;
use crate::sys::error::Result;
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &HostsArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (settings, members) = fleet::chosen(&args.hosts, config, printer)?;
    let standings = fleet::standing(&settings, &members)?.standings();
    let drifted = standings.iter().filter(|standing| standing.drifts()).count();
    for standing in &standings {
        printer.line(text(standing, &settings, printer));
    }
    if drifted > 0 {
        printer.line("bring them there: stillframe deploy --catch-up");
    }
    printer.value(&Drift { hosts: standings, drifted });
    Ok(exit::code(drifted))
}

fn text(standing: &Standing, settings: &Settings, printer: &Printer) -> String {
    let host = printer.bold(&standing.host);
    let wanted = standing.wanted.as_ref().map(|w| known_as(settings, &w.snapshot)).unwrap_or_default();
    match &standing.state {
        State::AsWanted => format!("{host}  {} {wanted}", printer.paint("32", "as it should be:")),
        State::NothingWanted => format!("{host}  nothing was deployed there yet"),
        State::Other { serves, why } => {
            let serves = serves.as_ref().map_or_else(|| "nothing".into(), |path| known_as(settings, path));
            let should = printer.paint("31", &format!("serves {serves}, should serve {wanted}:"));
            format!("{host}  {should} {}", lines(why))
        }
        State::Few { ready, of: all } => {
            let few = printer.paint("31", &format!("{ready} of {all} instances are ready"));
            format!("{host}  serves {wanted}, but {few}: stillframe instances")
        }
        State::Stopped { by, since } => {
            let since = clock::rfc3339(since / 1000);
            format!("{host}  was stopped by {} at {since}: stillframe start", plain(by))
        }
        State::Silent { why } => format!("{host}  {}", printer.paint("31", &plain(why))),
    }
}
