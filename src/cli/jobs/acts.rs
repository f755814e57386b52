//! `stillframe jobs cancel` and `requeue`: on whichever host has them.
use super::Hosts;
use crate::cli::documents::{self, Document, JobsCancelled, JobsRequeued};
use crate::cli::exit;
use crate::cli::fleet::{self, each_says};
use crate::cli::printer::{Printer, plain};
use crate::deploy::fleet::Member;
use crate::deploy::jobs;
use crate::protocol::jobs::{JobActed, JobsAnswer, JobsAsk};
use crate::sys::error::Result;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    /// ComfyUI's prompt_ids.
    #[arg(required_unless_present = "waiting")]
    ids: Vec<String>,
    /// All that wait; what runs goes on.
    #[arg(long, conflicts_with = "ids")]
    waiting: bool,
    #[command(flatten)]
    hosts: Hosts,
}

#[derive(Debug, clap::Args)]
pub struct RequeueArgs {
    /// ComfyUI's prompt_ids.
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    hosts: Hosts,
}

pub fn cancel(args: &CancelArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let ask = JobsAsk::Cancel { ids: args.ids.clone(), waiting: args.waiting };
    everywhere(&args.hosts, config, printer, &ask, "cancelled", |member, acted| {
        if args.waiting && acted.is_empty() {
            printer.line(format!("{}  no job waits", member.name()));
        }
        JobsCancelled { cancelled: acted.to_vec() }
    })
}

pub fn requeue(args: &RequeueArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let ask = JobsAsk::Requeue { ids: args.ids.clone() };
    everywhere(&args.hosts, config, printer, &ask, "waits again", |_, acted| JobsRequeued {
        requeued: acted.to_vec(),
    })
}

/// Asks each host, and fails if a job was to be found on none of them.
fn everywhere<D>(
    hosts: &Hosts,
    config: Option<&Path>,
    printer: &Printer,
    ask: &JobsAsk,
    done: &'static str,
    document: impl Fn(&Member, &[JobActed]) -> D,
) -> Result<ExitCode>
where
    documents::Hosts<D>: Document,
{
    let (_, members) = fleet::chosen(hosts, config, printer)?;
    let mut told = Told::new(done, printer);
    let (values, failed) = each_says(
        &members,
        printer,
        |member| act(member, ask),
        |member, acted| {
            told.hear(member.name(), acted);
            document(member, acted)
        },
    );
    let undone = told.rest();
    fleet::document(values, failed, printer);
    Ok(exit::code(failed + undone))
}

pub fn act(member: &Member, ask: &JobsAsk) -> Result<Vec<JobActed>> {
    match jobs::ask(member, ask)? {
        JobsAnswer::Acted { jobs } => Ok(jobs),
        _ => Err(jobs::other(member)),
    }
}

/// What was done is said at once; what no host did, and why each did not, at the end.
pub struct Told<'a> {
    done: &'static str,
    printer: &'a Printer,
    undone: BTreeMap<String, Option<Vec<String>>>,
}

impl<'a> Told<'a> {
    pub fn new(done: &'static str, printer: &'a Printer) -> Told<'a> {
        Told { done, printer, undone: BTreeMap::new() }
    }

    pub fn hear(&mut self, host: &str, acted: &[JobActed]) {
        for one in acted {
            let whys = self.undone.entry(one.id.clone()).or_insert_with(|| Some(Vec::new()));
            if one.done {
                *whys = None;
                self.printer.line(format!("{host}  {} {}", plain(&one.id), self.done));
            } else if let Some(whys) = whys {
                whys.push(format!("{host}: {}", plain(one.why.as_deref().unwrap_or("no reason given"))));
            }
        }
    }

    /// How many were done nowhere.
    pub fn rest(self) -> usize {
        let undone = self.undone.into_iter().filter_map(|(id, whys)| Some((id, whys?)));
        undone.map(|(id, whys)| self.printer.line(format!("{}  {}", plain(&id), whys.join("; ")))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_on_one_host_of_several() {
        let printer = Printer::new(false, true);
        let mut told = Told::new("cancelled", &printer);
        let acted = |id: &str, done: bool| JobActed {
            id: id.into(),
            done,
            why: (!done).then(|| "no such job".into()),
        };
        told.hear("alpha", &[acted("a", false), acted("b", false)]);
        told.hear("beta", &[acted("a", true), acted("b", false)]);
        // Whichever host answers first.
        told.hear("gamma", &[acted("a", false)]);
        assert_eq!(told.undone["a"], None);
        assert_eq!(told.undone["b"], Some(vec!["alpha: no such job".into(), "beta: no such job".into()]));
        assert_eq!(told.rest(), 1);
    }
}
