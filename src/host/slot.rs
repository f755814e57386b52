//! A slot directory: what one instance sees. Store trees that packs may write to are copied in (a
//! read-only tree breaks packs that write into their own folder), the rest is linked; the slot is
//! thrown away with the instance.
use crate::host::own_places;
use crate::protocol::launch::{Launch, Values};
use crate::sys::error::{Error, Result};
use crate::sys::files;
use crate::sys::parallel;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io, thread};

/// Builds the slot that `launch` asks for, and the directories it needs in the base.
pub fn assemble(launch: &Launch, values: &Values) -> Result<()> {
    let slot = PathBuf::from(&values.slot);
    make(&slot)?;
    for directory in &launch.directories {
        make(Path::new(&values.fill(directory)))?;
    }
    for seed in &launch.seeds {
        sow(Path::new(&seed.to), Path::new(&values.fill(&seed.at)))?;
    }
    let mut files = Vec::new();
    for layer in &launch.layers {
        let at = slot.join(&layer.at);
        if let Some(parent) = at.parent() {
            make(parent)?;
        }
        let lower = Path::new(&layer.lower);
        if layer.writable {
            plan(lower, &at, &mut files)?;
            if let Some(bytecode) = &layer.bytecode {
                let bytecode = Path::new(bytecode);
                if layer.is_pack() {
                    // Packs are theirs to change, `__pycache__` too. That of a single file is beside it.
                    let beside = if lower.is_dir() { Some(at.as_path()) } else { at.parent() };
                    plan(bytecode, beside.unwrap_or(&slot), &mut files)?;
                } else {
                    link_bytecode(bytecode, &at)?;
                }
            }
        } else {
            symlink(lower, &at).map_err(|e| Error::io("link", &at, e))?;
        }
    }
    copy_files(&files)?;
    own_places::fill(launch, values)?;
    for link in &launch.links {
        let at = slot.join(&link.at);
        if let Some(parent) = at.parent() {
            make(parent)?;
        }
        let to = values.fill(&link.to);
        symlink(&to, &at).map_err(|e| Error::io("link", &at, e))?;
    }
    Ok(())
}

/// The variables of the program: nothing of ours but these, and `more` of the caller's.
pub fn environment(
    launch: &Launch,
    values: &Values,
    more: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let fixed =
        [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", values.slot.as_str()), ("LANG", "C.UTF-8")];
    let mut all: BTreeMap<String, String> =
        fixed.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let given = launch.environment.iter().chain(more);
    all.extend(given.map(|(name, value)| (name.clone(), values.fill(value))));
    // Whatever PATH is set to, the snapshot's own programs are on it.
    let path = launch.path.iter().cloned().chain(all.remove("PATH")).filter(|path| !path.is_empty());
    all.insert("PATH".into(), path.collect::<Vec<_>>().join(":"));
    all
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create directory", path, e))
}

/// Puts the files of a tree into a folder that others write to, too: never over what is there.
fn sow(from: &Path, to: &Path) -> Result<()> {
    make(to)?;
    for entry in fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
        let entry = entry.map_err(|e| Error::io("list", from, e))?;
        let (from, at) = (entry.path(), to.join(entry.file_name()));
        let there = fs::symlink_metadata(&at).ok();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if there.is_none_or(|meta| meta.is_dir()) {
                sow(&from, &at)?;
            }
        } else if there.is_none() {
            // Several instances start at once, and each may be the first to put it there. ComfyUI's own files are small.
            files::create_atomic(&at, &files::read(&from)?)?;
        }
    }
    Ok(())
}

/// Copies a tree with its links as links, writable by its owner.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut files = Vec::new();
    plan(from, to, &mut files)?;
    copy_files(&files)
}

/// A file to copy.
struct FileCopy {
    from: PathBuf,
    to: PathBuf,
    mode: u32,
}

/// Makes the folders and links of a tree, and leaves its files to `copy_files`.
fn plan(from: &Path, to: &Path, files: &mut Vec<FileCopy>) -> Result<()> {
    let meta = fs::symlink_metadata(from).map_err(|e| Error::io("read", from, e))?;
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(|e| Error::io("read the link", from, e))?;
        return symlink(target, to).map_err(|e| Error::io("link", to, e));
    }
    if meta.is_dir() {
        make(to)?;
        for entry in fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
            let entry = entry.map_err(|e| Error::io("list", from, e))?;
            plan(&entry.path(), &to.join(entry.file_name()), files)?;
        }
        return Ok(());
    }
    let mode = 0o644 | (meta.permissions().mode() & 0o111);
    files.push(FileCopy { from: from.into(), to: to.into(), mode });
    Ok(())
}

/// Several at a time: a slot of a real ComfyUI has a thousand, and ext4 takes a third of a millisecond for each where
/// an earlier slot was just deleted.
fn copy_files(files: &[FileCopy]) -> Result<()> {
    const SHARE: usize = 32;
    let cores = thread::available_parallelism().map_or(1, usize::from).min(8);
    let threads = cores.min(files.len() / SHARE + 1);
    parallel::each(files, threads, || Ok(()), |(), file| file.copy())
}

impl FileCopy {
    fn copy(&self) -> Result<()> {
        let mut source = fs::File::open(&self.from).map_err(|e| Error::io("read", &self.from, e))?;
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(self.mode)
            .open(&self.to)
            .and_then(|mut sink| {
                io::copy(&mut source, &mut sink)?;
                // The umask may have taken from it.
                sink.set_permissions(fs::Permissions::from_mode(self.mode))
            });
        written.map_err(|e| Error::io("copy to", &self.to, e))
    }
}

/// One link for each `__pycache__`, beside the modules it belongs to.
fn link_bytecode(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
        let entry = entry.map_err(|e| Error::io("list", from, e))?;
        let (path, at) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "__pycache__" {
            symlink(&path, &at).map_err(|e| Error::io("link", &at, e))?;
        } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
            link_bytecode(&path, &at)?;
        }
    }
    Ok(())
}

/// Files below `at` that the copied tree did not have, or had with other bytes: what an instance
/// wrote into its own program. Listed before the slot is thrown away.
pub fn written(launch: &Launch, slot: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for layer in launch.layers.iter().filter(|l| l.writable) {
        compare(Path::new(&layer.lower), &slot.join(&layer.at), &layer.at, &mut found);
    }
    let linked: Vec<&str> = launch.links.iter().map(|l| l.at.as_str()).collect();
    found.retain(|path| !linked.contains(&path.as_str()));
    found.retain(|path| !launch.own_places.contains(path) || !filled(launch, slot, path));
    found.sort();
    found
}

/// Whether a file differs from the snapshot's only by what its marks were filled with.
fn filled(launch: &Launch, slot: &Path, path: &str) -> bool {
    launch.layers.iter().any(|layer| {
        let inner = path.strip_prefix(layer.at.as_str()).map(|rest| rest.trim_start_matches('/'));
        inner.is_some_and(|inner| {
            own_places::is_filled(&Path::new(&layer.lower).join(inner), &slot.join(path))
        })
    })
}

fn compare(lower: &Path, upper: &Path, shown: &str, found: &mut Vec<String>) {
    let Ok(meta) = fs::symlink_metadata(upper) else { return };
    if upper.file_name().is_some_and(|n| n == "__pycache__") {
        return;
    }
    if meta.is_dir() {
        let Ok(entries) = fs::read_dir(upper) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let shown = format!("{shown}/{}", name.to_string_lossy());
            compare(&lower.join(&name), &entry.path(), &shown, found);
        }
        return;
    }
    if meta.is_symlink() {
        if fs::read_link(lower).ok() != fs::read_link(upper).ok() {
            found.push(shown.to_string());
        }
        return;
    }
    let lower_meta = fs::symlink_metadata(lower);
    // A copy that a power loss took: slots are not synced, since each start makes its own.
    if meta.len() == 0 && lower_meta.as_ref().is_ok_and(|l| l.is_file() && l.len() > 0) {
        return;
    }
    let same = lower_meta.is_ok_and(|l| l.is_file() && l.len() == meta.len())
        && same_bytes(lower, upper).unwrap_or(false);
    if !same {
        found.push(shown.to_string());
    }
}

/// Of two files of one length.
fn same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (BufReader::new(fs::File::open(a)?), BufReader::new(fs::File::open(b)?));
    loop {
        let (ours, theirs) = (a.fill_buf()?, b.fill_buf()?);
        let length = ours.len().min(theirs.len());
        if length == 0 {
            return Ok(ours.len() == theirs.len());
        }
        if ours[..length] != theirs[..length] {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::launch::Layer;

    #[test]
    fn a_seed_takes_no_others_place() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("main/input"), dir.path().join("base/input"));
        let put = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, text) in
            [("example.png", "theirs"), ("new.png", "theirs"), ("3d/a.glb", "theirs"), ("file/a", "")]
        {
            put(from.join(name), text);
        }
        fs::set_permissions(from.join("new.png"), fs::Permissions::from_mode(0o444)).unwrap();
        put(to.join("example.png"), "ours");
        // A link that leads nowhere is the user's, too; so is a file where the tree has a folder.
        symlink("/nowhere", to.join("example.link")).unwrap();
        put(from.join("example.link"), "theirs");
        put(to.join("file"), "ours");
        for _ in 0..2 {
            sow(&from, &to).unwrap();
            let read = |name: &str| fs::read_to_string(to.join(name)).unwrap();
            assert_eq!(
                [read("example.png"), read("new.png"), read("3d/a.glb"), read("file")],
                ["ours", "theirs", "theirs", "ours"]
            );
            assert!(to.join("example.link").is_symlink());
            let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["3d", "example.link", "example.png", "file", "new.png"]);
        }
        fs::write(to.join("new.png"), "the host's own now").unwrap();
    }

    #[test]
    fn a_slot_is_writable_and_its_writes_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        };
        put("main/sub/b.py", "");
        put("main-bytecode/sub/__pycache__/b.pyc", "m");
        put("pack/a.py", "1");
        put("pack-bytecode/__pycache__/a.pyc", "p");
        put("loose.py", "1");
        // Longer than one look at it.
        put("pack/b.py", &"x".repeat(100_000));
        put("loose-bytecode/__pycache__/loose.pyc", "l");
        let layer = |at: &str, lower: &str| Layer {
            at: at.into(),
            lower: dir.path().join(lower).to_string_lossy().into_owned(),
            writable: true,
            bytecode: Some(
                dir.path()
                    .join(format!("{}-bytecode", lower.trim_end_matches(".py")))
                    .to_string_lossy()
                    .into(),
            ),
        };
        let launch = Launch {
            version: 1,
            service: "s".into(),
            layers: vec![
                layer("main", "main"),
                layer("base/custom_nodes/p", "pack"),
                layer("base/custom_nodes/loose.py", "loose.py"),
            ],
            directories: vec!["{base}/input".into()],
            ..Launch::default()
        };
        for n in 0..200 {
            put(&format!("main/many/{n}.py"), &n.to_string());
        }
        let values = Values {
            base: dir.path().join("base").to_string_lossy().into_owned(),
            slot: dir.path().join("slot").to_string_lossy().into_owned(),
            ..Values::default()
        };
        assemble(&launch, &values).unwrap();
        let slot = dir.path().join("slot");
        assert!(dir.path().join("base/input").is_dir());
        let link = fs::read_link(slot.join("main/sub/__pycache__")).unwrap();
        assert_eq!(link, dir.path().join("main-bytecode/sub/__pycache__"));
        for n in 0..200 {
            assert_eq!(fs::read_to_string(slot.join(format!("main/many/{n}.py"))).unwrap(), n.to_string());
        }
        // Real files, a pack's own: it may change them.
        let packs = slot.join("base/custom_nodes");
        assert!(!packs.join("p/__pycache__").is_symlink());
        assert_eq!(fs::read(packs.join("p/__pycache__/a.pyc")).unwrap(), b"p");
        fs::write(packs.join("p/__pycache__/a.pyc"), "2").unwrap();
        assert_eq!(fs::read(packs.join("__pycache__/loose.pyc")).unwrap(), b"l");
        assert_eq!(written(&launch, &slot), Vec::<String>::new());
        fs::write(slot.join("base/custom_nodes/p/a.py"), "2").unwrap();
        fs::write(slot.join("base/custom_nodes/p/b.py"), "x".repeat(99_999) + "y").unwrap();
        fs::write(slot.join("base/custom_nodes/p/new"), "").unwrap();
        // As a power loss leaves what was not synced.
        fs::write(slot.join("main/many/7.py"), "").unwrap();
        let changed = ["a.py", "b.py", "new"].map(|name| format!("base/custom_nodes/p/{name}"));
        assert_eq!(written(&launch, &slot), changed);
    }

    #[test]
    fn the_snapshots_programs_come_before_those_of_the_machine() {
        let mut launch = Launch { version: 1, service: "s".into(), ..Launch::default() };
        let values = Values { slot: "/slot".into(), ..Values::default() };
        let none = BTreeMap::new();
        assert_eq!(environment(&launch, &values, &none)["PATH"], "/usr/local/bin:/usr/bin:/bin");
        launch.path = vec!["/env/bin".into(), "/git/bin".into()];
        let usual = "/env/bin:/git/bin:/usr/local/bin:/usr/bin:/bin";
        assert_eq!(environment(&launch, &values, &none)["PATH"], usual);
        let more = BTreeMap::from([("PATH".into(), "{slot}/bin".into()), ("A".into(), "b".into())]);
        let all = environment(&launch, &values, &more);
        assert_eq!((all["PATH"].as_str(), all["A"].as_str()), ("/env/bin:/git/bin:/slot/bin", "b"));
    }

    #[test]
    fn a_file_that_cannot_be_copied_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        for n in 0..100 {
            fs::write(from.join(format!("{n}")), "").unwrap();
        }
        let to = dir.path().join("to");
        fs::create_dir_all(to.join("77")).unwrap();
        let error = copy_tree(&from, &to).unwrap_err();
        assert_eq!(error.message, format!("cannot copy to {}", to.join("77").display()));
    }
}
