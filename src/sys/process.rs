//! Programs of the host: found where systems keep them, run to their end with a time limit, and their last
//! words in the error.
use crate::sys::error::{Error, Kind, Result};
use crate::sys::programs;
use crate::sys::progress::check_interrupt;
use crate::sys::signals;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A unit's PATH lacks the second half on NixOS, a login's the first elsewhere.
const PLACES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/wrappers/bin:\
                      /run/current-system/sw/bin:/nix/var/nix/profiles/default/bin";

/// Of an ended command, its last words.
const TAIL: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A command whose program is looked for in all usual places.
pub fn command(words: &[&str]) -> Command {
    let own = std::env::var("PATH").unwrap_or_default();
    let path = if own.is_empty() { PLACES.to_string() } else { format!("{own}:{PLACES}") };
    // `Command` looks where *our* PATH says, not the child's.
    let known = Some(words[0]).filter(|name| !name.contains('/'));
    let program = known
        .and_then(|name| programs::find_in(std::env::split_paths(&path), name))
        .unwrap_or_else(|| words[0].into());
    let mut command = Command::new(program);
    command.args(&words[1..]).env("PATH", path);
    command
}

fn read_all(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before the error is what there is to show.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("cannot run `{command}`")]
    NotInstalled { command: String, program: String },
    /// It could not be started, or not be waited for.
    #[error("cannot run `{command}`")]
    NotRun { command: String, source: std::io::Error },
    /// It took too long, and was ended.
    #[error("`{command}` did not end within {} s", .limit.as_secs())]
    TooLong { command: String, limit: Duration },
    /// It was ended because nobody wants it any more.
    #[error("`{command}` was stopped")]
    Stopped { command: String },
    /// It ended by itself, with another status than 0.
    #[error("`{command}` ended with {}{}", status(*.code), said(.stderr))]
    Status { command: String, code: Option<i32>, stderr: String },
}

fn status(code: Option<i32>) -> String {
    code.map_or("a signal".into(), |code| format!("status {code}"))
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let error = Error::new(Kind::Io, failure.to_string());
        match failure {
            Failure::NotInstalled { program, .. } => error.hint(format!("{program} is not installed")),
            Failure::NotRun { source, .. } => error.caused_by(source),
            Failure::TooLong { .. } | Failure::Stopped { .. } | Failure::Status { .. } => error,
        }
    }
}

/// How a command ended.
enum End {
    Itself(std::process::ExitStatus),
    TooLong,
    Stopped,
}

fn ended(child: &mut Child, limit: Duration, stop: &mut dyn FnMut() -> bool) -> std::io::Result<End> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Itself(status));
        }
        if started.elapsed() > limit {
            return Ok(End::TooLong);
        }
        if stop() {
            return Ok(End::Stopped);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Where a command stands to a Ctrl-C in the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Out of its reach: see `signals::shield`.
    Behind,
    /// With us: it may ask the user for something.
    Front,
}

fn failed(command: &str, program: &std::ffi::OsStr, source: std::io::Error) -> Failure {
    let command = command.to_string();
    match source.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::NotInstalled { command, program: program.to_string_lossy().into_owned() }
        }
        _ => Failure::NotRun { command, source },
    }
}

fn spawn(command: &mut Command, name: &str, place: Place) -> Result<(Child, bool), Failure> {
    let shielded = place == Place::Behind && signals::shield(command);
    let child = command.spawn().map_err(|e| failed(name, command.get_program(), e))?;
    Ok((child, shielded))
}

/// Runs a command to its end, for as long as `stop`, which is asked all the time, says no. Errors call it `name`.
pub fn attempt(
    mut command: Command,
    name: &str,
    place: Place,
    input: Option<Vec<u8>>,
    limit: Duration,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Output, Failure> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, shielded) = spawn(&mut command, name, place)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        std::thread::spawn(move || {
            // A command may end without reading all of it.
            let _ = stdin.write_all(&input);
        });
    }
    let (out, err) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let status = end(&mut child, name, shielded, limit, stop)?;
    let stderr = err.join().unwrap_or_default();
    let tail = &stderr[stderr.len().saturating_sub(TAIL)..];
    Ok(Output {
        code: status.code(),
        stdout: out.join().unwrap_or_default(),
        stderr: String::from_utf8_lossy(tail).trim().to_string(),
    })
}

/// The same for a command that leaves a process of its own behind, which would hold its output open: nobody hears it.
pub fn unheard(
    mut command: Command,
    name: &str,
    limit: Duration,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Option<i32>, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (mut child, shielded) = spawn(&mut command, name, Place::Behind)?;
    Ok(end(&mut child, name, shielded, limit, stop)?.code())
}

fn end(
    child: &mut Child,
    name: &str,
    shielded: bool,
    limit: Duration,
    stop: &mut dyn FnMut() -> bool,
) -> Result<std::process::ExitStatus, Failure> {
    let command = name.to_string();
    match ended(child, limit, stop) {
        Ok(End::Itself(status)) => Ok(status),
        Err(source) => Err(Failure::NotRun { command, source }),
        Ok(End::TooLong) => {
            kill(child, shielded);
            Err(Failure::TooLong { command, limit })
        }
        Ok(End::Stopped) => {
            kill(child, shielded);
            Err(Failure::Stopped { command })
        }
    }
}

/// Ends a child that was not waited for yet, and with `group` what it started: it leads that group.
fn kill(child: &mut Child, group: bool) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()).filter(|_| group) {
        // It may have ended by itself in this moment.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs a command to its end.
pub fn run(words: &[&str], limit: Duration) -> Result<Output> {
    run_until(words, limit, &mut || false)
}

/// The same, for as long as `stop` says no.
pub fn run_until(words: &[&str], limit: Duration, stop: &mut dyn FnMut() -> bool) -> Result<Output> {
    Ok(attempt(command(words), &words.join(" "), Place::Behind, None, limit, stop)?)
}

/// The same, until the user interrupts it, which is the error then. Errors call the command `name`.
pub fn run_until_interrupt(command: Command, name: &str, limit: Duration) -> Result<Output> {
    attempt(command, name, Place::Behind, None, limit, &mut || check_interrupt().is_err()).or_else(
        |failure| {
            if matches!(failure, Failure::Stopped { .. }) {
                check_interrupt()?;
            }
            Err(failure.into())
        },
    )
}

/// The same as `run`, and a status other than 0 is an error.
pub fn must(words: &[&str], limit: Duration) -> Result<Vec<u8>> {
    good(words, run(words, limit)?)
}

/// The same for a command that may ask the user for something, who may interrupt it.
pub fn must_in_front(words: &[&str], limit: Duration) -> Result<Vec<u8>> {
    let mut stop = || check_interrupt().is_err();
    let ended = attempt(command(words), &words.join(" "), Place::Front, None, limit, &mut stop);
    let result = ended.map_err(Error::from).and_then(|output| good(words, output));
    // A Ctrl-C reaches the command too, and may end it before we have heard of it.
    result.map_err(|e| check_interrupt().err().unwrap_or(e))
}

fn good(words: &[&str], output: Output) -> Result<Vec<u8>> {
    if output.code == Some(0) {
        return Ok(output.stdout);
    }
    let Output { code, stderr, .. } = output;
    Err(Failure::Status { command: words.join(" "), code, stderr }.into())
}

/// A process that is still the one that was noted down: ids are used again, start times with them are not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Life {
    pub pid: u32,
    /// Clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
    /// Ids of different boots say nothing of each other.
    pub boot: String,
}

fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A zombie has ended.
    if fields.first() == Some(&"Z") { None } else { fields.get(19)?.parse().ok() }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

impl Life {
    pub fn own() -> Life {
        let pid = std::process::id();
        Life { pid, started: start_of(pid).unwrap_or(0), boot: boot_id() }
    }

    /// Of a process or a thread that has not ended.
    pub fn of(pid: u32) -> Option<Life> {
        Some(Life { pid, started: start_of(pid)?, boot: boot_id() })
    }

    pub fn goes_on(&self) -> bool {
        self.boot == boot_id() && start_of(self.pid) == Some(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_fails_or_is_ended() {
        let limit = Duration::from_secs(5);
        assert_eq!(must(&["echo", "a b"], limit).unwrap(), b"a b\n");
        let failed = must(&["sh", "-c", "echo no >&2; exit 3"], limit).unwrap_err();
        assert_eq!(failed.to_string(), "`sh -c echo no >&2; exit 3` ended with status 3: no");
        let slow = run(&["sleep", "60"], Duration::from_millis(50)).unwrap_err();
        assert_eq!(slow.to_string(), "`sleep 60` did not end within 0 s");
        let none = run(&["no-such-program"], limit).unwrap_err();
        assert_eq!(none.hint.as_deref(), Some("no-such-program is not installed"));
    }

    #[test]
    fn a_life_is_one_process_of_one_boot() {
        let own = Life::own();
        assert!(own.goes_on());
        assert!(!Life { started: own.started + 1, ..own.clone() }.goes_on());
        assert!(!Life { boot: "another".into(), ..own }.goes_on());
    }
}
