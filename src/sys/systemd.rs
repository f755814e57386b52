//! systemd, through `systemctl` and `systemd-run`: what every host that runs it has.
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process;
use std::collections::BTreeMap;
use std::time::Duration;

/// A reload waits for generators, and for a job queue that may be busy.
const LIMIT: Duration = Duration::from_secs(90);

pub fn reload() -> Result<()> {
    process::must(&["systemctl", "daemon-reload"], LIMIT).map(drop)
}

/// Starts units without waiting for them to be up.
pub fn start(units: &[&str]) -> Result<()> {
    let words: Vec<&str> =
        ["systemctl", "start", "--no-block"].into_iter().chain(units.iter().copied()).collect();
    process::must(&words, LIMIT).map(drop)
}

/// Starts a unit and waits until it is up; its log's end is in the error.
pub fn start_and_wait(unit: &str) -> Result<()> {
    process::must(&["systemctl", "start", unit], LIMIT).map(drop).map_err(|e| {
        let tail = log_tail(unit, 5);
        let said = if tail.is_empty() { String::new() } else { format!("; its last words:\n{tail}") };
        Error::new(Kind::Host, format!("{e}{said}")).hint(format!("all it said: journalctl -u {unit}"))
    })
}

/// Stops a unit and waits; one that is not there is stopped.
pub fn stop(unit: &str) -> Result<()> {
    let output = process::run(&["systemctl", "stop", unit], LIMIT)?;
    match output.code {
        Some(0) => {}
        // systemctl(1): 5, the unit is not loaded.
        Some(5) => return Ok(()),
        code => {
            let command = format!("systemctl stop {unit}");
            return Err(process::Failure::Status { command, code, stderr: output.stderr }.into());
        }
    }
    // A failed unit stays loaded, with its failure, until this.
    process::run(&["systemctl", "reset-failed", unit], LIMIT).map(drop)
}

/// Properties of a unit, as `systemctl show` has them.
pub fn show(unit: &str, names: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut all = show_all(&[unit], names)?;
    Ok(all.pop().unwrap_or_default())
}

/// Whether a unit is up now.
pub fn is_active(unit: &str) -> Result<bool> {
    Ok(show(unit, &["ActiveState"])?.get("ActiveState").is_some_and(|state| state == "active"))
}

/// The same of several units, in their order.
pub fn show_all(units: &[&str], names: &[&str]) -> Result<Vec<BTreeMap<String, String>>> {
    let properties = format!("--property={}", names.join(","));
    let words: Vec<&str> =
        ["systemctl", "show", properties.as_str(), "--"].into_iter().chain(units.iter().copied()).collect();
    let text = String::from_utf8_lossy(&process::must(&words, LIMIT)?).into_owned();
    let block = |block: &str| {
        block.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    };
    Ok(text.split("\n\n").map(block).collect())
}

/// The last lines that a unit's own processes logged.
pub fn log_tail(unit: &str, lines: u32) -> String {
    last_lines(&format!("_SYSTEMD_UNIT={unit}"), lines)
}

fn last_lines(own: &str, lines: u32) -> String {
    let count = lines.to_string();
    let words = ["journalctl", "--quiet", "--no-pager", "--output=cat", "-n", &count, own];
    // A log that cannot be read is no reason to fail: it only explains a failure.
    process::run(&words, Duration::from_secs(10))
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
        .unwrap_or_default()
}

/// The same since the unit was last started, where systemd tells which start that was.
pub fn log_of_this_start(unit: &str, lines: u32) -> String {
    let started = show(unit, &["InvocationID"]).ok().and_then(|mut said| said.remove("InvocationID"));
    let Some(started) = started.filter(|id| !id.is_empty()) else { return log_tail(unit, lines) };
    last_lines(&format!("_SYSTEMD_INVOCATION_ID={started}"), lines)
}

/// Tells systemd something of this process (sd_notify(3)); nothing where nobody listens.
pub fn notify(text: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var("NOTIFY_SOCKET").ok().filter(|p| !p.is_empty()) else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        // Nobody who would not hear it could be told so.
        let _ = socket.send_to_addr(text.as_bytes(), &address);
    }
}
