//! SSH to a host through the user's own `ssh`: their configuration, keys, known hosts. One master
//! connection a host (`master`); every command is a channel of it.
//!
//! Host keys are always checked. Arguments are quoted one by one; every command has a time limit; an error ends with
//! the tail of what the command said.
use crate::ship::master::Master;
pub use crate::ship::master::Target;
use crate::ship::send::Channel;
#[cfg(test)]
use crate::ship::simulated;
use crate::ship::way::{self, Way};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::patient::Patient;
use crate::sys::process::Failure;
use crate::sys::progress::check_interrupt;
use parking_lot::{Condvar, Mutex};
use std::io::{BufReader, Read};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::Duration;

/// Of an ended command, its last words.
const TAIL: usize = 4096;

/// What ssh itself ends with: the connection is gone, or the command was.
const SSH_FAILED: i32 = 255;
/// What a shell ends with where there is no such command.
const NO_COMMAND: i32 = 127;

pub struct Remote {
    pub name: String,
    way: Box<dyn Way>,
    /// Put before every command that needs root's rights.
    elevate: Vec<String>,
    target: Target,
    /// Whether a Ctrl-C ends what is waited for.
    gives_up: bool,
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// The tail of a channel's standard error; filled while it runs.
#[derive(Debug, Clone, Default)]
pub struct LastWords(Arc<(Mutex<Said>, Condvar)>);

#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    ended: bool,
}

/// How long the last words of an ended command may be on their way.
const ON_THEIR_WAY: Duration = Duration::from_secs(1);

impl LastWords {
    /// What an ended command said on its standard error.
    pub fn text(&self) -> String {
        let (said, changed) = &*self.0;
        let mut said = said.lock();
        changed.wait_while_for(&mut said, |said| !said.ended, ON_THEIR_WAY);
        String::from_utf8_lossy(&said.bytes).trim().to_string()
    }

    fn hear(&self, mut errors: impl Read) {
        let (said, changed) = &*self.0;
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = errors.read(&mut buffer) {
            let mut said = said.lock();
            said.bytes.extend_from_slice(&buffer[..n]);
            let extra = said.bytes.len().saturating_sub(TAIL);
            said.bytes.drain(..extra);
        }
        said.lock().ended = true;
        changed.notify_all();
    }
}

/// A client under way: its three pipes.
struct Client {
    input: ChildStdin,
    output: ChildStdout,
    last_words: LastWords,
}

fn way(target: &Target, stop: &mut dyn FnMut() -> bool) -> Result<Box<dyn Way>> {
    #[cfg(test)]
    if let Some(way) = simulated::to(target) {
        return way;
    }
    Ok(Box::new(Master::start(target, stop)?))
}

impl Remote {
    pub fn connect(target: &Target) -> Result<Remote> {
        let error = |e: Error| check_interrupt().err().unwrap_or(e);
        Remote::by(target, true).map_err(error)
    }

    /// The same for what is to be done after a Ctrl-C, because of it.
    pub fn to_the_end(target: &Target) -> Result<Remote> {
        Remote::by(target, false)
    }

    fn by(target: &Target, gives_up: bool) -> Result<Remote> {
        let way = way(target, &mut || gives_up && check_interrupt().is_err())?;
        let (name, target) = (target.name.clone(), target.clone());
        Ok(Remote { name, way, elevate: Vec::new(), target, gives_up })
    }

    /// From now on commands that need root's rights are run so (`sudo -n`); none for root itself.
    pub fn elevate_by(&mut self, words: &[&str]) {
        self.elevate = words.iter().map(|w| (*w).to_string()).collect();
    }

    fn elevated<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        self.elevate.iter().map(String::as_str).chain(words.iter().copied()).collect()
    }

    /// Runs a command with root's rights to its end, which a Ctrl-C does not wait for. `input` is given to it.
    pub fn run(&self, words: &[&str], input: &[u8], limit: Duration) -> Result<Output> {
        let all = self.elevated(words);
        let shown = all.join(" ");
        let mut stop = || self.gives_up && check_interrupt().is_err();
        match self.way.attempt(&all, &shown, input, limit, &mut stop) {
            Ok(output) => match output.code {
                Some(SSH_FAILED) => Err(self.lost(&shown, &after("the connection ended", &output.stderr))),
                Some(NO_COMMAND) => Err(self.lost(&shown, "there is no such command")),
                code => Ok(Output { code: code.unwrap_or(-1), stdout: output.stdout, stderr: output.stderr }),
            },
            Err(Failure::TooLong { limit, .. }) => Err(Error::new(
                Kind::Host,
                format!("{}: `{shown}` did not end within {} s", self.name, limit.as_secs()),
            )
            .hint(format!("look at the host: ssh {}", self.target.address))),
            Err(failure) => {
                check_interrupt()?;
                Err(self.lost(&shown, &Error::from(failure).full()))
            }
        }
    }

    /// The same, and a status other than 0 is an error.
    pub fn must(&self, words: &[&str], input: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let output = self.run(words, input, limit)?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        let shown = self.elevated(words).join(" ");
        let said = format!("`{shown}` failed with status {}", output.code);
        Err(Error::new(Kind::Host, format!("{}: {}", self.name, after(&said, &output.stderr))))
    }

    /// Starts a command with root's rights: a channel to it, and what it says on its standard error. A Ctrl-C does not
    /// wait for the other end.
    pub fn channel(&self, words: &[&str]) -> Result<(Channel, LastWords)> {
        if !self.gives_up {
            return self.conversation(words);
        }
        let Client { input, output, last_words } = self.start(words)?;
        let patient = |e| Error::new(Kind::Io, "cannot use a pipe").caused_by(e);
        let channel = Channel {
            input: Box::new(BufReader::with_capacity(64 * 1024, Patient(output))),
            output: Box::new(Patient::writer(input).map_err(patient)?),
            host: self.name.clone(),
        };
        Ok((channel, last_words))
    }

    /// The same for a conversation that goes on after a Ctrl-C: the host is told of it, and answers.
    pub fn conversation(&self, words: &[&str]) -> Result<(Channel, LastWords)> {
        let Client { input, output, last_words } = self.start(words)?;
        let channel = Channel {
            input: Box::new(BufReader::new(output)),
            output: Box::new(input),
            host: self.name.clone(),
        };
        Ok((channel, last_words))
    }

    fn start(&self, words: &[&str]) -> Result<Client> {
        let all = self.elevated(words);
        let client = self.way.start(&all).map_err(|e| self.lost(&all.join(" "), &e.to_string()))?;
        let way::Client { input, output, errors, child } = client;
        // As between us and a daemon: larger than the default, or both sides sleep and wake all the time.
        let _ = rustix::pipe::fcntl_setpipe_size(&input, 1 << 20);
        let last_words = LastWords::default();
        let keep = last_words.clone();
        std::thread::spawn(move || {
            keep.hear(errors);
            // It ends when its input does, or with the master.
            let _ = child.map(|mut child| child.wait());
        });
        Ok(Client { input, output, last_words })
    }

    fn lost(&self, shown: &str, why: &str) -> Error {
        Error::new(Kind::Host, format!("{}: cannot run `{shown}`: {why}", self.name))
            .hint(self.target.by_hand())
    }
}

fn after(what: &str, said: &str) -> String {
    if said.is_empty() { what.into() } else { format!("{what}: {said}") }
}
