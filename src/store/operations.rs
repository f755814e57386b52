//! What a store is asked for and told: which paths it has and what they are, new trees, builds, archives, roots,
//! and letting go. How it is spoken with is in `client`.
use super::ahead::Text;
use super::client::{PathInfo, Store, error_text, strip_colours};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::StorePath;
use crate::formats::nix::worker::{ReadWire, WriteWire, op, stderr};
use crate::sys::error::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

impl Store {
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
            maybe_info,
        )?;
        found.map(|raw| self.path_info(raw)).transpose()
    }

    /// The answer to such a question that was sent ahead.
    pub(super) fn read_info(&mut self) -> Result<Option<PathInfo>> {
        let found = maybe_info(&mut self.input).map_err(|e| self.gone(e))?;
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
        self.closure_knowing(roots, BTreeMap::new())
    }

    /// The same, with what is known already of paths that the store has.
    pub fn closure_knowing(
        &mut self,
        roots: &[StorePath],
        mut known: BTreeMap<StorePath, PathInfo>,
    ) -> Result<BTreeMap<StorePath, PathInfo>> {
        let mut found = BTreeMap::new();
        let mut open: Vec<StorePath> = roots.to_vec();
        while let Some(path) = open.pop() {
            if found.contains_key(&path) {
                continue;
            }
            let info = known.remove(&path).map_or_else(|| self.known(&path), Ok)?;
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

    /// The same in place of what lies there, which is something else.
    pub fn replace_tree(
        &mut self,
        name: &str,
        references: &BTreeSet<StorePath>,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<StorePath> {
        self.add_by("fixed:r:sha256", name, references, true, write).map(|(path, _)| path)
    }

    /// The same for a text.
    pub fn replace_text(&mut self, text: &Text<'_>) -> Result<StorePath> {
        let references = text.references.iter().cloned().collect();
        let write = |out: &mut dyn Write| {
            out.write_all(text.bytes).map_err(|e| Error::new(Kind::Store, "cannot send a text").caused_by(e))
        };
        self.add_by("text:sha256", text.name, &references, true, write).map(|(path, _)| path)
    }

    /// The same, for a tree that nobody has hashed yet: the daemon's answer says what it is.
    pub fn add_unhashed(
        &mut self,
        name: &str,
        references: &BTreeSet<StorePath>,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<(StorePath, PathInfo)> {
        self.add_by("fixed:r:sha256", name, references, false, write)
    }

    fn add_by(
        &mut self,
        method: &str,
        name: &str,
        references: &BTreeSet<StorePath>,
        repair: bool,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<(StorePath, PathInfo)> {
        let references: Vec<String> = references.iter().map(|p| self.absolute(p)).collect();
        self.ask_with_archive(
            |out| {
                out.put_number(op::ADD_TO_STORE)?;
                out.put_bytes(name.as_bytes())?;
                out.put_bytes(method.as_bytes())?;
                out.put_strings(&references)?;
                out.put_number(u64::from(repair))
            },
            write,
            |store| {
                let answer = store.input.string().and_then(|path| Ok((path, info_fields(&mut store.input)?)));
                let (path, info) = answer.map_err(|e| store.gone(e))?;
                Ok((store.parse(&path)?, store.path_info(info)?))
            },
        )
    }

    /// Builds derivations (all their outputs); what is valid already is not built again.
    pub fn build(&mut self, derivations: &[StorePath]) -> Result<()> {
        const NORMAL: u64 = 0;
        self.build_in(NORMAL, derivations)
    }

    /// Builds again what is not as it was registered, and puts it in the place of that. For a user whom the daemon trusts.
    pub fn rebuild(&mut self, derivations: &[StorePath]) -> Result<()> {
        const REPAIR: u64 = 1;
        self.build_in(REPAIR, derivations)
    }

    fn build_in(&mut self, mode: u64, derivations: &[StorePath]) -> Result<()> {
        let wanted: Vec<String> = derivations.iter().map(|d| format!("{}!*", self.absolute(d))).collect();
        self.ask(
            |out| {
                out.put_number(op::BUILD_PATHS)?;
                out.put_strings(&wanted)?;
                out.put_number(mode)
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

fn maybe_info(input: &mut impl Read) -> io::Result<Option<RawInfo>> {
    if input.number()? == 0 { Ok(None) } else { info_fields(input).map(Some) }
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
