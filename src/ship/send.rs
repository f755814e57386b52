//! The workstation's end of a transfer: one question for what is missing, then the missing paths over
//! several streams at once, each compressed on its own core, the largest first.
//!
//! A path goes out once everything it refers to is on the host or ahead of it on the same stream, because
//! a store takes no path whose references it lacks.
use crate::formats::nix::store_path::StorePath;
use crate::protocol::version;
use crate::protocol::wire::{self, ABORT, CHUNK, FromHost, Named, PathHeader, TRANSFER_VERSION, ToHost};
use crate::store::damage::{self, Depth};
use crate::store::{PathInfo, Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::Progress;
use parking_lot::{Condvar, Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::time::Instant;
use zstd::bulk::Compressor;

/// zstd's fastest level: a network is seldom faster.
const LEVEL: i32 = 1;

/// One conversation with `stillframe-agent receive`.
pub struct Channel {
    pub input: Box<dyn BufRead + Send>,
    pub output: Box<dyn Write + Send>,
    /// The host, for messages.
    pub host: String,
}

pub type Closure = BTreeMap<StorePath, PathInfo>;

/// What a host lacks of a closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub paths: Vec<StorePath>,
    /// NAR bytes that it has of a path from an earlier attempt.
    pub partial: HashMap<StorePath, u64>,
    /// Those of `paths` that the host's store believes to have: their files are gone or are something else.
    pub wrong: BTreeSet<StorePath>,
}

/// What a transfer brought.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sent {
    pub paths: u64,
    pub nar_bytes: u64,
    /// What went over the network for them.
    pub wire_bytes: u64,
    /// NAR bytes that an earlier attempt had brought.
    pub resumed_bytes: u64,
    pub seconds: f64,
}

impl Channel {
    fn gone(&self, e: io::Error) -> Error {
        gone(&self.host, e)
    }
}

fn gone(host: &str, e: io::Error) -> Error {
    Error::new(Kind::Io, format!("{host}: the connection ended during the transfer"))
        .caused_by(e)
        .hint("what arrived stays on the host: run the command again and it goes on from there")
}

fn unexpected(host: &str) -> Error {
    Error::new(Kind::Io, format!("{host}: the agent answered something else than was asked"))
        .hint("what is on that host's standard output at login must go: its shell prints to it")
}

fn failed(host: &str, path: Option<&str>, message: &str, hint: Option<String>) -> Error {
    let what = path.map(|p| format!("{p}: ")).unwrap_or_default();
    Error::new(Kind::Store, format!("{host}: {what}{message}")).maybe_hint(hint)
}

/// Asks which paths of a closure the host lacks, and roots all of it as long as the channel lives.
pub fn missing(channel: &mut Channel, store_dir: &str, closure: &Closure) -> Result<Missing> {
    ask_missing(channel, store_dir, closure)?;
    told_missing(channel, closure)
}

/// The question alone.
pub fn ask_missing(channel: &mut Channel, store_dir: &str, closure: &Closure) -> Result<()> {
    let plan = ToHost::Plan { version: TRANSFER_VERSION, store_dir: store_dir.into(), paths: named(closure) };
    wire::write_line(&mut channel.output, &plan).map_err(|e| channel.gone(e))
}

fn named(closure: &Closure) -> Vec<Named> {
    let places: HashMap<&StorePath, u32> = closure.keys().zip(0..).collect();
    let named = |(path, info): (&StorePath, &PathInfo)| Named {
        path: path.to_string(),
        nar_hash: info.nar_hash.to_base32(),
        nar_size: info.nar_size,
        references: info.references.iter().filter_map(|r| places.get(r).copied()).collect(),
    };
    closure.iter().map(named).collect()
}

/// Its answer.
pub fn told_missing(channel: &mut Channel, closure: &Closure) -> Result<Missing> {
    let answer = wire::read_line(&mut channel.input).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => unexpected(&channel.host),
        _ => channel.gone(e),
    })?;
    match answer {
        Some(FromHost::Missing { version, missing, partial, wrong }) => {
            version::check(version, TRANSFER_VERSION).map_err(|e| {
                Error::new(Kind::Host, format!("{}: its agent's transfer is of {e}", channel.host))
                    .hint("deploy with the newer stillframe")
            })?;
            let parse = |text: &str| {
                StorePath::from_base_name(text)
                    .ok()
                    .filter(|p| closure.contains_key(p))
                    .ok_or_else(|| unexpected(&channel.host))
            };
            let paths = missing.iter().map(|p| parse(p)).collect::<Result<_>>()?;
            let partial = partial.iter().map(|(p, n)| Ok((parse(p)?, *n))).collect::<Result<_>>()?;
            let wrong = wrong.iter().map(|p| parse(p)).collect::<Result<_>>()?;
            Ok(Missing { paths, partial, wrong })
        }
        Some(FromHost::Failed { path, message, hint }) => {
            Err(failed(&channel.host, path.as_deref(), &message, hint))
        }
        Some(FromHost::Done { .. } | FromHost::Settled) => Err(unexpected(&channel.host)),
        None => Err(channel.gone(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// After the last of `paths` has arrived: the host makes them durable. `channel`: the one that was asked.
pub fn settle<'a>(channel: &mut Channel, paths: impl IntoIterator<Item = &'a StorePath>) -> Result<()> {
    let settle = ToHost::Settle { paths: paths.into_iter().map(StorePath::to_string).collect() };
    wire::write_line(&mut channel.output, &settle).map_err(|e| channel.gone(e))?;
    match wire::read_line(&mut channel.input).map_err(|e| channel.gone(e))? {
        Some(FromHost::Settled) => Ok(()),
        Some(FromHost::Failed { path, message, hint }) => {
            Err(failed(&channel.host, path.as_deref(), &message, hint))
        }
        Some(FromHost::Done { .. } | FromHost::Missing { .. }) => Err(unexpected(&channel.host)),
        None => Err(channel.gone(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// What the streams share.
struct State {
    /// Not yet on their way, the largest first.
    waiting: Vec<StorePath>,
    /// On their way, and over which channel.
    under_way: HashMap<StorePath, usize>,
    arrived: HashSet<StorePath>,
    failed: Option<Error>,
    sent: Sent,
}

struct Transfer<'a> {
    closure: &'a Closure,
    lacking: HashSet<&'a StorePath>,
    partial: &'a HashMap<StorePath, u64>,
    wrong: &'a BTreeSet<StorePath>,
    source: &'a StoreConfig,
    progress: &'a dyn Progress,
    check: &'a (dyn Fn() -> Result<()> + Sync),
    state: Mutex<State>,
    changed: Condvar,
}

/// Sends what is missing. Every channel is used; the first is often the one that was asked. `check` is asked
/// all the time, and its error ends the transfer. Before the first byte each path is looked at: one that was written to
/// since Nix registered it would end the transfer, after everything that goes before it.
pub fn send(
    source: &StoreConfig,
    closure: &Closure,
    missing: &Missing,
    channels: &mut [Channel],
    progress: &dyn Progress,
    check: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Sent> {
    let started = Instant::now();
    damage::refuse(source, known(closure, &missing.paths), Depth::Suspects)?;
    let size = |path: &StorePath| closure.get(path).map_or(0, |info| info.nar_size);
    let mut waiting = missing.paths.clone();
    waiting.sort_by_key(|path| std::cmp::Reverse(size(path)));
    let transfer = Transfer {
        closure,
        lacking: missing.paths.iter().collect(),
        partial: &missing.partial,
        wrong: &missing.wrong,
        source,
        progress,
        check,
        state: Mutex::new(State {
            waiting,
            under_way: HashMap::new(),
            arrived: HashSet::new(),
            failed: None,
            sent: Sent::default(),
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for (number, channel) in channels.iter_mut().enumerate() {
            let Channel { input, output, host } = channel;
            let transfer = &transfer;
            let host = host.as_str();
            scope.spawn(move || transfer.hear(number, host, input.as_mut()));
            scope.spawn(move || {
                if let Err(e) = transfer.tell(number, host, output.as_mut()) {
                    transfer.fail(e);
                    // A host that was promised more than came waits for it until the line ends.
                    *output = Box::new(io::sink());
                }
            });
        }
    });
    let state = transfer.state.into_inner();
    match state.failed {
        Some(e) => Err(e),
        None => Ok(Sent { seconds: started.elapsed().as_secs_f64(), ..state.sent }),
    }
}

fn known<'a>(
    closure: &'a Closure,
    paths: impl IntoIterator<Item = &'a StorePath>,
) -> impl Iterator<Item = (&'a StorePath, &'a PathInfo)> {
    paths.into_iter().filter_map(|path| Some((path, closure.get(path)?)))
}

impl Transfer<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A path that was written to after it was looked at has another length or hash than the host and the daemon were told
    /// of. Each of them fails in words of its own; what is the matter is said in its place.
    fn cause(&self, error: Error) -> Error {
        if error.kind == Kind::Interrupted || self.state().failed.is_some() {
            return error;
        }
        let begun: Vec<StorePath> = {
            let state = self.state();
            self.lacking.iter().filter(|p| !state.waiting.contains(p)).map(|p| (*p).clone()).collect()
        };
        damage::refuse(self.source, known(self.closure, &begun), Depth::Suspects).err().unwrap_or(error)
    }

    /// The host refused a path: its bytes here may be others although no time stamp says so.
    fn refused(&self, path: Option<&str>, error: Error) -> Error {
        let path = path.and_then(|path| StorePath::from_base_name(path).ok());
        damage::refuse(self.source, known(self.closure, &path), Depth::Everything).err().unwrap_or(error)
    }

    fn fail(&self, error: Error) {
        let error = self.cause(error);
        let mut state = self.state();
        // The first says what went wrong; what follows from it does not.
        state.failed.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Reads a host's answers until all it was sent has arrived.
    fn hear(&self, number: usize, host: &str, input: &mut dyn BufRead) {
        loop {
            {
                let mut state = self.state();
                while !state.under_way.values().any(|n| *n == number) {
                    if state.failed.is_some() || state.waiting.is_empty() {
                        return;
                    }
                    self.changed.wait(&mut state);
                }
            }
            let error = match wire::read_line(input) {
                Ok(Some(FromHost::Done { path })) => {
                    let mut state = self.state();
                    let Some(path) =
                        StorePath::from_base_name(&path).ok().filter(|p| state.under_way.remove(p).is_some())
                    else {
                        drop(state);
                        return self.fail(unexpected(host));
                    };
                    state.sent.paths += 1;
                    state.arrived.insert(path);
                    self.changed.notify_all();
                    continue;
                }
                Ok(Some(FromHost::Failed { path, message, hint })) => {
                    self.refused(path.as_deref(), failed(host, path.as_deref(), &message, hint))
                }
                Ok(Some(FromHost::Missing { .. } | FromHost::Settled)) => unexpected(host),
                Ok(None) => gone(host, io::ErrorKind::UnexpectedEof.into()),
                Err(e) => gone(host, e),
            };
            return self.fail(error);
        }
    }

    /// The largest path that may go over this channel now; waits for one. `None`: no more are left.
    fn next(&self, number: usize) -> Option<StorePath> {
        let mut state = self.state();
        loop {
            if state.failed.is_some() || state.waiting.is_empty() {
                return None;
            }
            let may = |path: &StorePath| {
                self.closure[path]
                    .references
                    .iter()
                    .filter(|r| *r != path && self.lacking.contains(r))
                    .all(|r| state.arrived.contains(r) || state.under_way.get(r) == Some(&number))
            };
            if let Some(at) = state.waiting.iter().position(may) {
                let path = state.waiting.remove(at);
                state.under_way.insert(path.clone(), number);
                self.changed.notify_all();
                return Some(path);
            }
            self.changed.wait(&mut state);
        }
    }

    fn tell(&self, number: usize, host: &str, output: &mut dyn Write) -> Result<()> {
        let mut out = BufWriter::with_capacity(256 * 1024, output);
        let mut store = None;
        let mut packer = Packer::new()?;
        while let Some(path) = self.next(number) {
            (self.check)()?;
            let store = match &mut store {
                Some(store) => store,
                none => none.insert(Store::connect(self.source)?),
            };
            let info = &self.closure[&path];
            // Once more: of a path that has become shorter the daemon would send less than is waited for.
            damage::refuse(self.source, [(&path, info)], Depth::Suspects)?;
            let skip = self.partial.get(&path).copied().unwrap_or(0);
            let header = PathHeader {
                path: path.to_string(),
                nar_hash: info.nar_hash.to_hex(),
                nar_size: info.nar_size,
                references: info.references.iter().map(StorePath::to_string).collect(),
                deriver: info.deriver.as_ref().map(StorePath::to_string),
                ca: info.ca.clone(),
                skip,
                replace: self.wrong.contains(&path),
            };
            wire::write_line(&mut out, &ToHost::Path(header)).map_err(|e| gone(host, e))?;
            let mut broken = None;
            let sent = store.nar(&path, |nar| {
                packer.pack(nar, info.nar_size, skip, &mut out, self).map_err(|e| match e {
                    Failure::Wire(e) => {
                        broken = Some(e);
                        Error::new(Kind::Io, "the connection ended")
                    }
                    Failure::Ours(e) => e,
                })
            });
            if let Some(e) = broken {
                return Err(gone(host, e));
            }
            let wire_bytes = sent.inspect_err(|_| {
                // The host must not take what it has for the whole; if it is gone too, it knows.
                let _ = out
                    .write_all(&ABORT.to_le_bytes())
                    .and_then(|()| out.write_all(&[0; 4]))
                    .and_then(|()| out.flush());
            })?;
            out.flush().map_err(|e| gone(host, e))?;
            let mut state = self.state();
            state.sent.nar_bytes += info.nar_size - skip;
            state.sent.wire_bytes += wire_bytes;
            state.sent.resumed_bytes += skip;
        }
        Ok(())
    }
}

enum Failure {
    Wire(io::Error),
    Ours(Error),
}

/// Compresses NARs, a chunk at a time.
struct Packer {
    zstd: Compressor<'static>,
    raw: Vec<u8>,
    frame: Vec<u8>,
}

impl Packer {
    fn new() -> Result<Packer> {
        let cannot = |e| Error::new(Kind::Io, "cannot start zstd").caused_by(e);
        Ok(Packer { zstd: Compressor::new(LEVEL).map_err(cannot)?, raw: Vec::new(), frame: Vec::new() })
    }

    /// Everything of one NAR behind `skip`. Returns the bytes written.
    fn pack(
        &mut self,
        nar: &mut dyn Read,
        size: u64,
        skip: u64,
        out: &mut dyn Write,
        transfer: &Transfer,
    ) -> Result<u64, Failure> {
        let unreadable =
            |e| Failure::Ours(Error::new(Kind::Store, "the Nix daemon's archive ended early").caused_by(e));
        io::copy(&mut nar.take(skip), &mut io::sink()).map_err(unreadable)?;
        let (mut left, mut written) = (size - skip, 8);
        while left > 0 {
            (transfer.check)().map_err(Failure::Ours)?;
            let n = left.min(CHUNK as u64) as usize;
            self.raw.resize(n, 0);
            nar.read_exact(&mut self.raw).map_err(unreadable)?;
            self.frame.clear();
            self.frame.reserve(zstd::zstd_safe::compress_bound(n));
            self.zstd
                .compress_to_buffer(&self.raw, &mut self.frame)
                .map_err(|e| Failure::Ours(Error::new(Kind::Io, "zstd cannot compress").caused_by(e)))?;
            wire::put_chunk(out, &self.frame, n).map_err(Failure::Wire)?;
            written += 8 + self.frame.len() as u64;
            left -= n as u64;
            transfer.progress.advance(n as u64);
        }
        wire::put_chunk(out, &[], 0).map_err(Failure::Wire)?;
        Ok(written)
    }
}
