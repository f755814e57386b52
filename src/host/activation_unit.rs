//! The unit of an activation: its own process, which systemd starts again when it was killed.
use crate::host::layout::{Layout, Service};
use crate::host::reserve;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process;
use crate::sys::systemd;
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(60);
/// An activation that was started again so often does not get to its end by itself.
const RESTARTS: u64 = 3;

/// How the unit of an activation is doing, whose record has no outcome yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    GoesOn,
    /// systemd starts it again and again.
    Stuck,
    Gone,
}

/// `agent`: the program that carries it out.
pub fn start(service: &Service, attempt: u64, agent: &str) -> Result<()> {
    let unit = service.activation_unit(attempt);
    let description = format!("Activation {attempt} of {}", service.name);
    let (state, number) = (service.layout.state.display().to_string(), attempt.to_string());
    let words = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--service-type=exec",
        "--unit",
        &unit,
        "--description",
        &description,
        "-p",
        "Restart=on-failure",
        "-p",
        "RestartSec=2",
        "-p",
        "StartLimitIntervalSec=0",
        "-p",
        "TimeoutStopSec=120",
        // A stop is the activation's to hear, not that of a command that it runs just then.
        "-p",
        "KillMode=mixed",
        agent,
        "--state",
        &state,
        "activate",
        &service.name,
        &number,
    ];
    process::must(&words, START_LIMIT).map(drop)
}

pub fn look(unit: &str) -> Result<Life> {
    let shown = systemd::show(unit, &["ActiveState", "NRestarts"])?;
    let restarts: u64 = shown.get("NRestarts").and_then(|n| n.parse().ok()).unwrap_or(0);
    Ok(match shown.get("ActiveState").map(String::as_str) {
        None | Some("inactive" | "failed") => Life::Gone,
        Some(_) if restarts >= RESTARTS => Life::Stuck,
        Some(_) => Life::GoesOn,
    })
}

/// An activation that is started again and again gets to its end only when what hinders it is gone.
pub fn stuck(layout: &Layout, unit: &str) -> Error {
    if let Some(mount) = reserve::full(layout) {
        let text = format!("the activation cannot write how it ends: the file system at {mount} is full");
        return Error::new(Kind::Host, text)
            .hint("free space there: it then ends by itself, and stillframe attach shows how");
    }
    let tail = systemd::log_tail(unit, 10);
    Error::new(Kind::Host, format!("the activation fails again and again: {tail}"))
        .hint(format!("it is tried on and on; all it said: journalctl -u {unit}"))
}

pub fn gone(unit: &str) -> Error {
    let tail = systemd::log_tail(unit, 10);
    Error::new(Kind::Host, format!("the activation ended without a word: {tail}"))
        .hint(format!("all it said: journalctl -u {unit}"))
}
