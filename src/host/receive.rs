//! `stillframe-agent receive`: takes paths from the workstation and gives them to this host's Nix daemon.
//!
//! A large NAR is also kept as it arrives, in whole chunks. When the connection is cut, the next attempt
//! asks only for what is behind them; the daemon's hash check at the end covers both parts.
//!
//! What the store has already counts only where it is what the workstation says (`verified`).
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::{StoreDir, StorePath};
use crate::host::layout::Layout;
use crate::host::verified::{Expected, Verified, Wanted};
use crate::protocol::wire::{
    self, ABORT, CHUNK, FromHost, KEEP_FROM, Named, PathHeader, TRANSFER_VERSION, ToHost,
};
use crate::store::{PathInfo, Store, StoreConfig};
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use zstd::bulk::Decompressor;

/// What nobody came back for is deleted after this.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Serves one connection until its end.
pub fn receive(
    input: impl Read,
    mut output: impl Write,
    config: &StoreConfig,
    layout: &Layout,
) -> Result<()> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let lost = |e: io::Error| Error::new(Kind::Io, "the workstation's connection ended").caused_by(e);
    let mut receiver = None;
    loop {
        let Some(message) = wire::read_line::<ToHost>(&mut input).map_err(lost)? else { return Ok(()) };
        let receiver = match &mut receiver {
            Some(receiver) => receiver,
            none => none.insert(Receiver::new(config, layout)?),
        };
        let answer = match message {
            ToHost::Plan { version, store_dir, paths } => receiver.plan(version, &store_dir, &paths),
            ToHost::Settle { paths } => receiver.settle(&paths),
            ToHost::Path(header) => {
                let path = header.path.clone();
                match receiver.take(&header, &mut input) {
                    Ok(()) => Ok(FromHost::Done { path }),
                    Err(Failure::Connection(e)) => return Err(lost(e)),
                    Err(Failure::Ours(e)) => {
                        let message = e.full();
                        Ok(FromHost::Failed { path: Some(path), message, hint: e.hint })
                    }
                }
            }
        };
        let answer =
            answer.unwrap_or_else(|e| FromHost::Failed { path: None, message: e.full(), hint: e.hint });
        wire::write_line(&mut output, &answer).map_err(lost)?;
    }
}

enum Failure {
    /// Nothing more will come, and nobody hears us.
    Connection(io::Error),
    Ours(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Ours(e)
    }
}

struct Receiver {
    store: Store,
    /// Unfinished NARs.
    kept: PathBuf,
    verified: Verified,
    asked: Asked,
}

/// What this connection was asked for.
#[derive(Default)]
struct Asked {
    wanted: Wanted,
    missing: BTreeSet<StorePath>,
    /// Those of the missing that the store believes to have.
    wrong: BTreeSet<StorePath>,
}

impl Receiver {
    fn new(config: &StoreConfig, layout: &Layout) -> Result<Receiver> {
        let kept = layout.incoming();
        fs::create_dir_all(&kept).map_err(|e| Error::io("create directory", &kept, e))?;
        let verified = Verified::new(layout, config);
        Ok(Receiver { store: Store::connect(config)?, kept, verified, asked: Asked::default() })
    }

    fn plan(&mut self, version: u32, store_dir: &str, paths: &[Named]) -> Result<FromHost> {
        if version != TRANSFER_VERSION {
            return Err(Error::new(
                Kind::Input,
                format!("the workstation speaks transfer version {version}, this host {TRANSFER_VERSION}"),
            )
            .hint("stillframe and the agent it ships must be of one version: build both anew"));
        }
        if store_dir != self.store.store_dir.0 {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "the snapshot is for the store {store_dir}, this host's is {}",
                    self.store.store_dir.0
                ),
            ));
        }
        let wanted = expected(paths)?;
        let all: BTreeSet<StorePath> = wanted.keys().cloned().collect();
        // Before the question, so that no garbage collector comes between it and the answer's use.
        fault::around(fault::HOST, "copy/roots", || self.store.add_temp_roots(&all))?;
        let valid = self.store.valid(&all)?;
        let wrong = self.verified.wrong(&mut self.store, &wanted, &valid)?;
        self.forget_stale();
        let missing: BTreeSet<StorePath> =
            all.into_iter().filter(|path| !valid.contains(path) || wrong.contains(path)).collect();
        let partial: BTreeMap<String, u64> = missing
            .iter()
            .map(StorePath::to_string)
            .filter_map(|path| Some((path.clone(), whole_chunks(&self.file_of(&path)).ok()?.0)))
            .filter(|(_, bytes)| *bytes > 0)
            .collect();
        let names = |paths: &BTreeSet<StorePath>| paths.iter().map(StorePath::to_string).collect();
        let answer = FromHost::Missing {
            version: TRANSFER_VERSION,
            missing: names(&missing),
            partial,
            wrong: names(&wrong),
        };
        self.asked = Asked { wanted, missing, wrong };
        Ok(answer)
    }

    fn settle(&mut self, paths: &[String]) -> Result<FromHost> {
        let brought = paths.iter().map(|p| parse(p)).collect::<Result<_>>()?;
        let Asked { wanted, missing, wrong } = &self.asked;
        // Of what was not missing, nobody here knows that it was brought.
        let doubtful = wrong | &(&brought - missing);
        let left = fault::around(fault::HOST, "copy/settle", || {
            self.verified.settle(&mut self.store, wanted, &brought, &doubtful)
        })?;
        if let Some(path) = left.first() {
            let more = if left.len() > 1 { format!(" and {} more", left.len() - 1) } else { String::new() };
            let text = format!("{path}{more} did not arrive as the workstation has it");
            return Err(Error::new(Kind::Store, text).hint(
                "something else changes this host's store: look what runs there, then run the command again",
            ));
        }
        Ok(FromHost::Settled)
    }

    fn file_of(&self, path: &str) -> PathBuf {
        self.kept.join(format!("{path}.nar"))
    }

    fn forget_stale(&self) {
        let Ok(entries) = fs::read_dir(&self.kept) else { return };
        let now = UNIX_EPOCH + Duration::from_millis(clock::now_ms());
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).ok();
            let age = age.and_then(|at| now.duration_since(at).ok());
            if age.is_some_and(|age| age > STALE) {
                // Only space is lost when this fails, and the next plan tries again.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn take(&mut self, header: &PathHeader, input: &mut dyn BufRead) -> Result<(), Failure> {
        let path = parse(&header.path)?;
        let info = info_of(header)?;
        let file = self.file_of(&header.path);
        let mut arrived = Arriving { input, keep: None, broken: None, finished: false };
        if header.skip > 0 {
            let (bytes, end) = whole_chunks(&file).map_err(|e| Error::io("read", &file, e))?;
            if bytes != header.skip {
                let message = format!("{} holds {bytes} bytes, not {}", file.display(), header.skip);
                return Err(Error::new(Kind::Io, message).hint("run the command again").into());
            }
            arrived.keep = Some(Kept::go_on(&file, end).map_err(|e| Error::io("open", &file, e))?);
        } else if header.nar_size >= KEEP_FROM {
            // Without it (no room, say) the path arrives all the same.
            arrived.keep = Kept::begin(&file).ok();
        }
        // Another deployment may have mended it since, and what is right is never written again: it may be in use.
        let repair =
            header.replace && self.verified.is_wrong(&mut self.store, &path, &Expected::of(&info))?;
        fault::point(fault::HOST, "copy/register")?;
        let result = self.store.add_nar(&path, &info, repair, |out| {
            if header.skip > 0 {
                replay(&file, out)?;
            }
            arrived.pass_on(out)
        });
        let result = result.and_then(|()| fault::point(fault::HOST, "copy/registered"));
        if let Some(e) = arrived.broken.take() {
            // What arrived whole stays for the next attempt.
            return Err(Failure::Connection(e));
        }
        if !arrived.finished {
            // The daemon is gone: what still comes is not for anybody, but the next message is behind it.
            arrived.skip_rest().map_err(Failure::Connection)?;
        }
        drop(arrived);
        // Stored, or refused as a whole: neither needs it.
        let _ = fs::remove_file(&file);
        result.map_err(Failure::Ours)
    }
}

fn parse(base: &str) -> Result<StorePath> {
    StorePath::from_base_name(base)
        .map_err(|e| Error::new(Kind::Input, format!("the workstation named a bad path: {e}")))
}

/// What a plan names.
fn expected(paths: &[Named]) -> Result<Wanted> {
    let all = paths.iter().map(|named| parse(&named.path)).collect::<Result<Vec<StorePath>>>()?;
    let bad = || Error::new(Kind::Input, "the workstation named a reference that is not in its plan");
    let one = |(named, path): (&Named, &StorePath)| {
        let references = named.references.iter().map(|at| all.get(*at as usize).cloned().ok_or_else(bad));
        let expected = Expected {
            nar_hash: hash(&named.nar_hash)?,
            nar_size: named.nar_size,
            references: references.collect::<Result<_>>()?,
        };
        Ok((path.clone(), expected))
    };
    paths.iter().zip(&all).map(one).collect()
}

fn hash(text: &str) -> Result<Sha256> {
    Sha256::parse(&format!("sha256:{text}"))
        .map_err(|e| Error::new(Kind::Input, "the workstation sent a bad hash").caused_by(e))
}

fn info_of(header: &PathHeader) -> Result<PathInfo> {
    Ok(PathInfo {
        nar_hash: hash(&header.nar_hash)?,
        nar_size: header.nar_size,
        references: header.references.iter().map(|r| parse(r)).collect::<Result<_>>()?,
        deriver: header.deriver.as_deref().map(parse).transpose()?,
        ca: header.ca.clone(),
    })
}

/// A NAR that is kept while it arrives.
struct Kept {
    out: BufWriter<File>,
    path: PathBuf,
}

impl Kept {
    fn begin(path: &Path) -> io::Result<Kept> {
        Ok(Kept { out: BufWriter::new(File::create(path)?), path: path.to_path_buf() })
    }

    fn go_on(path: &Path, end: u64) -> io::Result<Kept> {
        let mut file = File::options().write(true).open(path)?;
        // Behind the last whole chunk.
        file.set_len(end)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(end))?;
        Ok(Kept { out: BufWriter::new(file), path: path.to_path_buf() })
    }
}

/// The chunks of one NAR on their way to the daemon.
struct Arriving<'a> {
    input: &'a mut dyn BufRead,
    keep: Option<Kept>,
    broken: Option<io::Error>,
    finished: bool,
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_string())
}

/// The frame of the next chunk and how long it is unpacked; `None` at the end.
fn next_frame<'b>(input: &mut dyn Read, frame: &'b mut Vec<u8>) -> io::Result<Option<(&'b [u8], usize)>> {
    let (wire, raw) = wire::chunk_head(input)?;
    if (wire, raw) == (0, 0) {
        return Ok(None);
    }
    if wire == ABORT {
        return Err(bad("the workstation cannot read the path any more"));
    }
    let (wire, raw) = (wire as usize, raw as usize);
    if raw > CHUNK || wire > zstd::zstd_safe::compress_bound(CHUNK) {
        return Err(bad("a chunk is longer than agreed"));
    }
    frame.resize(wire, 0);
    input.read_exact(frame)?;
    Ok(Some((frame, raw)))
}

impl Arriving<'_> {
    fn pass_on(&mut self, out: &mut dyn Write) -> Result<()> {
        let mut unpack = unpacker()?;
        let (mut frame, mut raw) = (Vec::new(), Vec::with_capacity(CHUNK));
        loop {
            let (bytes, length) = match next_frame(self.input, &mut frame) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(e) => {
                    self.close_kept();
                    self.broken = Some(e);
                    return Err(Error::new(Kind::Io, "the connection ended within a path"));
                }
            };
            unpack_chunk(&mut unpack, bytes, length, &mut raw)?;
            if let Some(kept) = &mut self.keep
                && wire::put_chunk(&mut kept.out, bytes, length).is_err()
            {
                // No room for it: the path goes on without.
                let path = kept.path.clone();
                self.keep = None;
                let _ = fs::remove_file(path);
            }
            out.write_all(&raw)
                .map_err(|e| Error::new(Kind::Store, "cannot write to the Nix daemon").caused_by(e))?;
        }
        self.finished = true;
        self.close_kept();
        Ok(())
    }

    fn close_kept(&mut self) {
        if let Some(mut kept) = self.keep.take() {
            // A chunk that is not whole is not counted the next time.
            let _ = kept.out.flush();
        }
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        let mut frame = Vec::new();
        while next_frame(self.input, &mut frame)?.is_some() {}
        Ok(())
    }
}

fn unpacker() -> Result<Decompressor<'static>> {
    Decompressor::new().map_err(|e| Error::new(Kind::Io, "cannot start zstd").caused_by(e))
}

fn unpack_chunk(unpack: &mut Decompressor, frame: &[u8], length: usize, raw: &mut Vec<u8>) -> Result<()> {
    raw.clear();
    raw.reserve(length);
    let n = unpack
        .decompress_to_buffer(frame, raw)
        .map_err(|e| Error::new(Kind::Io, "a chunk is damaged").caused_by(e).hint("run the command again"))?;
    if n != length {
        return Err(
            Error::new(Kind::Io, "a chunk is damaged: it has another length").hint("run the command again")
        );
    }
    Ok(())
}

/// NAR bytes in the whole chunks of a kept file, and where the last of them ends.
fn whole_chunks(file: &Path) -> io::Result<(u64, u64)> {
    let file = File::open(file)?;
    let size = file.metadata()?.len();
    let mut input = BufReader::new(file);
    let (mut bytes, mut end) = (0, 0);
    while let Ok((wire, raw)) = wire::chunk_head(&mut input) {
        let next = end + 8 + u64::from(wire);
        if next > size || raw as usize > CHUNK || (wire, raw) == (0, 0) {
            break;
        }
        input.seek_relative(i64::from(wire))?;
        (bytes, end) = (bytes + u64::from(raw), next);
    }
    Ok((bytes, end))
}

/// What an earlier attempt kept, to the daemon.
fn replay(file: &Path, out: &mut dyn Write) -> Result<()> {
    let opened = File::open(file).map_err(|e| Error::io("open", file, e))?;
    let (_, end) = whole_chunks(file).map_err(|e| Error::io("read", file, e))?;
    let mut input = BufReader::with_capacity(256 * 1024, opened).take(end);
    let mut unpack = unpacker()?;
    let (mut frame, mut raw) = (Vec::new(), Vec::with_capacity(CHUNK));
    while input.limit() > 0 {
        let Some((bytes, length)) =
            next_frame(&mut input, &mut frame).map_err(|e| Error::io("read", file, e))?
        else {
            break;
        };
        unpack_chunk(&mut unpack, bytes, length, &mut raw)?;
        out.write_all(&raw)
            .map_err(|e| Error::new(Kind::Store, "cannot write to the Nix daemon").caused_by(e))?;
    }
    Ok(())
}

/// Paths of a closure whose files were deleted by hand: the store believes to have them.
pub fn deleted(config: &StoreConfig, root: &str) -> Result<Vec<String>> {
    let root = StorePath::from_absolute(&config.store_dir, root)
        .map_err(|e| Error::new(Kind::Input, format!("{root} is no store path")).caused_by(e))?;
    let closure = Store::connect(config)?.closure(&[root])?;
    let gone = closure.keys().filter(|path| fs::symlink_metadata(config.on_disk(path)).is_err());
    Ok(gone.map(|path| path.to_absolute(&config.store_dir)).collect())
}

/// The store this host's agent speaks to.
pub fn store_config(store_dir: Option<&str>) -> StoreConfig {
    let mut config = StoreConfig::from_environment(None);
    if let Some(dir) = store_dir {
        config.store_dir = StoreDir(dir.into());
    }
    config
}
