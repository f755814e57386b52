//! The conversation with a Nix daemon. Synchronous: each connection belongs to one thread, and several
//! connections work side by side.
use super::connect::{self, StoreConfig, Stream};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::formats::nix::worker::{self, Framed, ReadWire, WriteWire, op, stderr};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use std::collections::BTreeSet;
use std::io::{self, BufReader, BufWriter, Read, Write};

/// What the daemon tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Log(String),
    /// A derivation is being built.
    Building {
        id: u64,
        derivation: String,
    },
    Stopped {
        id: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    pub nar_hash: Sha256,
    pub nar_size: u64,
    pub references: BTreeSet<StorePath>,
    pub deriver: Option<StorePath>,
    pub ca: String,
}

pub struct Store {
    pub(super) input: BufReader<Box<dyn Read + Send>>,
    pub(super) output: Option<BufWriter<Box<dyn Write + Send>>>,
    pub(super) child: Option<connect::Daemon>,
    pub(super) at: String,
    pub store_dir: StoreDir,
    /// How it was reached, for further connections.
    pub config: StoreConfig,
    /// The daemon's Nix version.
    pub version: String,
    /// The daemon takes settings from us that are not every user's to give.
    trusted: bool,
    on_event: Box<dyn FnMut(Event) + Send>,
    /// Errors that the daemon told of while it worked on the request in hand.
    causes: Vec<String>,
}

/// The daemon collects an archive of up to 32 MiB in memory before it writes the first file; with a buffer of one
/// chunk it writes while it reads: a first snapshot takes a seventh less [measured with Nix 2.8].
const TRUSTED_SETTINGS: &[(&str, &str)] = &[("nar-buffer-size", "65536")];

const ACTIVITY_BUILD: u64 = 105;
const RESULT_LOG_LINE: u64 = 101;

impl Store {
    pub fn connect(config: &StoreConfig) -> Result<Store> {
        let Stream { input, output, child, at } = connect::open(config)?;
        let mut store = Store {
            input: BufReader::with_capacity(64 * 1024, input),
            output: Some(BufWriter::with_capacity(64 * 1024, output)),
            child,
            at,
            store_dir: config.store_dir.clone(),
            config: config.clone(),
            version: String::new(),
            trusted: false,
            on_event: Box::new(|_| {}),
            causes: Vec::new(),
        };
        store.handshake()?;
        store.set_options()?;
        Ok(store)
    }

    /// Whether the daemon does for this user what not every user may ask for.
    pub fn trusts(&self) -> bool {
        self.trusted
    }

    /// Hears what the daemon tells from now on.
    pub fn on_event(&mut self, hear: impl FnMut(Event) + Send + 'static) {
        self.on_event = Box::new(hear);
    }

    /// Nothing more can be said on this connection.
    pub(super) fn gone(&mut self, e: io::Error) -> Error {
        self.output = None;
        if let Err(interrupted) = check_interrupt() {
            return interrupted;
        }
        if !matches!(
            e.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        ) {
            let message = format!("cannot talk to the Nix daemon at {}", self.at);
            return Error::new(Kind::Store, message).caused_by(e);
        }
        let last = self.child.as_mut().map(connect::Daemon::last_words).unwrap_or_default();
        let mut message = format!("the Nix daemon at {} ended the connection", self.at);
        if !last.is_empty() {
            message = format!("{message}: {}", strip_colours(&last));
        }
        let known = refused(message);
        if known.hint.is_some() {
            return known;
        }
        known.hint("what is in the store already stays; run the command again and it goes on from there")
    }

    pub(super) fn out(&mut self) -> io::Result<&mut BufWriter<Box<dyn Write + Send>>> {
        self.output.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// A request with an archive behind it: what `head` sends, the archive that `write` streams, then the daemon's
    /// messages and what `read` takes.
    pub(super) fn ask_with_archive<T>(
        &mut self,
        head: impl FnOnce(&mut BufWriter<Box<dyn Write + Send>>) -> io::Result<()>,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
        read: impl FnOnce(&mut Store) -> Result<T>,
    ) -> Result<T> {
        if self.output.is_none() {
            return Err(self.gone(io::ErrorKind::BrokenPipe.into()));
        }
        let mut written = Ok(());
        let sent = self.out().and_then(|out| {
            head(out)?;
            let mut framed = Framed::new(out);
            written = write(&mut framed);
            // Also when that failed: the daemon refuses an archive that ends early, and goes on. Cut off
            // inside a frame, Nix 2.8 crashes.
            framed.finish()?;
            out.flush()
        });
        if let Err(e) = sent {
            // It may have said why before it closed.
            self.messages()?;
            return Err(self.gone(e));
        }
        let answer = self.messages().and_then(|()| read(self));
        written?;
        answer
    }

    /// One request: what `write` sends, then the daemon's messages, then what `read` takes.
    pub(super) fn ask<T>(
        &mut self,
        write: impl FnOnce(&mut BufWriter<Box<dyn Write + Send>>) -> io::Result<()>,
        read: impl FnOnce(&mut BufReader<Box<dyn Read + Send>>) -> io::Result<T>,
    ) -> Result<T> {
        let sent = self.out().and_then(|out| {
            write(out)?;
            out.flush()
        });
        sent.map_err(|e| self.gone(e))?;
        self.messages()?;
        read(&mut self.input).map_err(|e| self.gone(e))
    }

    fn handshake(&mut self) -> Result<()> {
        let hello = |store: &mut Store| -> io::Result<u64> {
            let out = store.out()?;
            let sent = out.put_number(worker::MAGIC_CLIENT).and_then(|()| out.flush());
            // Something else may have said its piece and ended before it listened.
            let said = store.input.number();
            if said.is_ok() { said } else { sent.and(said) }
        };
        let magic = hello(self).map_err(|e| self.gone(e))?;
        // Before the version: something else may say eight bytes and wait.
        if magic != worker::MAGIC_DAEMON {
            return Err(Error::new(
                Kind::Store,
                format!("{} does not speak the Nix worker protocol", self.at),
            )
            .hint("STILLFRAME_NIX_DAEMON must name a program that does what `nix-daemon --stdio` does"));
        }
        let version = self.input.number().map_err(|e| self.gone(e))?;
        if version < worker::MIN_VERSION || version >> 8 != worker::VERSION >> 8 {
            return Err(Error::new(
                Kind::Store,
                format!(
                    "the Nix daemon at {} speaks protocol {}; stillframe needs 1.{} or later",
                    self.at,
                    worker::version_text(version),
                    worker::MIN_VERSION & 0xff
                ),
            )
            .hint(if version < worker::MIN_VERSION {
                "use Nix 2.8 or later"
            } else {
                "use an older Nix, or a newer stillframe"
            }));
        }
        let common = version.min(worker::VERSION);
        let rest = |store: &mut Store| -> io::Result<String> {
            let out = store.out()?;
            out.put_number(worker::VERSION)?;
            // No CPU affinity, no reserved space: both obsolete, both expected.
            out.put_number(0)?;
            out.put_number(0)?;
            out.flush()?;
            let version = store.input.string()?;
            // 1: trusted, 2: not, 0: not known. Before 1.35 nothing is said, and root is whom it trusts.
            store.trusted = match common {
                0x123.. => store.input.number()? == 1,
                _ => rustix::process::geteuid().is_root(),
            };
            Ok(version)
        };
        self.version = rest(self).map_err(|e| self.gone(e))?;
        self.messages()
    }

    fn set_options(&mut self) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        // keep-failed, keep-going, fallback, verbosity (errors), jobs, silent time, build hook, verbose
        // build (no), log type, trace, cores per build, substitutes: nothing of ours is in a cache that
        // we were not told of, and asking one costs a time-out where there is no network.
        let values = [0, 0, 0, 0, jobs, 0, 0, 7, 0, 0, 0, 0];
        let more = if self.trusted { TRUSTED_SETTINGS } else { &[] };
        self.ask(
            |out| {
                out.put_number(op::SET_OPTIONS)?;
                values.iter().try_for_each(|v| out.put_number(*v))?;
                out.put_number(more.len() as u64)?;
                more.iter()
                    .flat_map(|(name, value)| [name, value])
                    .try_for_each(|s| out.put_bytes(s.as_bytes()))
            },
            |_| Ok(()),
        )
    }

    /// Reads the daemon's messages until it says that the reply follows, or what went wrong.
    pub(super) fn messages(&mut self) -> Result<()> {
        self.causes.clear();
        loop {
            match self.message() {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(event))) => {
                    if let Some(event) = event {
                        (self.on_event)(event);
                    }
                }
                Ok(Some(Err(text))) => {
                    // Of a failed dependency the last error says only how many there are.
                    self.causes.push(strip_colours(&text));
                    return Err(refused(self.causes.join("\n")));
                }
                Err(e) => return Err(self.gone(e)),
            }
        }
    }

    /// `None`: the last. An inner error: the daemon's own.
    fn message(&mut self) -> io::Result<Option<std::result::Result<Option<Event>, String>>> {
        let input = &mut self.input;
        let event = match input.number()? {
            stderr::LAST => return Ok(None),
            stderr::NEXT => {
                let text = strip_colours(input.string()?.trim_end());
                if let Some(cause) = text.strip_prefix("error: ") {
                    self.causes.push(cause.to_string());
                }
                Some(Event::Log(text))
            }
            stderr::ERROR => return Ok(Some(Err(error_text(input)?))),
            stderr::START_ACTIVITY => {
                let id = input.number()?;
                input.number()?;
                let kind = input.number()?;
                input.string()?;
                let mut texts = fields(input)?;
                input.number()?;
                (kind == ACTIVITY_BUILD && !texts.is_empty())
                    .then(|| Event::Building { id, derivation: texts.swap_remove(0) })
            }
            stderr::STOP_ACTIVITY => Some(Event::Stopped { id: input.number()? }),
            stderr::RESULT => {
                input.number()?;
                let kind = input.number()?;
                let mut texts = fields(input)?;
                (kind == RESULT_LOG_LINE && !texts.is_empty()).then(|| Event::Log(texts.swap_remove(0)))
            }
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the daemon sent the unknown message {other:#x}"),
                ));
            }
        };
        Ok(Some(Ok(event)))
    }

    pub(super) fn absolute(&self, path: &StorePath) -> String {
        path.to_absolute(&self.store_dir)
    }

    pub(super) fn parse(&self, text: &str) -> Result<StorePath> {
        StorePath::from_absolute(&self.store_dir, text).map_err(|e| {
            Error::new(Kind::Store, format!("the Nix daemon at {} named a bad path: {e}", self.at))
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing its input tells a daemon of ours to end; then `Daemon`'s own drop waits for it.
        self.output = None;
    }
}

/// What an error message says, after the number that announces it.
pub(super) fn error_text(input: &mut impl Read) -> io::Result<String> {
    input.string()?;
    input.number()?;
    input.string()?;
    let text = input.string()?;
    input.number()?;
    for _ in 0..input.number()? {
        input.number()?;
        input.string()?;
    }
    Ok(text)
}

/// The texts among an activity's fields.
fn fields(input: &mut impl Read) -> io::Result<Vec<String>> {
    let mut texts = Vec::new();
    for _ in 0..input.number()? {
        match input.number()? {
            0 => drop(input.number()?),
            _ => texts.push(input.string()?),
        }
    }
    Ok(texts)
}

/// What the daemon says of itself, and what to do where that is known.
fn refused(text: String) -> Error {
    let full = ["No space left on device", "disk is full"].iter().any(|sign| text.contains(sign));
    let error = Error::new(Kind::Store, text);
    if !full {
        return error;
    }
    error.hint(
        "free space on the file system of the Nix store, then run the command again: it goes on from what \
         is there",
    )
}

/// Daemons colour their errors; ours are coloured by the printer alone.
pub(super) fn strip_colours(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}
