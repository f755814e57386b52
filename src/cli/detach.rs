//! `deploy --detach`: the rest of the deployment in a process of its own, which no closed terminal ends. It is
//! this program again, with the snapshot that was taken; its output is kept beside the deployment's record.
use super::deployments;
use super::printer::Printer;
use super::settings::Settings;
use crate::closure::registry::Record;
use crate::sys::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Tells that process the deployment's id, and that it is the one.
pub const VARIABLE: &str = "STILLFRAME_DETACHED";

/// Away from the terminal's own session, whose end would end it.
pub fn settle() {
    if std::env::var_os(VARIABLE).is_some() {
        // A process that leads a group already has no terminal to lose.
        let _ = rustix::process::setsid();
    }
}

pub fn begin(
    settings: &Settings,
    config: Option<&Path>,
    id: &str,
    record: &Record,
    hosts: Option<&str>,
    again: bool,
    printer: &Printer,
) -> Result<ExitCode> {
    let log = deployments::folder(&settings.state).join(format!("{id}.log"));
    let folder = deployments::folder(&settings.state);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create directory", &folder, e))?;
    let file = File::create(&log).map_err(|e| Error::io("create", &log, e))?;
    let copy = file.try_clone().map_err(|e| Error::io("use", &log, e))?;
    let own = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let mut command = Command::new(own);
    command.args(["--json", "deploy", "--snapshot", &record.snapshot]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    if let Some(hosts) = hosts {
        command.args(["--hosts", hosts]);
    }
    if again {
        command.arg("--again");
    }
    command.env(VARIABLE, id).stdin(Stdio::null()).stdout(file).stderr(copy);
    let mut child =
        command.spawn().map_err(|e| Error::new(Kind::Io, "cannot go on in the background").caused_by(e))?;
    // Whether it begins at all is said here: nobody may look again for hours.
    let mut at = 0;
    loop {
        let (event, next) = first_of(&log, at, &["plan", "result"])?;
        at = next;
        if let Some(event) = event {
            if event["type"] == "result" {
                let _ = child.wait();
                return said(&log, printer);
            }
            printer.value(&json!({"version": 1, "deployment": id, "detached": true, "log": log}));
            printer.line(format!(
                "{id} goes on by itself: stillframe attach shows it, stillframe cancel stops it"
            ));
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(Some(_)) = child.try_wait() {
            return said(&log, printer);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The first event of these kinds from `at` on, and where to look next.
fn first_of(log: &Path, at: u64, kinds: &[&str]) -> Result<(Option<Value>, u64)> {
    let mut file = File::open(log).map_err(|e| Error::io("open", log, e))?;
    file.seek(SeekFrom::Start(at)).map_err(|e| Error::io("read", log, e))?;
    let (mut input, mut at) = (BufReader::new(file), at);
    loop {
        let mut line = String::new();
        let read = input.read_line(&mut line).map_err(|e| Error::io("read", log, e))?;
        if read == 0 || !line.ends_with('\n') {
            return Ok((None, at));
        }
        at += read as u64;
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if kinds.iter().any(|kind| event["type"] == *kind) {
            return Ok((Some(event), at));
        }
    }
}

/// It ended before it went on: all it said.
fn said(log: &Path, printer: &Printer) -> Result<ExitCode> {
    let text = std::fs::read_to_string(log).map_err(|e| Error::io("read", log, e))?;
    if printer.json {
        text.lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .for_each(|event: Value| printer.event(&event));
        return Ok(ExitCode::FAILURE);
    }
    let result = text
        .lines()
        .rev()
        .find_map(|l| serde_json::from_str::<Value>(l).ok().filter(|v| v["type"] == "result"));
    let hosts = result.as_ref().and_then(|r| r["hosts"].as_array()).cloned().unwrap_or_default();
    let failed = result.as_ref().is_none_or(|r| r["failed"] != 0);
    for host in &hosts {
        let text = |key: &str| host[key].as_str().unwrap_or_default().to_string();
        printer.line(format!("{}  {}  {}", text("host"), text("status"), text("error")));
    }
    if result.is_none() {
        let tail: Vec<&str> = text.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Err(Error::new(Kind::Host, format!("it ended at once: {}", tail.join("; "))));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
