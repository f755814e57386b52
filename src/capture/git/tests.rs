use super::*;
use crate::capture::files::{paths, rules, walk};
use crate::capture::git::compare::{WorkTree, state};
use crate::capture::model::inventory::GitState;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

pub(super) fn git(dir: &Path, arguments: &[&str]) {
    let out = Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub(super) fn repository(dir: &Path) {
    git(dir, &["init", "-q"]);
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("a.py"), "a\n").unwrap();
    fs::write(dir.join("sub/b.txt"), "b\n").unwrap();
    fs::write(dir.join(".gitignore"), "out/\n*.tmp\n").unwrap();
    std::os::unix::fs::symlink("a.py", dir.join("link")).unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-qm", "one"]);
}

pub(super) fn read(dir: &Path) -> GitState {
    let mut nested = BTreeMap::new();
    let walked = walk::walk(dir, "", &mut |path, _| {
        if let Some(at) = path.strip_suffix(b"/.git".as_slice()) {
            let head = read_head(&paths::below(dir, at)).unwrap();
            nested.insert(at.to_vec(), head.commit);
        }
        rules::litter(path)
    });
    let head = read_head(dir).unwrap();
    let ignored = |path: &[u8]| rules::within_litter(path);
    state(&head, &WorkTree::of(dir, &walked.entries, &[], nested, &ignored))
}

#[test]
fn clean_then_every_kind_of_change() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    repository(dir);
    git(dir, &["remote", "add", "origin", "https://me:s3cret@example.org/x.git"]);
    fs::create_dir(dir.join("__pycache__")).unwrap();
    fs::write(dir.join("__pycache__/a.pyc"), "").unwrap();
    fs::create_dir(dir.join("out")).unwrap();
    fs::write(dir.join("out/picture"), "").unwrap();
    fs::write(dir.join("x.tmp"), "").unwrap();
    let clean = read(dir);
    assert_eq!(clean.dirty, Some(false), "{:?}", clean.changed);
    assert_eq!(clean.branch.as_deref(), Some("main"));
    assert_eq!(clean.remote.as_deref(), Some("https://example.org/x.git"));
    assert_eq!(clean.commit.as_ref().map(String::len), Some(40));
    assert!(read_head(dir).unwrap().finding("p").is_some());

    // Packed refs say the same.
    git(dir, &["pack-refs", "--all"]);
    git(dir, &["gc", "-q"]);
    assert_eq!(read(dir), clean);

    fs::write(dir.join("a.py"), "A\n").unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    fs::write(dir.join("new\nname"), "").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.join("sub/b.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    let dirty = read(dir);
    assert_eq!(dirty.dirty, Some(true));
    assert_eq!(dirty.changed, [" M a.py", " D link", " M sub/b.txt", "?? new\\nname"]);
}

#[test]
fn windows_line_ends_are_no_change() {
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    fs::write(dir.path().join("a.py"), "a\r\n").unwrap();
    assert_eq!(read(dir.path()).dirty, Some(false));
}

#[test]
fn lfs_content_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    git(dir, &["init", "-q"]);
    let content = b"big content";
    let oid = crate::formats::hex::hex(&<sha2::Sha256 as sha2::Digest>::digest(content));
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 11\n");
    fs::write(dir.join("w.bin"), pointer).unwrap();
    fs::write(dir.join(".gitattributes"), "*.bin filter=lfs diff=lfs -text\n").unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-qm", "one"]);
    fs::write(dir.join("w.bin"), content).unwrap();
    assert_eq!(read(dir).dirty, Some(false));
    fs::write(dir.join("w.bin"), b"big Content").unwrap();
    assert_eq!(read(dir).dirty, Some(true));
}

#[test]
fn submodules_and_linked_worktrees() {
    let dir = tempfile::tempdir().unwrap();
    let (library, main) = (dir.path().join("library"), dir.path().join("main"));
    for place in [&library, &main] {
        fs::create_dir(place).unwrap();
        repository(place);
    }
    git(&main, &["submodule", "--quiet", "add", library.to_str().unwrap(), "lib"]);
    git(&main, &["commit", "-qm", "two"]);
    assert_eq!(read(&main).dirty, Some(false), "{:?}", read(&main).changed);
    assert_eq!((submodules(&main), submodules(&library)), (vec!["lib".to_string()], vec![]));
    git(&main.join("lib"), &["commit", "-q", "--allow-empty", "-m", "three"]);
    assert_eq!(read(&main).changed, [" M lib"]);

    git(&library, &["worktree", "add", "-q", "../tree", "-b", "side"]);
    let tree = read(&dir.path().join("tree"));
    assert_eq!((tree.branch.as_deref(), tree.dirty), (Some("side"), Some(false)));
}

#[test]
fn a_hostile_repository_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let marks = tempfile::tempdir().unwrap();
    let dir = dir.path();
    repository(dir);
    fs::write(dir.join(".gitattributes"), "* filter=x diff=x text eol=crlf\n").unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-qm", "two"]);
    let mark = |name: &str| format!("touch {}", marks.path().join(name).display());
    for (key, program) in [
        ("core.fsmonitor", "monitor"),
        ("core.pager", "pager"),
        ("core.sshCommand", "ssh"),
        ("core.editor", "editor"),
        ("core.askPass", "askpass"),
        ("filter.x.clean", "clean"),
        ("filter.x.smudge", "smudge"),
        ("filter.x.process", "process"),
        ("diff.x.textconv", "textconv"),
        ("diff.x.command", "differ"),
        ("diff.external", "external"),
        ("credential.helper", "credential"),
        ("remote.origin.uploadpack", "uploadpack"),
        ("gpg.program", "gpg"),
    ] {
        git(dir, &["config", key, &mark(program)]);
    }
    for command in ["ls-tree", "check-ignore", "cat-file"] {
        git(dir, &["config", &format!("alias.{command}"), &format!("!{}", mark("alias"))]);
        git(dir, &["config", &format!("pager.{command}"), &mark("pager")]);
    }
    for (key, value) in [
        ("filter.x.required", "true"),
        ("remote.origin.url", "file:///nonexistent"),
        ("remote.origin.promisor", "true"),
        ("core.worktree", "/"),
    ] {
        git(dir, &["config", key, value]);
    }
    fs::create_dir(dir.join("hooks")).unwrap();
    for hook in ["post-index-change", "fsmonitor-watchman", "reference-transaction"] {
        let path = dir.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{}\n", mark("hook"))).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // `git config` itself may have run something; only what follows is judged.
    for left in fs::read_dir(marks.path()).unwrap() {
        fs::remove_file(left.unwrap().path()).unwrap();
    }
    fs::write(dir.join("a.py"), "changed\n").unwrap();
    fs::write(dir.join("untracked"), "").unwrap();
    let state = read(dir);
    assert_eq!(state.changed, [" M a.py", "?? untracked"]);
    let ran = || fs::read_dir(marks.path()).unwrap().count();
    assert_eq!(ran(), 0);
    // The traps are live: git as people run it walks into them.
    let status = Command::new("git").arg("--work-tree=.").arg("status").current_dir(dir).output();
    assert!(status.is_ok() && ran() > 0);
    for left in fs::read_dir(marks.path()).unwrap() {
        fs::remove_file(left.unwrap().path()).unwrap();
    }
    // Missing objects would be asked of the promisor.
    for shelf in fs::read_dir(dir.join(".git/objects")).unwrap() {
        let shelf = shelf.unwrap().path();
        if shelf.file_name().unwrap().len() == 2 {
            fs::remove_dir_all(shelf).unwrap();
        }
    }
    assert_eq!(read(dir).dirty, None);
    assert_eq!(ran(), 0);
}

#[test]
fn refs_do_not_leave_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".git")).unwrap();
    fs::write(dir.path().join(".git/HEAD"), "ref: refs/../../secret\n").unwrap();
    fs::write(dir.path().join("secret"), "a".repeat(40)).unwrap();
    assert_eq!(read_head(dir.path()).unwrap().commit, None);
    let fifo = dir.path().join(".git/packed-refs");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::write(dir.path().join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    assert_eq!(read_head(dir.path()).unwrap().commit, None, "a FIFO is not waited for");
}
