//! `--hosts`, and showing what each host says: what the commands that speak with hosts have in common.
use super::documents::{Answer, Document, Hosts};
use super::printer::{Printer, plain};
use super::settings::Settings;
use crate::closure::registry::Registry;
use crate::deploy::drift;
use crate::deploy::fleet::{Member, on_each};
use crate::sys::descriptors;
use crate::sys::error::Result;
use std::collections::BTreeSet;
use std::path::Path;

/// The same for every command that speaks with hosts.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Selection {
    /// The hosts: names, globs, @tags, !exclusions, separated by commas (default: all).
    #[arg(long, value_name = "SELECTOR")]
    pub hosts: Option<String>,
}

/// Just `--hosts`.
#[derive(Debug, clap::Args)]
pub struct HostsArgs {
    #[command(flatten)]
    pub hosts: Selection,
}

/// The hosts that are meant; says which files were forgotten.
pub fn members(settings: &Settings, selector: Option<&str>, printer: &Printer) -> Result<Vec<Member>> {
    // Six or more for each host, all at once.
    descriptors::raise();
    let chosen = settings.fleet().choose(selector)?;
    for file in &chosen.forgotten {
        printer.warning(&format!("{file} is not part of the flake: `git add` it"));
    }
    // Whatever the command is: a wrong value is as wrong for `status` as for `deploy`.
    for member in &chosen.members {
        member.service.check_values().map_err(|wrong| member.located(wrong))?;
    }
    Ok(chosen.members)
}

/// Settings and hosts of a command that needs no environment.
pub fn chosen(
    selection: &Selection,
    config: Option<&Path>,
    printer: &Printer,
) -> Result<(Settings, Vec<Member>)> {
    let settings = Settings::without_environment(None, config)?;
    let members = members(&settings, selection.hosts.as_deref(), printer)?;
    Ok((settings, members))
}

/// How those of the fleet stand that are meant. What they should run, the others' records say as well.
pub fn standing(settings: &Settings, meant: &[Member]) -> Result<drift::Fleet> {
    let meant: BTreeSet<&str> = meant.iter().map(Member::name).collect();
    let all = settings.fleet().choose(None)?.members;
    Ok(drift::look(&all, &meant, settings.config.service.name(), &settings.state))
}

/// Asks every host, shows what each says, and counts those that did not answer. The JSON document has all of it.
pub fn each_says<T: Send, D>(
    members: &[Member],
    printer: &Printer,
    ask: impl Fn(&Member) -> Result<T> + Sync,
    mut show: impl FnMut(&Member, &T) -> D,
) -> (Vec<Answer<D>>, usize) {
    let answers = on_each(members.iter().collect(), |member: &Member| ask(member));
    let (mut values, mut failed) = (Vec::new(), 0);
    for (member, answer) in members.iter().zip(answers) {
        match answer {
            Ok(answer) => values.push(Answer::said(member.name(), show(member, &answer))),
            Err(e) => {
                failed += 1;
                values.push(Answer::lost(member.name(), &e));
                printer.error_text(&e);
            }
        }
    }
    (values, failed)
}

/// The document of a command that asked each host.
pub fn document<D>(hosts: Vec<Answer<D>>, failed: usize, printer: &Printer)
where
    Hosts<D>: Document,
{
    printer.value(&Hosts { hosts, failed });
}

/// A snapshot as this workstation knows it: id and label.
pub fn known_as(settings: &Settings, path: &str) -> String {
    match Registry::new(&settings.state).find(Some(path)) {
        Ok(record) => match record.label {
            Some(label) => format!("{} ({})", record.id, plain(&label)),
            None => record.id,
        },
        Err(_) => path.rsplit('/').next().unwrap_or(path).chars().take(10).collect(),
    }
}
