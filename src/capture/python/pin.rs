//! Decides what a distribution is: *pinned* when every installed file equals the wheel's RECORD,
//! *patched* when some differ (each named), *captured* when no wheel vouches for it. The tree is always
//! what is on disk, in the wheel's own layout; never a false "pinned".
use crate::capture::files::left_out::LeftOut;
use crate::capture::files::secrets;
use crate::capture::index::provenance::Candidate;
use crate::capture::index::wheel::WheelListing;
use crate::capture::model::change::{FileChange, How, Unfit};
use crate::capture::model::lock::Provenance;
use crate::capture::python::installed::{Installed, Scheme, installer_file, is_interpreter};
use crate::capture::python::reach::{Look, Reach};
use crate::capture::trees::digest::{FileDigest, digest_bytes};
use crate::capture::trees::promise::{Promises, Stated};
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::formats::python::record::{Record, RecordRow};
use crate::formats::python::wrapper::is_wrapper;
use crate::sys::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A distribution decided, its tree not hashed yet.
#[derive(Debug, Clone)]
pub struct Pinned {
    pub provenance: Provenance,
    pub reason: Option<String>,
    pub tree: Tree,
    pub changed: Vec<FileChange>,
    /// The disk files this distribution accounts for.
    pub claims: Vec<PathBuf>,
    pub has_modules: bool,
    /// Programs and libraries of the tree, for the audit: canonical path, and where they lie.
    pub objects: Vec<(String, PathBuf)>,
    /// Files that were not read: to be checked when the tree is.
    pub promises: Promises,
    /// The rows of the RECORD that `finish` writes.
    record: Record,
}

/// Whether files may count as what a RECORD says until they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Stated,
    Nothing,
}

impl Pinned {
    fn new() -> Pinned {
        Pinned {
            provenance: Provenance::Captured,
            reason: None,
            tree: Tree::default(),
            changed: Vec::new(),
            claims: Vec::new(),
            has_modules: false,
            objects: Vec::new(),
            promises: Promises::default(),
            record: Record::default(),
        }
    }

    fn change(&mut self, name: &str, how: How) {
        self.changed.push(FileChange { path: name.into(), how });
    }

    /// What a file is: as stated, to be checked when the tree is read, or as its bytes say. A script was
    /// rewritten by the installer, and is small.
    fn look(
        &mut self,
        reach: &mut Reach,
        trust: Trust,
        name: &str,
        disk: &Path,
        stated: Option<Stated>,
    ) -> Result<Look> {
        let may = trust == Trust::Stated && !is_script(name) && reach.home(disk);
        match stated.filter(|_| may).and_then(|stated| self.promises.take(disk, stated, secrets::suspect)) {
            Some(found) => Ok(Look::Found(found)),
            None => reach.look(disk),
        }
    }

    /// Takes a file as it lies on disk, or (`bytes`) as the wheel had it. A script can always be run.
    fn take(
        &mut self,
        name: &str,
        disk: &Path,
        found: &FileDigest,
        executable: bool,
        bytes: Option<Vec<u8>>,
    ) {
        let script = is_script(name);
        let executable = executable || script;
        let digest = bytes.as_ref().map_or(*found, |bytes| digest_bytes(bytes));
        let source = match bytes {
            Some(bytes) => Source::Bytes(bytes.into()),
            None => Source::Disk(disk.to_path_buf()),
        };
        self.tree.insert(name, Entry::File { source, executable });
        self.has_modules |= name.ends_with(".py") && !script;
        if found.elf {
            self.objects.push((name.to_string(), disk.to_path_buf()));
        }
        let (sha256, size) = (Some(digest.sha256), Some(digest.size));
        self.record.rows.push(RecordRow { path: name.to_string(), sha256, size });
    }

    /// Once the tree was read: which of the files that nobody had opened are programs or libraries.
    pub fn settle(&mut self) {
        let promises = std::mem::take(&mut self.promises);
        for (name, entry) in &self.tree.entries {
            if let Entry::File { source: Source::Disk(path), .. } = entry
                && promises.is_object(path)
            {
                self.objects.push((String::from_utf8_lossy(name).into_owned(), path.clone()));
            }
        }
    }

    /// Writes RECORD into the tree, once its files are what will ship: sorted, of our own making, so that
    /// the same files are the same tree whether a wheel vouches for them or not. The installed one names
    /// this machine's paths.
    pub fn finish(&mut self, installed: &Installed) {
        if !installed.info.ends_with(".dist-info") {
            return;
        }
        let mut record = std::mem::take(&mut self.record);
        record.rows.sort_by(|a, b| a.path.cmp(&b.path));
        for row in &mut record.rows {
            // Relocated texts are in memory; everything else was hashed as it is.
            if let Some(Entry::File { source: Source::Bytes(bytes), .. }) =
                self.tree.entries.get(row.path.as_bytes())
            {
                let found = digest_bytes(bytes);
                (row.sha256, row.size) = (Some(found.sha256), Some(found.size));
            }
        }
        let path = format!("{}/RECORD", installed.info);
        record.rows.push(RecordRow { path: path.clone(), sha256: None, size: None });
        self.tree.bytes(path, record.print().into_bytes(), false);
    }
}

/// Disk path -> the distributions that put a file there, with its digest: two distributions may own one
/// path (opencv's headless and contrib wheels), and one of them has won. A wheel says what its file was;
/// where there is none the installed RECORD does, which decides nothing but whose the bytes on disk are.
pub type Owners = HashMap<PathBuf, Vec<(String, [u8; 32])>>;

pub fn owners<'a>(all: impl Iterator<Item = (&'a Installed, &'a Candidate)>) -> Owners {
    let mut owners: Owners = HashMap::new();
    let mut own = |disk: PathBuf, one: &Installed, sha256: [u8; 32]| {
        owners.entry(disk).or_default().push((one.name.clone(), sha256));
    };
    for (one, candidate) in all {
        match candidate {
            Candidate::Wheel(listing) => {
                for (name, entry) in &listing.entries {
                    if let Some(target) = one.target(name) {
                        own(target, one, entry.sha256);
                    }
                }
            }
            Candidate::None(_) => {
                for file in one.files.values() {
                    if let Some(stated) = file.stated {
                        own(file.disk.clone(), one, stated);
                    }
                }
            }
        }
    }
    owners
}

/// Whose file lies at a path, if it is another's.
fn winner<'a>(installed: &Installed, disk: &Path, found: &FileDigest, owners: &'a Owners) -> Option<&'a str> {
    let all = owners.get(disk)?;
    let wrote = |name: &str| all.iter().any(|(owner, sha)| owner == name && *sha == found.sha256);
    if wrote(&installed.name) {
        return None;
    }
    all.iter().map(|(owner, _)| owner.as_str()).find(|owner| wrote(owner))
}

/// The interpreter a script names, and the text behind that: a `#!` line, or the three-line `/bin/sh` form
/// used for paths too long for the kernel.
fn interpreter(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    const SHELL: &[u8] = b"#!/bin/sh\n";
    const EXEC: &[u8] = b"'''exec' ";
    let line_end =
        |from: usize| bytes[from..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |p| from + p);
    let first = bytes.strip_prefix(b"#!")?;
    let end = line_end(0);
    if let Some(command) = bytes.strip_prefix(SHELL).and_then(|rest| rest.strip_prefix(EXEC)) {
        let second = line_end((end + 1).min(bytes.len()));
        let third = line_end((second + 1).min(bytes.len()));
        let named = command.split(|b| *b == b'"' || *b == b'\n').next().unwrap_or_default();
        return Some((named.trim_ascii(), &bytes[third..]));
    }
    Some((first[..end - 2].trim_ascii(), &bytes[end..]))
}

/// What a wheel's script looked like before the installer wrote its interpreter into it.
fn original_scripts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Some((_, rest)) = interpreter(bytes) else { return Vec::new() };
    ["#!python", "#!pythonw"].iter().map(|first| [first.as_bytes(), rest].concat()).collect()
}

/// The same where no wheel can tell: only if it names the interpreter that an installer would have written,
/// or one that is gone. A shell script, or one for `/usr/bin/env`, is as its author wrote it.
fn original_script(bytes: &[u8], scheme: &Scheme) -> Option<Vec<u8>> {
    let (named, rest) = interpreter(bytes)?;
    let named = Path::new(std::str::from_utf8(named).ok()?.trim_matches('\''));
    let name = named.file_name()?;
    if !name.to_str()?.starts_with("python") {
        return None;
    }
    let written = if !named.exists() || named.parent() == Some(&scheme.scripts) {
        true
    } else {
        let elsewhere = !scheme.scripts.join(name).exists();
        elsewhere && std::fs::canonicalize(named).is_ok_and(|real| real == scheme.interpreter)
    };
    written.then(|| [b"#!python", rest].concat())
}

fn is_script(canonical: &str) -> bool {
    canonical.split('/').nth(1) == Some("scripts")
        && canonical.split('/').next().is_some_and(|f| f.ends_with(".data"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// RECORD lists itself without a hash; its signatures (deprecated) sign what an installer rewrites.
/// Only the wheel's own: a vendored `pkg/_vendor/x.dist-info/RECORD` is a file like any other.
fn record_file(name: &str) -> bool {
    name.split_once('/').is_some_and(|(info, file)| {
        info.ends_with(".dist-info") && matches!(file, "RECORD" | "RECORD.jws" | "RECORD.p7s")
    })
}

/// What would take the interpreter's place in the environment's layout.
fn displaces(name: &str) -> bool {
    let Some((_, rest)) = name.split_once(".data/") else { return false };
    rest == "data/pyvenv.cfg"
        || ["scripts/", "data/bin/"].iter().any(|at| rest.strip_prefix(at).is_some_and(is_interpreter))
}

/// The largest share of a wheel that may differ before we say it is not that wheel.
const PATCHED_SHARE: usize = 2;

pub fn decide(
    installed: &Installed,
    candidate: &Candidate,
    owners: &Owners,
    trust: Trust,
    left_out: &LeftOut,
) -> Result<Pinned> {
    match candidate {
        Candidate::Wheel(listing) => {
            let mut against = against_wheel(installed, listing, owners, trust, left_out)?;
            // Where something differs, all of it is told from the bytes.
            if trust == Trust::Stated && !against.as_ref().is_ok_and(|pinned| pinned.changed.is_empty()) {
                against = against_wheel(installed, listing, owners, Trust::Nothing, left_out)?;
            }
            match against {
                Ok(pinned) => Ok(pinned),
                Err(reason) => captured(installed, reason, owners, Trust::Nothing, left_out),
            }
        }
        Candidate::None(why) => {
            let reason = installed.reason.clone().unwrap_or_else(|| why.to_string());
            captured(installed, reason, owners, trust, left_out)
        }
    }
}

fn against_wheel(
    installed: &Installed,
    listing: &WheelListing,
    owners: &Owners,
    trust: Trust,
    left_out: &LeftOut,
) -> Result<Result<Pinned, String>> {
    let mut out = Pinned::new();
    let mut reach = Reach::new(installed, left_out);
    let mut seen = HashSet::new();
    let mut total = 0usize;
    let wheel = &listing.file.filename;
    for (member, entry) in &listing.entries {
        let name = Installed::member(member);
        if installer_file(name) || record_file(name) {
            continue;
        }
        let Some(disk) = installed.target(member) else {
            return Ok(Err(format!("{wheel} has the unknown scheme of {member:?}")));
        };
        if !seen.insert(name) {
            return Ok(Err(format!("{wheel} has two files for {name:?}")));
        }
        total += 1;
        out.claims.push(disk.clone());
        if displaces(name) {
            out.change(name, How::LeftOut(Unfit::Displaces));
            continue;
        }
        let stated = Stated { sha256: entry.sha256, crc32: Some(entry.crc32), size: Some(entry.size) };
        let found = match out.look(&mut reach, trust, name, &disk, Some(stated))? {
            Look::Found(found) => found,
            Look::Left(how) => {
                out.change(name, how);
                continue;
            }
        };
        let same =
            |d: &FileDigest| d.sha256 == entry.sha256 && d.size == entry.size && d.crc32 == entry.crc32;
        if same(&found) {
            out.take(name, &disk, &found, entry.executable, None);
            continue;
        }
        if is_script(name) {
            let original = original_scripts(&read(&disk)?).into_iter().find(|b| same(&digest_bytes(b)));
            if let Some(bytes) = original {
                out.take(name, &disk, &found, entry.executable, Some(bytes));
                continue;
            }
        }
        if let Some(how) = unfit(installed, name, &disk, &found, owners, &mut reach) {
            out.change(name, how);
            continue;
        }
        out.change(name, How::Changed);
        out.take(name, &disk, &found, entry.executable, None);
    }
    if out.changed.len() * PATCHED_SHARE > total {
        return Ok(Err(format!("{} of {total} files differ from {wheel}", out.changed.len())));
    }
    out.claims.push(installed.scheme.site.join(&installed.info).join("RECORD"));
    if out.changed.is_empty() {
        out.provenance = Provenance::Pinned;
    } else {
        out.provenance = Provenance::Patched;
        out.reason = Some(format!("{} of {total} files differ from {wheel}", out.changed.len()));
    }
    Ok(Ok(out))
}

/// Why a file that no wheel vouches for does not ship with this distribution.
fn unfit(
    installed: &Installed,
    name: &str,
    disk: &Path,
    found: &FileDigest,
    owners: &Owners,
    reach: &mut Reach,
) -> Option<How> {
    let replaced = winner(installed, disk, found, owners).map(|owner| How::ReplacedBy(owner.to_string()));
    replaced.or_else(|| reach.stray(disk, found)).or_else(|| reach.secret(name, disk, found))
}

/// What is on disk.
fn captured(
    installed: &Installed,
    reason: String,
    owners: &Owners,
    trust: Trust,
    left_out: &LeftOut,
) -> Result<Pinned> {
    let mut out = Pinned { reason: Some(reason), ..Pinned::new() };
    let mut reach = Reach::new(installed, left_out);
    for (name, file) in &installed.files {
        let disk = &file.disk;
        out.claims.push(disk.clone());
        if record_file(name) {
            continue;
        }
        if displaces(name) {
            out.change(name, How::LeftOut(Unfit::Displaces));
            continue;
        }
        let stated = file.stated.map(|sha256| Stated { sha256, crc32: None, size: None });
        let found = match out.look(&mut reach, trust, name, disk, stated)? {
            Look::Found(found) => found,
            Look::Left(how) => {
                out.change(name, how);
                continue;
            }
        };
        if let Some(how) = unfit(installed, name, disk, &found, owners, &mut reach) {
            out.change(name, how);
            continue;
        }
        let mut bytes = None;
        if is_script(name) && !found.elf {
            let script = read(disk)?;
            // pip's own `pip3.11`: the script of an entry point under one more name.
            if installed.scripts.values().any(|s| is_wrapper(&script, &s.point)) {
                continue;
            }
            bytes = original_script(&script, &installed.scheme);
        }
        out.take(name, disk, &found, found.executable, bytes);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendored_record_is_no_record() {
        assert!(record_file("a-1.dist-info/RECORD"));
        assert!(!record_file("setuptools/_vendor/a-1.dist-info/RECORD"));
        assert!(!record_file("a-1.dist-info/licenses/RECORD"));
    }

    #[test]
    fn both_forms_of_an_installed_script_lead_back_to_the_wheels() {
        let long = b"#!/bin/sh\n'''exec' /very/long/python \"$0\" \"$@\"\n' '''\nimport x\n";
        assert_eq!(original_scripts(long)[0], b"#!python\nimport x\n");
        assert_eq!(original_scripts(b"#!/v/bin/python\nimport x\n")[0], b"#!python\nimport x\n");
        assert!(original_scripts(b"import x\n").is_empty());
    }

    #[test]
    fn without_a_wheel_only_an_installers_line_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = dir.path().join("bin");
        std::fs::create_dir(&scripts).unwrap();
        std::fs::write(scripts.join("python3"), "").unwrap();
        let of = |scripts: &Path, interpreter: &str| Scheme {
            site: dir.path().join("site"),
            scripts: scripts.to_path_buf(),
            data: dir.path().to_path_buf(),
            headers: dir.path().join("include"),
            interpreter: interpreter.into(),
        };
        let venv = of(&scripts, "/bin/sh");
        let undone = |line: &str, scheme: &Scheme| {
            original_script(format!("{line}\nx\n").as_bytes(), scheme).map(|b| String::from_utf8(b).unwrap())
        };
        let python = Some("#!python\nx\n".to_string());
        let bin = scripts.display();
        assert_eq!(undone(&format!("#!{bin}/python3"), &venv), python);
        let quotes = "\'\'\'";
        let long = format!("#!/bin/sh\n{quotes}exec' '{bin}/python3' \"$0\" \"$@\"\n' {quotes}");
        assert_eq!(undone(&long, &venv), python);
        assert_eq!(undone("#!/moved/away/bin/python3.11", &venv), python);
        for line in ["#!/bin/bash", "#!/usr/bin/env python3", "#!/moved/away/bin/bash"] {
            assert_eq!(undone(line, &venv), None, "{line}");
        }
        // Debian's own python3 and /usr/local/bin: the interpreter is known by what it is.
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let system =
            of(&other, &std::fs::canonicalize(scripts.join("python3")).unwrap().display().to_string());
        assert_eq!(undone(&format!("#!{bin}/python3"), &system), python);
        assert_eq!(undone(&format!("#!{bin}/python3"), &of(&other, "/bin/sh")), None);
    }
}
