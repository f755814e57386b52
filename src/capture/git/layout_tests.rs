//! Repositories as people have them: other refs, other hashes, a part of the files, objects elsewhere.
use super::tests::{git, read, repository};
use super::*;
use std::fs;

/// As git 2.47 wrote it for `commit_of_golden`.
const TABLE: &[u8] = include_bytes!("../../../tests/golden/reftable/few.ref");
const COMMIT: &str = "c4d240e39f7b5a4867e0119bcd3cb7ece08b194f";

/// A repository whose one commit is the one that `TABLE` names.
fn commit_of_golden(dir: &Path) {
    git(dir, &["init", "-q"]);
    fs::write(dir.join("a.py"), "a\n").unwrap();
    git(dir, &["add", "a.py"]);
    let when = "1700000000 +0000";
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example"];
    let out = std::process::Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .envs([("GIT_AUTHOR_DATE", when), ("GIT_COMMITTER_DATE", when), ("GIT_CONFIG_NOSYSTEM", "1")])
        .args(identity)
        .args(["commit", "-qm", "one"])
        .current_dir(dir)
        .status();
    assert!(out.unwrap().success());
}

/// Moves the refs of a git directory into a reftable.
fn into_tables(git_dir: &Path) {
    fs::create_dir(git_dir.join("reftable")).unwrap();
    fs::write(git_dir.join("reftable/0x000000000001-0x000000000003-810bbca6.ref"), TABLE).unwrap();
    fs::write(git_dir.join("reftable/tables.list"), "0x000000000001-0x000000000003-810bbca6.ref\n").unwrap();
    fs::write(git_dir.join("HEAD"), "ref: refs/heads/.invalid\n").unwrap();
}

#[test]
fn refs_in_tables_are_read_by_whatever_git_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let (main, tree) = (dir.path().join("main"), dir.path().join("tree"));
    fs::create_dir(&main).unwrap();
    commit_of_golden(&main);
    git(&main, &["worktree", "add", "-q", "../tree", "-b", "side"]);
    git(&main, &["config", "core.repositoryFormatVersion", "1"]);
    git(&main, &["config", "extensions.refStorage", "reftable"]);
    fs::remove_dir_all(main.join(".git/refs/heads")).unwrap();
    for git_dir in [main.join(".git"), main.join(".git/worktrees/tree")] {
        into_tables(&git_dir);
    }
    for place in [&main, &tree] {
        let state = read(place);
        assert_eq!(
            (state.commit.as_deref(), state.branch.as_deref(), state.dirty),
            (Some(COMMIT), Some("main"), Some(false))
        );
        fs::write(place.join("a.py"), "A\n").unwrap();
        assert_eq!(read(place).changed, [" M a.py"]);
    }
    // A newer table of the stack wins.
    let golden = include_bytes!("../../../tests/golden/reftable/deleted.ref");
    fs::write(main.join(".git/reftable/newer.ref"), golden).unwrap();
    let list = main.join(".git/reftable/tables.list");
    let mut names = fs::read_to_string(&list).unwrap();
    names.push_str("newer.ref\n");
    fs::write(&list, names).unwrap();
    let refs = Refs { git_dir: &main.join(".git"), common_dir: &main.join(".git"), tables: true };
    assert_eq!((refs.resolve("refs/heads/gone"), refs.resolve("HEAD")), (None, None));
    assert_eq!(refs.resolve("refs/heads/main").as_deref(), Some(COMMIT));
    fs::write(&list, "../../secret\nmissing.ref\n").unwrap();
    assert_eq!(refs.resolve("refs/heads/main"), None, "a table that cannot be read is no answer");
}

#[test]
fn objects_with_longer_ids_compare_as_others_do() {
    let dir = tempfile::tempdir().unwrap();
    let (library, main) = (dir.path().join("library"), dir.path().join("main"));
    for place in [&library, &main] {
        fs::create_dir(place).unwrap();
        git(place, &["init", "-q", "--object-format=sha256"]);
        fs::write(place.join("a.py"), "a\n").unwrap();
        std::os::unix::fs::symlink("a.py", place.join("link")).unwrap();
        git(place, &["add", "-A"]);
        git(place, &["commit", "-qm", "one"]);
    }
    git(&main, &["submodule", "--quiet", "add", library.to_str().unwrap(), "lib"]);
    git(&main, &["commit", "-qm", "two"]);
    git(&main, &["worktree", "add", "-q", "../tree", "-b", "side"]);
    let clean = read(&main);
    assert_eq!((clean.commit.unwrap().len(), clean.dirty), (64, Some(false)), "{:?}", clean.changed);
    assert_eq!(read(&dir.path().join("tree")).dirty, Some(false));
    assert_eq!(read(&main.join("lib")).dirty, Some(false));
    fs::write(main.join("a.py"), "b\n").unwrap();
    fs::remove_file(main.join("link")).unwrap();
    git(&main.join("lib"), &["commit", "-q", "--allow-empty", "-m", "three"]);
    assert_eq!(read(&main).changed, [" M a.py", " M lib", " D link"]);
}

#[test]
fn what_is_not_checked_out_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    repository(dir);
    for name in ["docs/big.txt", "docs/inner/more.txt", "keep/k.py"] {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), name).unwrap();
    }
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-qm", "two"]);
    let sets: [&[&str]; 3] = [
        &["sparse-checkout", "set", "--cone", "keep", "sub"],
        &["sparse-checkout", "set", "--cone", "--sparse-index", "keep", "sub"],
        &["sparse-checkout", "set", "--no-cone", "/*", "!/docs/"],
    ];
    for set in sets {
        git(dir, set);
        assert!(!dir.join("docs").exists());
        let state = read(dir);
        assert_eq!((state.dirty, state.not_checked_out), (Some(false), 2), "{set:?} {:?}", state.changed);
        assert!(read_head(dir).unwrap().sparse_index.is_some());
        fs::remove_file(dir.join("keep/k.py")).unwrap();
        assert_eq!(read(dir).changed, [" D keep/k.py"], "{set:?}");
        fs::write(dir.join("keep/k.py"), "keep/k.py").unwrap();
        git(dir, &["sparse-checkout", "disable"]);
        assert_eq!((read(dir).dirty, read(dir).not_checked_out), (Some(false), 0));
    }
    // The index in two files.
    git(dir, &["update-index", "--split-index"]);
    git(dir, &["sparse-checkout", "set", "--cone", "keep", "sub"]);
    assert_eq!((read(dir).dirty, read(dir).not_checked_out), (Some(false), 2));
}

#[test]
fn objects_may_be_elsewhere_or_missing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("far")).unwrap();
    repository(&at("far"));
    fs::write(at("far/a.py"), "later\n").unwrap();
    git(&at("far"), &["commit", "-qam", "two"]);
    git(&at("far"), &["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", at("far").display());
    let clones: [(&str, &[&str]); 4] = [
        ("shared", &["--shared"]),
        ("shallow", &["--depth=1"]),
        ("blobless", &["--filter=blob:none"]),
        ("treeless", &["--filter=tree:0"]),
    ];
    for (name, options) in clones {
        let from = if name == "shared" { at("far").display().to_string() } else { url.clone() };
        git(dir.path(), &[&["clone", "-q"], options, &[&from, name]].concat());
        let state = read(&at(name));
        assert_eq!((state.dirty, state.commit), (Some(false), read(&at("far")).commit), "{name}");
    }
    // Detached at a commit whose trees a partial clone lacks: asked of nobody.
    fs::rename(at("far"), at("gone")).unwrap();
    let first = {
        let out =
            std::process::Command::new("git").args(["rev-list", "HEAD"]).current_dir(at("gone")).output();
        String::from_utf8(out.unwrap().stdout).unwrap().lines().last().unwrap().to_string()
    };
    fs::write(at("treeless/.git/HEAD"), format!("{first}\n")).unwrap();
    let state = read(&at("treeless"));
    assert_eq!((state.commit.as_deref(), state.branch, state.dirty), (Some(first.as_str()), None, None));
}

#[test]
fn without_a_commit_and_behind_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (unborn, linked) = (dir.path().join("unborn"), dir.path().join("linked"));
    fs::create_dir(&unborn).unwrap();
    git(&unborn, &["init", "-q"]);
    let head = read_head(&unborn).unwrap();
    assert_eq!((head.commit, head.branch.as_deref()), (None, Some("main")));
    fs::create_dir(&linked).unwrap();
    repository(&linked);
    let clean = read(&linked);
    fs::rename(linked.join(".git"), dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", linked.join(".git")).unwrap();
    assert_eq!(read_head(&linked).unwrap().commit, clean.commit);
}

#[test]
fn the_repositorys_own_ignore_rules_count() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    repository(dir);
    fs::write(dir.join(".git/mine"), "x.log\n").unwrap();
    git(dir, &["config", "core.excludesFile", ".git/mine"]);
    fs::write(dir.join(".git/info/exclude"), "y.log\n").unwrap();
    fs::write(dir.join("x.log"), "").unwrap();
    fs::write(dir.join("y.log"), "").unwrap();
    assert_eq!(read(dir).dirty, Some(false));
    fs::write(dir.join("z.log"), "").unwrap();
    assert_eq!(read(dir).changed, ["?? z.log"]);
}
