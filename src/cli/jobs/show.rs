//! `stillframe jobs show`: one job, whichever host has it.
use super::Hosts;
use super::list::{place, span, took, why};
use crate::cli::documents::JobShown;
use crate::cli::exit;
use crate::cli::fleet::{self, each_says};
use crate::cli::printer::{Printer, plain};
use crate::deploy::fleet::Member;
use crate::deploy::jobs;
use crate::protocol::jobs::{JobDetail, JobRow, JobsAnswer, JobsAsk};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

/// More files than this tell nobody anything; `--json` has them all.
const FILES: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// ComfyUI's prompt_id.
    id: String,
    #[command(flatten)]
    hosts: Hosts,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    let ask = JobsAsk::Show { id: args.id.clone() };
    let asked = |member: &Member| match jobs::ask(member, &ask)? {
        JobsAnswer::Show { job } => Ok(job),
        _ => Err(jobs::other(member)),
    };
    let mut found = 0;
    let (values, failed) = each_says(&members, printer, asked, |member, job| {
        if let Some(job) = job {
            found += 1;
            printer.line(printer.bold(&format!("{}  {}", member.name(), plain(&job.row.id))));
            let now = clock::now_ms();
            text(job, now).iter().for_each(|(name, value)| printer.line(format!("  {name:10} {value}")));
        }
        JobShown { job: job.as_deref().cloned() }
    });
    if found == 0 && failed == 0 {
        let text = format!("no host has a job {:?}", args.id);
        return Err(Error::new(Kind::Input, text)
            .hint("stillframe jobs shows those there are; [service.jobs] keep says how long one is kept"));
    }
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}

fn text(job: &JobDetail, now: u64) -> Vec<(&'static str, String)> {
    let row = &job.row;
    let mut lines = vec![("state", state(row))];
    let mut say = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    say("why", row.reason.as_ref().map(why));
    say("accepted", Some(clock::rfc3339(row.accepted / 1000)));
    say("started", row.started.map(|at| clock::rfc3339(at / 1000)));
    say("ended", row.ended.map(|at| format!("{} (ran {})", clock::rfc3339(at / 1000), took(row, now))));
    say("owner", Some(plain(&row.owner)));
    say("client", row.client.as_deref().map(plain));
    say("workflow", row.workflow.as_deref().map(plain));
    say("priority", (row.priority != 0).then(|| row.priority.to_string()));
    let nodes = job.prompt.as_ref().and_then(Value::as_object).map(|nodes| nodes.len().to_string());
    say("nodes", nodes);
    for (at, tried) in row.tries.iter().enumerate() {
        let ran = span(tried.ended.saturating_sub(tried.began));
        let (instance, why) = (plain(&tried.instance), why(&tried.reason));
        say("try", Some(format!("{} on {instance}, {ran}: {why}", at + 1)));
    }
    let files = job.history.as_ref().map(files).unwrap_or_default();
    files.iter().take(FILES).for_each(|file| say("made", Some(plain(file))));
    for upload in job.uploads.iter().take(FILES) {
        let why = upload.why.as_ref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
        say("upload", Some(format!("{} {}{why}", upload.state.name(), plain(&upload.to))));
    }
    if files.len() > FILES {
        say("", Some(format!("and {} more", files.len() - FILES)));
    }
    lines
}

fn state(row: &JobRow) -> String {
    match (row.state.is_over(), row.position, &row.instance) {
        (false, Some(position), _) => {
            let what = row.waiting_for.as_deref().map(|what| format!(", waits for {}", plain(what)));
            format!("{}, {} before it{}", row.state.name(), position, what.unwrap_or_default())
        }
        (_, _, Some(_)) => format!("{} on {}", row.state.name(), place(row)),
        _ => row.state.name().into(),
    }
}

/// The files of an entry of ComfyUI's history: `outputs` has for each node lists of them, by kind.
fn files(history: &Value) -> Vec<String> {
    let nodes = history["outputs"].as_object().into_iter().flatten();
    let lists = nodes.filter_map(|(_, kinds)| kinds.as_object()).flat_map(|kinds| kinds.values());
    let file = |item: &Value| {
        let name = item["filename"].as_str()?;
        let parts = [item["type"].as_str(), item["subfolder"].as_str(), Some(name)];
        Some(parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
    };
    lists.filter_map(Value::as_array).flatten().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::super::list::tests::row;
    use super::*;
    use crate::protocol::deliveries::{DeliveryState, JobUpload};
    use crate::protocol::jobs::{JobReason, JobReasonKind, JobState, JobTry};
    use serde_json::json;

    #[test]
    fn a_job_in_words() {
        let reason = JobReason { kind: JobReasonKind::InstanceDied, message: "killed".into(), details: None };
        let tried = JobTry { instance: "s0-g7".into(), generation: 7, began: 0, ended: 61_000, reason };
        let job = JobDetail {
            row: JobRow { tries: vec![tried], priority: 5, ..row(JobState::Succeeded) },
            prompt: Some(json!({"1": {}, "2": {}})),
            extra_data: None,
            history: Some(json!({"outputs": {"9": {"images": [
                {"filename": "a.png", "subfolder": "", "type": "output"},
                {"filename": "b.png", "subfolder": "x", "type": "temp"}], "animated": [false]}}})),
            uploads: vec![JobUpload {
                file: json!({}),
                state: DeliveryState::Waiting,
                to: "s3://b/a.png".into(),
                tries: 1,
                bytes: None,
                why: Some("it answered 503".into()),
            }],
        };
        let said: Vec<String> =
            text(&job, 0).iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            said,
            [
                "state: succeeded on s0-g12345",
                "accepted: 2025-11-24T16:00:00Z",
                "started: 2025-11-24T16:00:03Z",
                "ended: 2025-11-24T16:00:10Z (ran 7.4s)",
                "owner: 4be1c0ffee55",
                "client: c",
                "priority: 5",
                "nodes: 2",
                "try: 1 on s0-g7, 1min: the instance ended: killed",
                "made: output/a.png",
                "made: temp/x/b.png",
                "upload: waiting s3://b/a.png: it answered 503",
            ]
        );
        let waits = JobRow { position: Some(3), ..row(JobState::Queued) };
        assert_eq!(state(&waits), "queued, 3 before it");
    }
}
