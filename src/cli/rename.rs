//! `stillframe rename`: another name for the service, on its hosts and in stillframe.toml.
use super::act::Whose;
use super::agree;
use super::documents::{Hosts, RenamedHost, RenamedService};
use super::exit;
use super::fleet;
use super::maintenance::Steps;
use super::printer::{Printer, lines};
use super::settings::Settings;
use crate::deploy::fleet::Member;
use crate::deploy::renaming::Renaming;
use crate::deploy::{project, records};
use crate::protocol::messages::Status;
use crate::protocol::spec::valid_service;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::signals;
use crate::sys::who;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  stillframe rename studio

On each host the service finishes what it has and stops, its generations, pictures, jobs and history move, and it starts with the
generation that served. Then `name` of stillframe.toml says so. Cut off in the middle, the same command goes on.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The new name: 1 to 27 letters a-z, digits and '-'.
    #[arg(value_name = "NAME")]
    to: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    whose: Whose,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (settings, members) = fleet::chosen(&args.whose.hosts, config, printer)?;
    let from = settings.config.service.name();
    check(args, from, &members)?;
    signals::heed()?;
    for member in &members {
        printer.line(format!(
            "{}  {from} finishes what it has and stops, is called {}, and starts as it was",
            printer.bold(member.name()),
            args.to
        ));
    }
    if !args.yes {
        agree::ask(&format!("stillframe rename {} --yes", args.to), printer)?;
    }
    let (id, by, steps) = (records::new_id(), who::me(), Steps(printer));
    let project = project::of(&settings.project, true)?;
    let renaming =
        Renaming { id: &id, by: &by, from, to: &args.to, project: &project, take_over: args.whose.take_over };
    let mut unwell = 0;
    let ask = |member: &Member| renaming.on(member, &steps);
    let (hosts, failed) = fleet::each_says(&members, printer, ask, |member, done| {
        let name = printer.bold(member.name());
        let moved = if done.moved { "is called" } else { "has nothing to rename to" };
        printer.line(match &done.started {
            None => format!("{name}  {moved} {}", args.to),
            Some(result) if result.status == Status::Succeeded => format!("{name}  {} serves", args.to),
            Some(result) => {
                unwell += 1;
                let why = result.error.as_deref().map(|e| format!(": {}", lines(e))).unwrap_or_default();
                format!("{name}  {} is stopped, and did not start{why}; try again: stillframe start", args.to)
            }
        });
        RenamedHost { done: done.clone() }
    });
    // Where it has the name on every host, that is its name, also where it does not start.
    let file = if failed == 0 && args.whose.hosts.hosts.is_none() { say(&settings, &args.to)? } else { None };
    match &file {
        Some(file) => printer.line(format!("{} says so, too", file.display())),
        None => printer.line(format!(
            "write `name = {:?}` under [service] of stillframe.toml once all hosts have it",
            args.to
        )),
    }
    printer.value(&RenamedService {
        from: from.into(),
        to: args.to.clone(),
        file,
        hosts: Hosts { hosts, failed: failed + unwell },
    });
    Ok(exit::code(failed + unwell))
}

fn check(args: &Args, from: &str, members: &[Member]) -> Result<()> {
    if !valid_service(&args.to) {
        return Err(Error::new(Kind::Input, format!("{:?} is no name for a service", args.to))
            .hint("1 to 27 letters a-z, digits and '-', neither first nor last"));
    }
    if args.to == from {
        return Err(Error::new(Kind::Input, format!("the service is called {from} already")));
    }
    match members.iter().find(|member| member.service.name() != from) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            Kind::Input,
            format!("{} has a name of its own for it, {:?}", other.host.file.display(), other.service.name()),
        )
        .hint("take it out there, or leave that host out with --hosts")),
    }
}

/// Writes the name into stillframe.toml; all else of the file stays, comments too.
fn say(settings: &Settings, to: &str) -> Result<Option<PathBuf>> {
    let Some((file, text)) = &settings.source else { return Ok(None) };
    let Some(new) = with_name(text, to) else { return Ok(None) };
    files::write_atomic(file, new.as_bytes())?;
    Ok(Some(file.clone()))
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    service: Option<Service>,
}

#[derive(Deserialize)]
struct Service {
    name: Option<toml::Spanned<String>>,
}

/// The text with another name of the service; none where there is no place for it that is easily seen.
fn with_name(text: &str, to: &str) -> Option<String> {
    let named: Named = toml::from_str(text).ok()?;
    let mut new = text.to_string();
    match named.service.and_then(|service| service.name) {
        Some(name) => new.replace_range(name.span(), &format!("{to:?}")),
        None => {
            let header =
                text.match_indices("[service]").find(|(at, _)| *at == 0 || text[..*at].ends_with('\n'));
            let end = header.map(|(at, header)| at + header.len());
            let end = end.map(|end| text[end..].find('\n').map_or(text.len(), |line| end + line));
            match end {
                Some(end) => new.insert_str(end, &format!("\nname = {to:?}")),
                None => new.push_str(&format!("\n[service]\nname = {to:?}\n")),
            }
        }
    }
    // It says what was meant, whatever form the table had.
    let said: Named = toml::from_str(&new).ok()?;
    (said.service?.name?.into_inner() == to).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_changes_and_nothing_else() {
        let before = "# mine\n[service] # the one\nname = 'demo' # as it is called\nport = 1\n";
        let after = "# mine\n[service] # the one\nname = \"studio\" # as it is called\nport = 1\n";
        assert_eq!(with_name(before, "studio").as_deref(), Some(after));
        assert_eq!(
            with_name("[service] # the one\nport = 1\n", "studio").as_deref(),
            Some("[service] # the one\nname = \"studio\"\nport = 1\n")
        );
        assert_eq!(
            with_name("environment = \".\"\n", "studio").as_deref(),
            Some("environment = \".\"\n\n[service]\nname = \"studio\"\n")
        );
        assert_eq!(
            with_name("service = { name = \"demo\", port = 1 }\n", "studio").as_deref(),
            Some("service = { name = \"studio\", port = 1 }\n")
        );
        // Where nothing can be put without reading it anew.
        assert_eq!(with_name("service = { port = 1 }\n", "studio"), None);
    }
}
