//! `stillframe jobs`: the newest jobs of each host, a line each, or each as it changes.
use super::Hosts;
use crate::cli::documents::{JobChange, Jobs};
use crate::cli::exit;
use crate::cli::fleet::{self, each_says};
use crate::cli::printer::{Printer, age, plain};
use crate::deploy::fleet::{Member, on_each};
use crate::deploy::jobs;
use crate::protocol::jobs::{JobReason, JobRow, JobState, JobsAnswer, JobsAsk, JobsOrder};
use crate::sys::clock;
use crate::sys::error::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    hosts: Hosts,
    /// Only those in one of these states, separated by commas.
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    state: Vec<JobState>,
    /// Only those of this owner, as `jobs show` has it.
    #[arg(long)]
    owner: Option<String>,
    /// How many of each host (default: 20).
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// Go on with each that changes.
    #[arg(long, short)]
    pub watch: bool,
}

const LIMIT: u64 = 20;

impl ListArgs {
    /// Whether nothing of it was given.
    pub fn is_empty(&self) -> bool {
        let ListArgs { hosts, state, owner, limit, watch } = self;
        hosts.hosts.is_none() && state.is_empty() && owner.is_none() && limit.is_none() && !watch
    }
}

fn states() -> impl TypedValueParser<Value = JobState> {
    PossibleValuesParser::new(JobState::ALL.map(JobState::name))
        .try_map(|name| JobState::of_name(&name).ok_or("there is no such state"))
}

pub fn run(args: &ListArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let ask = JobsAsk::List {
        states: args.state.clone(),
        owner: args.owner.clone(),
        order: JobsOrder::Accepted,
        offset: 0,
        limit: args.limit.unwrap_or(LIMIT),
    };
    let asked = |member: &Member| match jobs::ask(member, &ask)? {
        JobsAnswer::List { jobs, total, waiting, running } => Ok(Jobs { jobs, total, waiting, running }),
        _ => Err(jobs::other(member)),
    };
    let (values, failed) = each_says(&members, printer, asked, |member, found| {
        printer.line(head(member.name(), found, printer));
        if !found.jobs.is_empty() {
            printer.line(printer.bold(&columns(["ID", "STATE", "AGE", "TOOK", "WHERE", "OWNER"])));
        }
        let now = clock::now_ms();
        for row in &found.jobs {
            printer.line(line(row, now, printer));
            if let Some(reason) = row.reason.as_ref().filter(|_| row.state == JobState::Failed) {
                printer.line(format!("  {}", fit(&why(reason), 78)));
            }
        }
        Jobs { jobs: found.jobs.clone(), ..*found }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}

fn head(host: &str, found: &Jobs, printer: &Printer) -> String {
    let shown = match (found.jobs.len() as u64, found.total) {
        (_, 0) => "no such job is kept".into(),
        (shown, total) if shown < total => format!("the newest {shown} of {total}"),
        (_, total) => format!("all {total}"),
    };
    format!("{}  {} with instances, {} wait; {shown}", printer.bold(host), found.running, found.waiting)
}

/// 80 columns, for ids that are UUIDs.
fn columns([id, state, since, took, place, owner]: [&str; 6]) -> String {
    let owner = fit(owner, 7);
    format!("{id:36} {state:10} {since:>7} {took:>7} {place:8} {owner:7}").trim_end().to_string()
}

fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let cut: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{cut}…")
}

fn line(row: &JobRow, now: u64, printer: &Printer) -> String {
    let since = age(now.saturating_sub(row.accepted) / 1000);
    let (id, owner) = (plain(&row.id), plain(&row.owner));
    let text = columns([&id, row.state.name(), &since, &took(row, now), &place(row), &owner]);
    match row.state {
        JobState::Failed | JobState::Expired => printer.paint("31", &text),
        JobState::Cancelled => printer.paint("2", &text),
        _ => text,
    }
}

/// How long it has run, or ran.
pub fn took(row: &JobRow, now: u64) -> String {
    let Some(started) = row.started.filter(|_| row.state != JobState::Queued) else { return "-".into() };
    span(row.ended.unwrap_or(now).saturating_sub(started))
}

pub fn span(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{}.{}s", milliseconds / 1000, milliseconds / 100 % 10),
        _ => age(milliseconds / 1000),
    }
}

/// Its instance, or its place among those that wait.
pub fn place(row: &JobRow) -> String {
    match (row.state, row.position, &row.instance) {
        (JobState::Queued, Some(position), _) => format!("#{}", position + 1),
        (JobState::Queued, None, _) | (_, _, None) => "-".into(),
        (_, _, Some(instance)) => plain(instance),
    }
}

/// What kind of reason, and what was said, in one line.
pub fn why(reason: &JobReason) -> String {
    let said = plain(reason.message.trim());
    let kind = reason.kind.words();
    if said.is_empty() { kind.into() } else { format!("{kind}: {said}") }
}

pub fn watch(args: &ListArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let several = members.len() > 1;
    let results = on_each(members.iter().collect(), |member: &Member| {
        jobs::watch(member, args.owner.as_deref(), args.limit.unwrap_or(LIMIT), |row| {
            if args.state.is_empty() || args.state.contains(&row.state) {
                let host = if several { format!("{}  ", member.name()) } else { String::new() };
                printer.line(format!("{host}{}", change(&row)));
                printer.event(&JobChange { host: member.name().into(), job: row });
            }
            if printer.output().is_gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    let lost: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    lost.iter().for_each(|e| printer.error(e));
    Ok(exit::code(lost.len()))
}

/// A change as a line: when, which, what it is now.
fn change(row: &JobRow) -> String {
    let at = match row.state {
        JobState::Queued => row.accepted,
        // Nothing says when: a moment ago.
        JobState::Dispatched => clock::now_ms(),
        _ => row.ended.or(row.started).unwrap_or(row.accepted),
    };
    // A day is enough to look at.
    let at: String = clock::rfc3339(at / 1000).chars().skip(11).take(8).collect();
    let mut text = format!("{at}  {:36} {:10} {}", plain(&row.id), row.state.name(), place(row));
    if row.state.is_over() && row.started.is_some() {
        text.push_str(&format!("  in {}", took(row, 0)));
    }
    if !row.tries.is_empty() && !row.state.is_over() {
        text.push_str(&format!("  try {}", row.tries.len() + 1));
    }
    if let Some(reason) = row.reason.as_ref().filter(|_| row.state.is_over()) {
        text.push_str(&format!("  {}", why(reason)));
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::protocol::jobs::JobReasonKind;

    pub fn row(state: JobState) -> JobRow {
        JobRow {
            id: "7f3a62c4-5b1e-4b6e-9d0a-2f1c8e6b7a90".into(),
            seq: 12,
            state,
            priority: 0,
            number: 12.0,
            owner: "4be1c0ffee55".into(),
            client: Some("c".into()),
            workflow: None,
            accepted: 1_764_000_000_000,
            started: Some(1_764_000_003_000),
            ended: state.is_over().then_some(1_764_000_010_450),
            instance: Some("s0-g12345".into()),
            generation: Some(12_345),
            tries: Vec::new(),
            reason: None,
            position: None,
            waiting_for: None,
        }
    }

    #[test]
    fn a_line_has_80_columns() {
        let printer = Printer::new(false, true);
        let now = 1_764_000_000_000 + 3_725_000;
        let said = line(&row(JobState::Succeeded), now, &printer);
        assert_eq!(said, "7f3a62c4-5b1e-4b6e-9d0a-2f1c8e6b7a90 succeeded     1h02    7.4s s0-g12345 4be1c0…");
        let waits = JobRow { position: Some(9_998), started: None, ..row(JobState::Queued) };
        let said = line(&waits, now, &printer);
        assert_eq!(said, "7f3a62c4-5b1e-4b6e-9d0a-2f1c8e6b7a90 queued        1h02       - #9999    4be1c0…");
        assert_eq!(said.chars().count(), 80);
        assert_eq!([9_999, 10_000, 61_000].map(span), ["9.9s", "10s", "1min"]);
    }

    #[test]
    fn a_change_says_what_it_is_now() {
        let at = "7f3a62c4-5b1e-4b6e-9d0a-2f1c8e6b7a90";
        assert_eq!(change(&row(JobState::Running)), format!("16:00:03  {at} running    s0-g12345"));
        let reason = JobReason {
            kind: JobReasonKind::NodeFailed,
            message: "node 7 (Edge): no such\nfile\u{1b}[2J".into(),
            details: None,
        };
        let failed = JobRow { reason: Some(reason), ..row(JobState::Failed) };
        let end = "a node failed: node 7 (Edge): no such\\nfile\\u{1b}[2J";
        assert_eq!(change(&failed), format!("16:00:10  {at} failed     s0-g12345  in 7.4s  {end}"));
    }

    #[test]
    fn how_many_there_are_is_said() {
        let printer = Printer::new(false, true);
        let jobs = |shown: usize, total| Jobs {
            jobs: vec![row(JobState::Running); shown],
            total,
            waiting: 3,
            running: 1,
        };
        let said = |shown, total| head("gpu-1", &jobs(shown, total), &printer);
        assert_eq!(said(2, 5), "gpu-1  1 with instances, 3 wait; the newest 2 of 5");
        assert_eq!(said(2, 2), "gpu-1  1 with instances, 3 wait; all 2");
        assert_eq!(said(0, 0), "gpu-1  1 with instances, 3 wait; no such job is kept");
    }
}
