//! The conversation with a Nix daemon. Synchronous: each connection belongs to one thread, and several
//! connections work side by side.
use super::connect::{self, StoreConfig, Stream};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::formats::nix::worker::{self, ReadWire, WriteWire, op, stderr};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

    /// Which of the paths the store has, in one question.
    pub fn valid(&mut self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>> {
        let all: Vec<String> = paths.iter().map(|p| self.absolute(p)).collect();
        let found = self.ask(
            |out| {
                out.put_number(op::QUERY_VALID_PATHS)?;
                out.put_strings(&all)?;
                out.put_number(0)
            },
            |input| input.strings(),
        )?;
        found.iter().map(|text| self.parse(text)).collect()
    }

    /// Every path the store has.
    pub fn all(&mut self) -> Result<BTreeSet<StorePath>> {
        let found = self.ask(|out| out.put_number(op::QUERY_ALL_VALID_PATHS), |input| input.strings())?;
        found.iter().map(|text| self.parse(text)).collect()
    }

    pub fn info(&mut self, path: &StorePath) -> Result<Option<PathInfo>> {
        let text = self.absolute(path);
        let found = self.ask(
            |out| {
                out.put_number(op::QUERY_PATH_INFO)?;
                out.put_bytes(text.as_bytes())
            },
            |input| {
                if input.number()? == 0 {
                    return Ok(None);
                }
                info_fields(input).map(Some)
            },
        )?;
        found.map(|raw| self.path_info(raw)).transpose()
    }

    fn path_info(&self, raw: RawInfo) -> Result<PathInfo> {
        let deriver = if raw.deriver.is_empty() { None } else { Some(self.parse(&raw.deriver)?) };
        Ok(PathInfo {
            nar_hash: Sha256::parse(&raw.hash)
                .map_err(|e| Error::new(Kind::Store, "the daemon sent a bad NAR hash").caused_by(e))?,
            nar_size: raw.size,
            references: raw.references.iter().map(|r| self.parse(r)).collect::<Result<_>>()?,
            deriver,
            ca: raw.ca,
        })
    }

    fn known(&mut self, path: &StorePath) -> Result<PathInfo> {
        self.info(path)?.ok_or_else(|| {
            Error::new(Kind::Store, format!("{} is not in the store", self.absolute(path)))
                .hint("it was deleted since: take the snapshot again")
        })
    }

    /// Every path below `roots`, with its information.
    pub fn closure(&mut self, roots: &[StorePath]) -> Result<BTreeMap<StorePath, PathInfo>> {
        let mut found = BTreeMap::new();
        let mut open: Vec<StorePath> = roots.to_vec();
        while let Some(path) = open.pop() {
            if found.contains_key(&path) {
                continue;
            }
            let info = self.known(&path)?;
            open.extend(info.references.iter().filter(|r| !found.contains_key(*r)).cloned());
            found.insert(path, info);
        }
        Ok(found)
    }

    /// Registers a symlink outside the store as a root of the garbage collector.
    pub fn add_indirect_root(&mut self, link: &Path) -> Result<()> {
        self.ask(
            |out| {
                out.put_number(op::ADD_INDIRECT_ROOT)?;
                out.put_bytes(link.as_os_str().as_bytes())
            },
            |input| input.number().map(drop),
        )
    }

    /// Adds a tree, content-addressed over its NAR, which `write` streams. Returns where it is.
    pub fn add_tree(
        &mut self,
        name: &str,
        references: &BTreeSet<StorePath>,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<StorePath> {
        self.add_unhashed(name, references, write).map(|(path, _)| path)
    }

    /// The same, for a tree that nobody has hashed yet: the daemon's answer says what it is.
    pub fn add_unhashed(
        &mut self,
        name: &str,
        references: &BTreeSet<StorePath>,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<(StorePath, PathInfo)> {
        let references: Vec<String> = references.iter().map(|p| self.absolute(p)).collect();
        if self.output.is_none() {
            return Err(self.gone(io::ErrorKind::BrokenPipe.into()));
        }
        let mut written = Ok(());
        let sent = self.out().and_then(|out| {
            out.put_number(op::ADD_TO_STORE)?;
            out.put_bytes(name.as_bytes())?;
            out.put_bytes(b"fixed:r:sha256")?;
            out.put_strings(&references)?;
            // Nothing is repaired.
            out.put_number(0)?;
            let mut framed = worker::Framed::new(out);
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
        let answer = self.messages().and_then(|()| {
            let answer = self.input.string().and_then(|path| Ok((path, info_fields(&mut self.input)?)));
            let (path, info) = answer.map_err(|e| self.gone(e))?;
            Ok((self.parse(&path)?, self.path_info(info)?))
        });
        written?;
        answer
    }

    /// Builds derivations (all their outputs); what is valid already is not built again.
    pub fn build(&mut self, derivations: &[StorePath]) -> Result<()> {
        let wanted: Vec<String> = derivations.iter().map(|d| format!("{}!*", self.absolute(d))).collect();
        self.ask(
            |out| {
                out.put_number(op::BUILD_PATHS)?;
                out.put_strings(&wanted)?;
                out.put_number(0)
            },
            |input| input.number().map(drop),
        )
        .map_err(|e| if e.kind == Kind::Store { e.of_kind(Kind::Build) } else { e })
    }

    /// Streams a path's NAR into `sink`, which must read exactly one archive.
    pub fn nar<T>(&mut self, path: &StorePath, sink: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        // Asked for what it has not, a daemon ends the connection instead of saying so.
        self.known(path)?;
        let text = self.absolute(path);
        self.ask(
            |out| {
                out.put_number(op::NAR_FROM_PATH)?;
                out.put_bytes(text.as_bytes())
            },
            |_| Ok(()),
        )?;
        let mut input = Watched { input: &mut self.input, number: 0, ended: false };
        let result = sink(&mut input);
        let Watched { number, ended, .. } = input;
        if result.is_err() {
            // What is left of the archive is no answer to the next question.
            self.output = None;
            // Files that the daemon cannot read: it says so where a length of the archive would be.
            if number == stderr::ERROR
                && let Ok(text) = error_text(&mut self.input)
            {
                return Err(Error::new(Kind::Store, strip_colours(&text)));
            }
        }
        if ended { Err(self.gone(io::ErrorKind::UnexpectedEof.into())) } else { result }
    }

    pub fn referrers(&mut self, path: &StorePath) -> Result<BTreeSet<StorePath>> {
        let text = self.absolute(path);
        let found = self.ask(
            |out| {
                out.put_number(op::QUERY_REFERRERS)?;
                out.put_bytes(text.as_bytes())
            },
            |input| input.strings(),
        )?;
        found.iter().map(|text| self.parse(text)).collect()
    }

    /// Deletes exactly these paths, where nothing alive needs them.
    pub fn delete(&mut self, paths: &[StorePath]) -> Result<u64> {
        const DELETE_SPECIFIC: u64 = 3;
        self.collect(DELETE_SPECIFIC, paths)
    }

    /// Deletes everything that no root needs; says how many bytes that freed.
    pub fn collect_garbage(&mut self) -> Result<u64> {
        const DELETE_DEAD: u64 = 2;
        self.collect(DELETE_DEAD, &[])
    }

    fn collect(&mut self, action: u64, paths: &[StorePath]) -> Result<u64> {
        let all: Vec<String> = paths.iter().map(|p| self.absolute(p)).collect();
        self.ask(
            |out| {
                out.put_number(op::COLLECT_GARBAGE)?;
                out.put_number(action)?;
                out.put_strings(&all)?;
                // Not ignoring liveness, no limit, three obsolete numbers.
                [0, u64::MAX, 0, 0, 0].iter().try_for_each(|v| out.put_number(*v))
            },
            |input| {
                input.strings()?;
                let freed = input.number()?;
                input.number()?;
                Ok(freed)
            },
        )
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing its input tells a daemon of ours to end; then `Daemon`'s own drop waits for it.
        self.output = None;
    }
}

/// Notices the last number, and when the connection ends.
struct Watched<'a, R: Read> {
    input: &'a mut R,
    number: u64,
    ended: bool,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(bytes)?;
        self.ended |= n == 0 && !bytes.is_empty();
        for byte in &bytes[n.saturating_sub(8)..n] {
            self.number = self.number >> 8 | u64::from(*byte) << 56;
        }
        Ok(n)
    }
}

struct RawInfo {
    deriver: String,
    hash: String,
    references: Vec<String>,
    size: u64,
    ca: String,
}

fn info_fields(input: &mut impl Read) -> io::Result<RawInfo> {
    let deriver = input.string()?;
    let hash = input.string()?;
    let references = input.strings()?;
    input.number()?;
    let size = input.number()?;
    input.number()?;
    input.strings()?;
    let ca = input.string()?;
    Ok(RawInfo { deriver, hash, references, size, ca })
}

/// What an error message says, after the number that announces it.
fn error_text(input: &mut impl Read) -> io::Result<String> {
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
fn strip_colours(text: &str) -> String {
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
