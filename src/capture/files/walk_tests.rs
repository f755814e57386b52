use super::*;
use crate::capture::files::paths::read_small;
use crate::capture::model::report::Topic;
use crate::words::show;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixListener;

fn topics(walked: &Walked, topic: Topic) -> Vec<String> {
    walked.findings.iter().filter(|f| f.topic == topic).map(|f| f.path.clone()).collect()
}

fn everything(root: &Path) -> Walked {
    walk(root, "w", &mut |_, _| false)
}

fn paths(walked: &Walked) -> Vec<String> {
    walked.entries.iter().map(|e| show(&e.path)).collect()
}

#[test]
fn sorted_and_nothing_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("b/c")).unwrap();
    fs::create_dir(dir.path().join("hollow")).unwrap();
    fs::write(dir.path().join("b/c/x"), "x").unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    std::os::unix::fs::symlink("..", dir.path().join("b/up")).unwrap();
    std::os::unix::fs::symlink("self", dir.path().join("self")).unwrap();
    let walked = everything(dir.path());
    assert_eq!(paths(&walked), ["a", "b", "b/c", "b/c/x", "b/up", "hollow", "self"]);
    assert_eq!(walked.entries[5].kind, NodeKind::Directory { empty: true });
    assert_eq!(walked.entries[4].kind, NodeKind::Symlink(b"..".to_vec()));
    assert!(walked.findings.is_empty());
    let pruned = walk(dir.path(), "w", &mut |path, _| path == b"b");
    assert_eq!(paths(&pruned), ["a", "hollow", "self"]);
}

#[test]
fn special_files_are_named_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap();
    assert!(made.success());
    let _listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    let walked = everything(dir.path());
    assert!(walked.entries.is_empty());
    assert_eq!(topics(&walked, Topic::SpecialFile), ["w/pipe", "w/socket"]);
    assert!(read_small(&dir.path().join("pipe"), 10).is_none(), "does not wait for a writer");
}

#[test]
fn odd_names_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("new\nline"), "").unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"latin\xe9")), "").unwrap();
    for name in ["Readme", "README"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let walked = everything(dir.path());
    assert_eq!(walked.entries.len(), 4);
    assert_eq!(topics(&walked, Topic::Name), ["w/latin\\xe9", "w/new\\nline"]);
    assert_eq!(topics(&walked, Topic::Case), ["w/Readme"]);
}

#[test]
fn unreadable_is_a_line_of_the_report() {
    if rustix::process::getuid().is_root() {
        eprintln!("skipped: root reads everything");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    for name in ["d", "f"] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let walked = everything(dir.path());
    assert_eq!(topics(&walked, Topic::Unreadable), ["w/d", "w/f"]);
    fs::set_permissions(dir.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_folder_that_is_not_there_is_a_line_of_the_report() {
    let walked = everything(Path::new("/nonexistent/x"));
    assert_eq!(topics(&walked, Topic::Unreadable), ["w"]);
}

#[test]
fn what_vanishes_is_not_there_at_another_try() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    // `b` goes while `a` is judged: the second listing no longer has it.
    let gone = dir.path().join("b");
    let walked = walk(dir.path(), "w", &mut |_, _| {
        let _ = fs::remove_file(&gone);
        false
    });
    assert_eq!(paths(&walked), ["a"]);
    assert!(walked.findings.is_empty());
}

#[test]
fn what_vanishes_at_every_try_is_reported_once() {
    let dir = tempfile::tempdir().unwrap();
    let restless = dir.path().join("b");
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    // Listed, gone when it is looked at, and there again.
    let walked = walk(dir.path(), "w", &mut |path, _| {
        match path {
            b"a" => fs::remove_file(&restless).unwrap(),
            b"c" => fs::write(&restless, "").unwrap(),
            _ => {}
        }
        false
    });
    assert_eq!(paths(&walked), ["a", "c"]);
    let told: Vec<_> =
        walked.findings.iter().map(|f| (f.severity, f.path.as_str(), f.message.as_str())).collect();
    assert_eq!(told, [(Severity::Warning, "w/b", "vanished while its folder was read; left out")]);
}

#[test]
fn digest_tells_changes_and_distrusts_fresh_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "1").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/b"), "2").unwrap();
    let now = SystemTime::now();
    let later = now + Duration::from_secs(60);
    let first = everything(dir.path()).entries;
    assert_eq!(stat_digest(&first, now), None, "just written");
    let digest = stat_digest(&first, later);
    assert!(digest.is_some());
    assert_eq!(digest, stat_digest(&everything(dir.path()).entries, later));
    fs::write(dir.path().join("litter"), "").unwrap();
    fs::remove_file(dir.path().join("litter")).unwrap();
    assert_eq!(digest, stat_digest(&everything(dir.path()).entries, later), "folder times");
    fs::write(dir.path().join("d/b"), "3").unwrap();
    assert_ne!(digest, stat_digest(&everything(dir.path()).entries, later));
}

#[test]
fn shown_names_cannot_move_the_cursor() {
    assert_eq!(show(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
    assert_eq!(show_in("", b""), ".");
}
