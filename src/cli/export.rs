//! `stillframe export`: a snapshot as others' files: what is installed (pylock.toml, PEP 751), what ComfyUI-Manager can restore, and
//! what it is made of with licences (CycloneDX).
use super::printer::Printer;
use super::settings::Settings;
use crate::capture::model::lock::Lock;
use crate::closure::registry::{Record, Registry};
use crate::closure::{compare, graph, sbom};
use crate::formats::comfy::manager_snapshot::{FileNode, GitNode, ManagerSnapshot};
use crate::formats::python::metadata::Metadata;
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::progress::{Amount, check_interrupt};
use crate::sys::signals;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    format: Format,
    /// The snapshot: id, its beginning, or a label (default: the latest).
    snapshot: Option<String>,
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// pylock.toml (PEP 751), for other installers.
    Pylock,
    /// ComfyUI-Manager's snapshot JSON.
    ManagerSnapshot,
    /// A software bill of materials: CycloneDX 1.6 JSON, with licences.
    Cyclonedx,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    signals::heed()?;
    let registry = Registry::new(&settings.state);
    let record = registry.find(args.snapshot.as_deref())?;
    let text = match args.format {
        Format::Pylock => files::read_text(&registry.folder(&record.id).join("pylock.toml"))?,
        Format::ManagerSnapshot => {
            let (snapshot, unable) = manager_snapshot(&registry.lock(&record)?);
            unable.iter().for_each(|item| printer.note(&format!("not in a Manager snapshot: {item}")));
            pretty(&serde_json::to_value(snapshot).map_err(unwritable)?)
        }
        Format::Cyclonedx => {
            let lock = registry.lock(&record)?;
            let licences = licences(&settings, &record, &lock, printer)?;
            pretty(&sbom::cyclonedx(&record, &lock, &licences))
        }
    };
    match &args.output {
        Some(file) => {
            // A device, a pipe or a link is written to, never replaced.
            if std::fs::symlink_metadata(file).is_ok_and(|m| !m.is_file()) {
                std::fs::write(file, text.as_bytes()).map_err(|e| Error::io("write", file, e))?;
            } else {
                files::write_if_changed(file, text.as_bytes())?;
            }
            printer.line(format!("wrote {}", file.display()));
        }
        None => {
            // A reader that has enough is no error.
            let _ = io::stdout().lock().write_all(text.as_bytes());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn unwritable(e: serde_json::Error) -> Error {
    Error::new(Kind::Io, "cannot write JSON").caused_by(e)
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// And what has no place in one: packs that no repository has, changes to files.
fn manager_snapshot(lock: &Lock) -> (ManagerSnapshot, Vec<String>) {
    let mut unable = Vec::new();
    let commit =
        |git: &Option<crate::capture::model::lock::GitLock>| git.as_ref().and_then(|g| g.commit.clone());
    let mut out = ManagerSnapshot { comfyui: commit(&lock.main.git), ..ManagerSnapshot::default() };
    if out.comfyui.is_none() {
        unable.push("the main program: it is not in git".into());
    }
    for pack in &lock.packs {
        let dirty = pack.git.as_ref().and_then(|g| g.dirty) == Some(true);
        match pack.git.as_ref().and_then(|g| Some((g.remote.clone()?, g.commit.clone()?))) {
            Some((remote, hash)) => {
                if dirty {
                    unable.push(format!("the changes to pack {}: it is not as its commit", pack.name));
                }
                let node = GitNode { hash: Some(hash), disabled: false };
                if out.git_custom_nodes.insert(remote.clone(), node).is_some() {
                    unable.push(format!(
                        "two packs of {remote}: pack {} takes the place of the other",
                        pack.name
                    ));
                }
            }
            None if pack.name.ends_with(".py") => {
                out.file_custom_nodes.push(FileNode { filename: pack.name.clone(), disabled: false });
            }
            None => unable.push(format!("pack {}: no repository has it", pack.name)),
        }
    }
    for d in &lock.distributions {
        if d.wheel.is_none() {
            unable.push(format!("{} {} as it is: no wheel of an index vouches for it", d.name, d.version));
        }
        out.pips.insert(format!("{}=={}", d.name, d.version), String::new());
    }
    (out, unable)
}

fn is_metadata(path: &[Vec<u8>]) -> bool {
    matches!(path, [folder, name] if name == b"METADATA" && folder.ends_with(b".dist-info"))
}

/// Of a METADATA file: headers come first.
const MOST: u64 = 1 << 20;

fn licences(
    settings: &Settings,
    record: &Record,
    lock: &Lock,
    printer: &Printer,
) -> Result<BTreeMap<String, String>> {
    let config = StoreConfig::from_environment(settings.config.store.remote.as_deref());
    let mut store: Option<Store> = None;
    let mut found = BTreeMap::new();
    printer.progress().stage("reading licences", Amount::Items(lock.distributions.len() as u64));
    for d in &lock.distributions {
        check_interrupt()?;
        let path = graph::tree_path(&d.tree, &config.store_dir)?;
        let folder = config.on_disk(&path);
        let bytes = match on_disk(&folder) {
            Some(bytes) => Some(bytes),
            None => {
                let store = match &mut store {
                    Some(store) => store,
                    none => none.insert(Store::connect(&config)?),
                };
                if store.info(&path)?.is_none() {
                    return Err(Error::new(
                        Kind::Store,
                        format!("{path} of snapshot {} is gone from the store", record.id),
                    )
                    .hint("take the snapshot again"));
                }
                compare::find(store, &path, MOST, &is_metadata)?
            }
        };
        if let Some(licence) = bytes.and_then(|b| Metadata::parse(&b).ok()).and_then(|m| m.license) {
            found.insert(d.name.clone(), licence);
        }
        printer.progress().advance(1);
    }
    Ok(found)
}

fn on_disk(folder: &Path) -> Option<Vec<u8>> {
    let entries = std::fs::read_dir(folder).ok()?;
    let info = entries.flatten().find(|e| e.file_name().to_string_lossy().ends_with(".dist-info"))?;
    let file = std::fs::File::open(info.path().join("METADATA")).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
