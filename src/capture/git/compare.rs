//! Does a work tree differ from its commit? Answered by hashing the files that a capture ships, so
//! that no index, filter or monitor of the repository is believed.
use crate::capture::files::paths::{self, below, file_name};
use crate::capture::files::rules;
use crate::capture::files::walk::{NodeKind, WalkEntry};
use crate::capture::git::Head;
use crate::capture::git::plumbing::Objects;
use crate::capture::model::inventory::GitState;
use crate::formats::hex::hex;
use crate::words::show;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// At most so many differing files are named.
const NAMED: usize = 200;

/// The part of a walk that belongs to one repository.
pub struct WorkTree<'a> {
    pub dir: &'a Path,
    /// Entries by path relative to the repository.
    pub entries: BTreeMap<&'a [u8], &'a WalkEntry>,
    /// Repositories below: relative path, commit.
    pub nested: BTreeMap<Vec<u8>, Option<String>>,
    /// Paths that the capture leaves out: not compared.
    pub ignored: &'a (dyn Fn(&[u8]) -> bool + Sync),
}

impl<'a> WorkTree<'a> {
    /// The entries of a walk below `at`, but not those of the repositories further below.
    pub fn of(
        dir: &'a Path,
        walk: &'a [WalkEntry],
        at: &[u8],
        nested: BTreeMap<Vec<u8>, Option<String>>,
        ignored: &'a (dyn Fn(&[u8]) -> bool + Sync),
    ) -> Self {
        let entries = walk
            .iter()
            .filter_map(|entry| Some((relative(&entry.path, at)?, entry)))
            .filter(|(path, _)| !nested.keys().any(|n| relative(path, n).is_some()))
            .collect();
        WorkTree { dir, entries, nested, ignored }
    }
}

/// `path` relative to the folder `at`, when it is below it.
pub fn relative<'a>(path: &'a [u8], at: &[u8]) -> Option<&'a [u8]> {
    if at.is_empty() {
        return Some(path);
    }
    path.strip_prefix(at)?.strip_prefix(b"/")
}

/// What the answer depends on besides the files' metadata.
pub fn key_digest(stat_digest: &str, head: &Head, nested: &BTreeMap<Vec<u8>, Option<String>>) -> String {
    let mut hash = Sha256::new();
    let commit = head.commit.as_deref().unwrap_or("");
    let flags = format!("{}{}{}", head.file_mode, head.symlinks, head.sha256);
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let sparse = head.sparse_index.as_deref().unwrap_or("");
    for part in
        [stat_digest.as_bytes(), commit.as_bytes(), flags.as_bytes(), &head.exclude, sparse.as_bytes()]
    {
        field(part);
    }
    for (path, commit) in nested {
        field(path);
        field(commit.as_deref().unwrap_or("").as_bytes());
    }
    hex(&hash.finalize())
}

/// The state of a repository, its files compared with its commit.
pub fn state(head: &Head, tree: &WorkTree<'_>) -> GitState {
    let compared = head.commit.as_deref().and_then(|commit| compare(head, commit, tree));
    GitState {
        commit: head.commit.clone(),
        branch: head.branch.clone(),
        remote: head.remote.clone(),
        dirty: compared.as_ref().map(|compared| !compared.changed.is_empty()),
        not_checked_out: compared.as_ref().map_or(0, |compared| compared.not_checked_out),
        changed: compared.map(|compared| compared.changed).unwrap_or_default(),
    }
}

struct Tracked {
    mode: Vec<u8>,
    id: String,
}

/// What a commit holds, by path; `None` when git cannot say. `options` and `only` (paths) are those of git-ls-tree(1).
fn tracked(
    objects: &Objects<'_>,
    commit: &str,
    options: &[&str],
    only: &[&str],
) -> Option<BTreeMap<Vec<u8>, Tracked>> {
    let mut arguments = vec!["ls-tree", "--full-tree", "-z"];
    arguments.extend(options);
    arguments.push(commit);
    arguments.extend(only);
    let listing = objects.run(&arguments)?;
    let mut out = BTreeMap::new();
    for line in listing.split(|b| *b == 0).filter(|line| !line.is_empty()) {
        let tab = line.iter().position(|b| *b == b'\t')?;
        let (about, path) = (&line[..tab], &line[tab + 1..]);
        let mut words = about.split(|b| *b == b' ');
        let mode = words.next()?.to_vec();
        let id = String::from_utf8(words.nth(1)?.to_vec()).ok()?;
        out.insert(path.to_vec(), Tracked { mode, id });
    }
    Some(out)
}

/// The files (not folders, not links) that a commit has directly in `folder/`.
pub fn tracked_in(head: &Head, folder: &str) -> Option<BTreeSet<Vec<u8>>> {
    let commit = head.commit.as_deref()?;
    let all = files(tracked(&Objects::of(head)?, commit, &[], &[&format!("{folder}/")])?);
    Some(all.map(|path| file_name(&path).to_vec()).collect())
}

/// The files (not links) that a commit has anywhere below `folders`, by their whole paths.
pub fn tracked_below(head: &Head, folders: &[&str]) -> Option<BTreeSet<Vec<u8>>> {
    let commit = head.commit.as_deref()?;
    Some(files(tracked(&Objects::of(head)?, commit, &["-r"], folders)?).collect())
}

fn files(tracked: BTreeMap<Vec<u8>, Tracked>) -> impl Iterator<Item = Vec<u8>> {
    tracked.into_iter().filter(|(_, entry)| entry.mode.starts_with(b"100")).map(|(path, _)| path)
}

/// What differs, and how many files of the commit a sparse checkout leaves out.
struct Compared {
    changed: Vec<String>,
    not_checked_out: usize,
}

fn compare(head: &Head, commit: &str, tree: &WorkTree<'_>) -> Option<Compared> {
    let objects = &Objects::of(head)?;
    let tracked = tracked(objects, commit, &["-r"], &[])?;
    let lfs = tree.entries.iter().any(|(path, entry)| {
        file_name(path) == b".gitattributes"
            && paths::read_small(&below(tree.dir, path), 1 << 20)
                .is_some_and(|text| entry.size > 0 && has(&text, b"filter=lfs"))
    });
    let mut changed = Vec::new();
    let mut not_checked_out = 0;
    let mut skipped: Option<BTreeSet<Vec<u8>>> = None;
    for (path, entry) in &tracked {
        if changed.len() >= NAMED {
            break;
        }
        let Some(letter) = difference(head, objects, tree, path, entry, lfs) else { continue };
        if letter == 'D' && is_skipped(skipped.get_or_insert_with(|| skip_worktree(objects)), path) {
            not_checked_out += 1;
            continue;
        }
        changed.push(format!(" {letter} {}", show(path)));
    }
    let untracked = untracked(objects, tree, &tracked);
    changed.extend(untracked.iter().map(|path| format!("?? {}", show(path))));
    changed.truncate(NAMED);
    Some(Compared { changed, not_checked_out })
}

/// What the index says is not to be in the work tree (`skip-worktree`, as `git sparse-checkout` sets it): files, and folders with a `/`.
fn skip_worktree(objects: &Objects<'_>) -> BTreeSet<Vec<u8>> {
    let index = objects.index().unwrap_or_default();
    let skipped = index.split(|byte| *byte == 0).filter_map(|line| line.strip_prefix(b"S "));
    skipped.map(<[u8]>::to_vec).collect()
}

fn is_skipped(skipped: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
    skipped.contains(path) || ends.into_iter().any(|end| skipped.contains(&path[..end]))
}

fn has(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// `M`, `D`, `T` as `git status` has them.
fn difference(
    head: &Head,
    objects: &Objects<'_>,
    tree: &WorkTree<'_>,
    path: &[u8],
    tracked: &Tracked,
    lfs: bool,
) -> Option<char> {
    if tracked.mode == b"160000" {
        // A submodule that was never checked out has no repository, and is no change.
        let commit = tree.nested.get(path)?;
        return (commit.as_deref() != Some(tracked.id.as_str())).then_some('M');
    }
    let redundant = rules::source_of_bytecode(path);
    if (tree.ignored)(path) || redundant.is_some_and(|s| tree.entries.contains_key(s.as_slice())) {
        return None;
    }
    let Some(entry) = tree.entries.get(path) else {
        return Some('D');
    };
    let link = tracked.mode == b"120000";
    match &entry.kind {
        NodeKind::Symlink(target) if link => (blob_id(head, target) != tracked.id).then_some('M'),
        NodeKind::File if !link || !head.symlinks => {
            let executable = tracked.mode == b"100755";
            if head.file_mode && !link && executable != entry.executable() {
                return Some('M');
            }
            let place = below(tree.dir, path);
            let same = file_id(head, &place, entry.size).as_deref() == Some(tracked.id.as_str());
            let clean = same
                || unix_lines_id(head, &place).as_deref() == Some(tracked.id.as_str())
                || (lfs && is_lfs_content(objects, tracked, &place));
            (!clean).then_some('M')
        }
        _ => Some('T'),
    }
}

/// The hash of a repository's object ids.
enum Hash {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hash {
    /// Of a blob of `size` bytes.
    fn of_blob(head: &Head, size: u64) -> Hash {
        let mut hash = if head.sha256 { Hash::Sha256(Sha256::new()) } else { Hash::Sha1(Sha1::new()) };
        hash.update(format!("blob {size}\0").as_bytes());
        hash
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha1(hash) => hash.update(bytes),
            Hash::Sha256(hash) => hash.update(bytes),
        }
    }

    fn id(self) -> String {
        match self {
            Hash::Sha1(hash) => hex(&hash.finalize()),
            Hash::Sha256(hash) => hex(&hash.finalize()),
        }
    }
}

fn blob_id(head: &Head, content: &[u8]) -> String {
    let mut hash = Hash::of_blob(head, content.len() as u64);
    hash.update(content);
    hash.id()
}

/// The blob id of a file, read once; `None` when it cannot be read or is not of that size any more.
fn file_id(head: &Head, place: &Path, size: u64) -> Option<String> {
    let mut hash = Hash::of_blob(head, size);
    let read = feed(place, |bytes| hash.update(bytes))?;
    (read == size).then(|| hash.id())
}

fn feed(place: &Path, mut take: impl FnMut(&[u8])) -> Option<u64> {
    let mut file = paths::open_regular(place).ok()?;
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Some(total),
            Ok(count) => {
                take(&buffer[..count]);
                total += count as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The id a text file checked out with CRLF has in the repository.
fn unix_lines_id(head: &Head, place: &Path) -> Option<String> {
    let content = paths::read_small(place, 16 << 20)?;
    if !has(&content, b"\r\n") {
        return None;
    }
    let mut unix = Vec::with_capacity(content.len());
    let mut bytes = content.iter().peekable();
    while let Some(byte) = bytes.next() {
        if !(*byte == b'\r' && bytes.peek() == Some(&&b'\n')) {
            unix.push(*byte);
        }
    }
    Some(blob_id(head, &unix))
}

/// Whether the commit has an LFS pointer to just this content.
fn is_lfs_content(objects: &Objects<'_>, tracked: &Tracked, place: &Path) -> bool {
    let blob = objects.run(&["cat-file", "blob", &tracked.id]);
    let Some(oid) = blob.filter(|blob| blob.len() < 1024).and_then(|blob| {
        let text = String::from_utf8(blob).ok()?;
        let lines = || text.lines();
        lines().next()?.starts_with("version https://git-lfs").then_some(())?;
        lines().find_map(|line| line.strip_prefix("oid sha256:")).map(str::to_string)
    }) else {
        return false;
    };
    let mut hash = Sha256::new();
    feed(place, |bytes| hash.update(bytes)).is_some() && hex(&hash.finalize()) == oid
}

/// Files and nested repositories that the commit does not have and no ignore rule covers.
fn untracked(
    objects: &Objects<'_>,
    tree: &WorkTree<'_>,
    tracked: &BTreeMap<Vec<u8>, Tracked>,
) -> Vec<Vec<u8>> {
    let files = tree
        .entries
        .iter()
        .filter(|(path, entry)| {
            !matches!(entry.kind, NodeKind::Directory { .. })
                && !path.is_empty()
                && !tracked.contains_key(**path)
                && !(tree.ignored)(path)
        })
        .map(|(path, _)| path.to_vec());
    let nested = tree.nested.keys().filter(|path| !tracked.contains_key(*path)).cloned();
    let mut candidates: Vec<Vec<u8>> = files.chain(nested).collect();
    candidates.sort();
    if candidates.is_empty() {
        return candidates;
    }
    let mut input = candidates.join(&0);
    input.push(0);
    let Some(answer) = objects.ignored(tree.dir, &input) else {
        return candidates;
    };
    let covered: BTreeSet<&[u8]> = answer.split(|b| *b == 0).collect();
    candidates.retain(|path| !covered.contains(path.as_slice()));
    candidates
}
