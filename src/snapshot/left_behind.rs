//! What the environment's own server left behind in a probe: folders that it made among its models, and files that it wrote
//! into its own program.
use crate::capture::comfy::main_program;
use crate::capture::files::rules::within_litter;
use crate::capture::git;
use crate::capture::git::plumbing::Objects;
use crate::capture::model::inventory::Scan;
use crate::capture::trees::tree::{Entry, Source, Tree};
use crate::protocol::launch::PACKS;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names of what lies below a folder, relative to it. Links are not followed. `into` says which folders are gone into.
fn walk(root: &Path, into: &dyn Fn(&Path) -> bool, found: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        // What cannot be listed has nothing.
        for entry in fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let (name, meta) = (folder.join(entry.file_name()), entry.metadata());
            let Ok(meta) = meta else { continue };
            found(&name, &meta);
            if meta.is_dir() && into(&name) {
                pending.push(name);
            }
        }
    }
}

/// The folders in `mirror` that `models` has not; of those within each other the outer one.
pub fn folders(models: &Path, mirror: &Path) -> Vec<String> {
    let mut made = Vec::new();
    let is_old = |name: &Path| models.join(name).is_dir();
    walk(mirror, &is_old, &mut |name, meta| {
        // What has no such name cannot be configured.
        made.extend(name.to_str().filter(|_| meta.is_dir() && !is_old(name)).map(String::from));
    });
    made.sort();
    made
}

/// One file of a tree's copy that is not as the tree has it.
struct Written {
    name: Vec<u8>,
    /// The tree has no such file.
    new: bool,
}

/// `since`: seconds since 1970, before which nothing was written.
fn written(tree: &Tree, copy: &Path, since: i64) -> Vec<Written> {
    let mut found = Vec::new();
    let stays_out = |name: &Path| within_litter(name.as_os_str().as_bytes());
    walk(copy, &|name| !stays_out(name), &mut |name, meta| {
        let bytes = name.as_os_str().as_bytes();
        if !meta.is_file() || meta.ctime() < since || stays_out(name) {
            return;
        }
        let same = match tree.entries.get(bytes) {
            Some(Entry::File { source: Source::Disk(from) | Source::Shebang { path: from, .. }, .. }) => {
                let length = fs::metadata(from).map(|meta| meta.len());
                length.is_ok_and(|length| length == meta.len())
                    && fs::read(from).ok() == fs::read(copy.join(name)).ok()
            }
            Some(Entry::File { source: Source::Bytes(text), .. }) => {
                fs::read(copy.join(name)).is_ok_and(|read| *read == **text)
            }
            _ => false,
        };
        if !same {
            let name = name.to_path_buf().into_os_string().into_vec();
            found.push(Written { new: !tree.entries.contains_key(name.as_slice()), name });
        }
    });
    found
}

/// Those of one program that are its own to write: git ignores them, or where there is no git, it made them.
fn own(tree: &Tree, copy: &Path, original: &Path, since: i64) -> Vec<String> {
    let mut all = written(tree, copy, since);
    if all.is_empty() {
        return Vec::new();
    }
    match git::read_head(original) {
        Some(head) => {
            let input: Vec<u8> = all.iter().flat_map(|one| [one.name.as_slice(), b"\0"].concat()).collect();
            let said = Objects::of(&head).and_then(|objects| objects.ignored(original, &input));
            let said = said.unwrap_or_default();
            all.retain(|one| said.split(|byte| *byte == 0).any(|ignored| ignored == one.name));
        }
        None => all.retain(|one| one.new),
    }
    all.iter().filter_map(|one| OsStr::from_bytes(&one.name).to_str().map(String::from)).collect()
}

/// Files of main program and packs, relative to the environment, that the server itself wrote since then.
pub fn files(scan: &Scan, slot: &Path, since: u64) -> Vec<String> {
    let since = i64::try_from(since).unwrap_or_default();
    let mut found = own(&scan.main.tree, &slot.join("main"), &scan.root, since);
    found.retain(|name| !main_program::is_apart(name));
    for pack in scan.packs.iter().filter(|pack| pack.enabled) {
        let copy = slot.join(PACKS).join(&pack.name);
        let names = own(&pack.tree, &copy, &pack.location, since);
        found.extend(names.iter().map(|name| format!("custom_nodes/{}/{name}", pack.name)));
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, name: &str, text: &str) {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), text).unwrap();
    }

    #[test]
    fn the_outermost_new_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (models, mirror) = (dir.path().join("models"), dir.path().join("mirror"));
        for folder in ["loras/old", "vae"] {
            fs::create_dir_all(models.join(folder)).unwrap();
        }
        for folder in ["loras/old", "loras/new/deep", "vae", "added"] {
            fs::create_dir_all(mirror.join(folder)).unwrap();
        }
        put(&mirror, "vae/file", "");
        assert_eq!(folders(&models, &mirror), ["added", "loras/new"]);
        assert_eq!(folders(&models, &models), Vec::<String>::new());
    }

    #[test]
    fn what_git_ignores_is_the_programs_own_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let (pack, copy) = (dir.path().join("pack"), dir.path().join("copy"));
        let mut tree = Tree::default();
        for name in ["code.py", "cache.json", "kept.json", ".gitignore"] {
            let text = if name == ".gitignore" { "*.json\n!kept.json\n" } else { "1" };
            put(&pack, name, text);
            put(&copy, name, text);
            tree.insert(name, Entry::File { source: Source::Disk(pack.join(name)), executable: false });
        }
        assert!(own(&tree, &copy, &pack, 0).is_empty());
        for (name, text) in
            [("code.py", "2"), ("cache.json", "2"), ("kept.json", "2"), ("sub/new.json", ""), ("new.txt", "")]
        {
            put(&copy, name, text);
        }
        put(&copy, "__pycache__/code.pyc", "");
        // Without git nobody says more than that it was not there.
        let mut found = own(&tree, &copy, &pack, 0);
        found.sort();
        assert_eq!(found, ["new.txt", "sub/new.json"]);
        let git = |words: &[&str]| {
            let mut command = std::process::Command::new("git");
            command.args(["-c", "user.name=t", "-c", "user.email=t@example", "-C"]).arg(&pack).args(words);
            assert!(command.output().unwrap().status.success());
        };
        git(&["init", "-q"]);
        let mut found = own(&tree, &copy, &pack, 0);
        found.sort();
        assert_eq!(found, ["cache.json", "sub/new.json"]);
    }
}
