//! The host's program as a store path: it ships like everything else, so versions always match, and a
//! host that has it already gets nothing.
use crate::formats::elf;
use crate::formats::nix::nar::NarWriter;
use crate::formats::nix::store_path::StorePath;
use crate::formats::nix::worker::WriteWire;
use crate::ship::ssh::Remote;
use crate::store::damage::{self, Depth};
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between a NAR and what is known of its path (`export-import.cc`).
const EXPORT_MAGIC: u64 = 0x4558_494e;

const NAME: &str = "stillframe-agent";
const BRING_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub path: StorePath,
    /// The program's absolute path, there and here.
    pub program: String,
}

/// In libexec, as packages have it; `STILLFRAME_AGENT` names another.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("STILLFRAME_AGENT").filter(|v| !v.is_empty()) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let own = own.canonicalize().unwrap_or(own);
    let folder = own.parent().unwrap_or(Path::new("/"));
    let places = [
        folder.join("../libexec/stillframe").join(NAME),
        // A build tree: what cargo puts beside this program is not static.
        folder.join(format!("../{}-unknown-linux-musl/release", std::env::consts::ARCH)).join(NAME),
    ];
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        Error::new(
            Kind::Input,
            format!("there is no {NAME} at {} or {}", places[0].display(), places[1].display()),
        )
        .hint("build it (make agent), or name it in STILLFRAME_AGENT")
    })
}

/// Adds the agent to this machine's store.
pub fn add(store: &mut Store) -> Result<Agent> {
    let file = find()?;
    let open = || File::open(&file).map_err(|e| Error::io("open", &file, e));
    let size = open()?.metadata().map_err(|e| Error::io("read", &file, e))?.len();
    let info = elf::read(&mut open()?)
        .map_err(|e| Error::new(Kind::Input, format!("{} is no program: {e}", file.display())))?;
    if info.interp.is_some() || !info.needed.is_empty() {
        return Err(Error::new(Kind::Input, format!("{} is not static", file.display()))
            .hint("hosts have other libraries than this machine: build it with `make agent`"));
    }
    let name = format!("{NAME}-{}", env!("CARGO_PKG_VERSION"));
    let write = |out: &mut dyn Write| {
        let opened = open()?;
        let write = |out: &mut dyn Write| -> io::Result<()> {
            let mut nar = NarWriter::new(out)?;
            nar.directory(b"")?;
            nar.directory(b"bin")?;
            nar.file::<io::Error>(NAME.as_bytes(), true, size, |out| io::copy(&mut &opened, out).map(drop))?;
            nar.end_directory()?;
            nar.end_directory()?;
            nar.finish().map(drop)
        };
        write(out).map_err(|e| Error::io("read", &file, e))
    };
    let mut path = store.add_tree(&name, &BTreeSet::new(), write)?;
    let info = store.info(&path)?;
    let known = info.as_ref().map(|info| (&path, info));
    if !damage::damaged(&store.config, known, Depth::Suspects)?.is_empty() {
        path = store.replace_tree(&name, &BTreeSet::new(), write)?;
    }
    let program = format!("{}/bin/{NAME}", path.to_absolute(&store.store_dir));
    Ok(Agent { path, program })
}

const RUNS: &str = "runs";
/// An empty file is a script to a shell, and succeeds: only what an agent says of itself counts.
const IMPORT: &str = concat!(
    include_str!("places.sh"),
    "gzip -dc | nix-store --import >/dev/null || exit; \
     case $(\"$1\" --version 2>/dev/null </dev/null) in \"stillframe-agent \"*) echo runs ;; esac"
);

/// Beside the store, where a host's agent in the store does not run: there is nothing yet that could mend it.
const BESIDE: &str = "/var/lib/stillframe/incoming/stillframe-agent";
/// Where the agent is not what was compared, the record of what was (`host::verified`) is not relied on either.
const PUT_BESIDE: &str = "umask 077 && mkdir -p \"${1%/*}\" && rm -f \"${1%/*/*}/verified.json\" && gzip -dc >\"$1.$$\" && \
    chmod 700 \"$1.$$\" && mv \"$1.$$\" \"$1\"";

/// Puts the agent's program beside the store of a host; where.
pub fn bring_beside(remote: &Remote) -> Result<String> {
    let file = find()?;
    let lost = |e: io::Error| Error::io("read", &file, e);
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    io::copy(&mut File::open(&file).map_err(lost)?, &mut packed).map_err(lost)?;
    let stream = packed.finish().map_err(lost)?;
    remote.must(&["sh", "-c", PUT_BESIDE, "sh", BESIDE], &stream, BRING_LIMIT)?;
    Ok(BESIDE.into())
}

pub fn remove_beside(remote: &Remote) {
    // Left there it only takes room, and the next one is written over it.
    let _ = remote.run(&["rm", "-f", BESIDE], &[], BRING_LIMIT);
}

/// Gives a host the agent, in one stream that Nix's own `nix-store --import` takes: ours is not there yet.
/// gzip, because every Linux has it. Whether it runs there: what a store believes to have, it does not write.
pub fn bring(agent: &Agent, remote: &Remote, source: &StoreConfig) -> Result<bool> {
    let mut store = Store::connect(source)?;
    let Some(info) = store.info(&agent.path)? else {
        return Err(Error::new(Kind::Store, format!("{} is not in the store any more", agent.program))
            .hint("run the command again"));
    };
    let mut export = GzEncoder::new(Vec::new(), Compression::fast());
    let lost = |e: io::Error| Error::new(Kind::Store, "cannot read the agent from the store").caused_by(e);
    // The format of `nix-store --export`: for each path 1, its NAR, a magic number, what is known of it; then 0.
    export.put_number(1).map_err(lost)?;
    store.nar(&agent.path, |nar| {
        io::copy(&mut io::Read::take(nar, info.nar_size), &mut export).map(drop).map_err(lost)
    })?;
    let rest = |out: &mut dyn Write| -> io::Result<()> {
        out.put_number(EXPORT_MAGIC)?;
        out.put_bytes(agent.path.to_absolute(&source.store_dir).as_bytes())?;
        // No references, no deriver, no signature; no further path.
        [0, 0, 0, 0].iter().try_for_each(|n| out.put_number(*n))
    };
    rest(&mut export).map_err(lost)?;
    let stream = export.finish().map_err(lost)?;
    let said = remote.must(&["sh", "-c", IMPORT, "sh", &agent.program], &stream, BRING_LIMIT)?;
    Ok(String::from_utf8_lossy(&said).lines().any(|line| line == RUNS))
}
