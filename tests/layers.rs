//! The guards: the layer rule of `src/lib.rs`, the size of modules, and that no test file is forgotten.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every Rust file below a directory, sorted.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                stack.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The files of a room: a folder, or one file.
fn files_of(room: &str) -> Vec<PathBuf> {
    let file = src().join(room).with_extension("rs");
    if file.exists() { vec![file] } else { sources(&src().join(room)) }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// What each room may use besides itself. `cli` and `bin` see everything. Where a room after another
/// needs the data types of the one before it, those modules are named one by one.
const ALLOWED: &[(&str, &[&str])] = &[
    ("words", &[]),
    ("formats", &[]),
    ("sys", &["formats"]),
    ("protocol", &["formats", "sys"]),
    ("store", &["formats", "sys"]),
    ("capture", &["formats", "store", "sys"]),
    ("closure", &["formats", "protocol", "store", "sys", "capture::model", "capture::trees"]),
    ("ship", &["formats", "protocol", "store", "sys", "words"]),
    (
        "deploy",
        &["formats", "protocol", "store", "sys", "words", "ship", "closure::registry", "closure::diff"],
    ),
    ("host", &["formats", "protocol", "store", "sys"]),
    ("gateway", &["formats", "protocol", "sys"]),
    ("agent", &["formats", "gateway", "host", "protocol", "store", "sys"]),
];

/// The paths after `crate::` in a file; a group `crate::{a, b}` gives each of its members.
fn used(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            assert!(!rest.starts_with('{'), "write `use crate::room::…` one a line: {line}");
            found
                .insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect());
        }
    }
    found
}

fn violations(room: &str, allowed: &[&str], text: &str) -> Vec<String> {
    used(text)
        .into_iter()
        .filter(|path| {
            let own = path == room || path.starts_with(&format!("{room}::"));
            let ok = allowed.iter().any(|a| path == a || path.starts_with(&format!("{a}::")));
            !own && !ok
        })
        .collect()
}

#[test]
fn rooms_use_only_the_rooms_before_them() {
    let mut wrong = Vec::new();
    for (room, allowed) in ALLOWED {
        for file in files_of(room) {
            let text = fs::read_to_string(&file).unwrap();
            wrong.extend(
                violations(room, allowed, &text)
                    .into_iter()
                    .map(|v| format!("{}: crate::{v}", file.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "the layer rule is broken:\n{}", wrong.join("\n"));
}

#[test]
fn the_rule_sees_a_violation() {
    assert_eq!(violations("formats", &[], "use crate::sys::error::Error;"), ["sys::error::Error"]);
    assert_eq!(
        violations("closure", &["capture::model"], "fn f(x: crate::capture::comfy::S) {}"),
        ["capture::comfy::S"]
    );
    assert!(violations("closure", &["capture::model"], "use crate::capture::model::lock::Lock;").is_empty());
}

#[test]
fn every_room_is_under_the_rule() {
    let rooms: BTreeSet<String> = fs::read_dir(src())
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| e.path().with_extension("").file_name().unwrap().to_str().unwrap().to_string())
        .filter(|room| room != "lib")
        .collect();
    let known: BTreeSet<String> =
        ALLOWED.iter().map(|(room, _)| room.to_string()).chain(["bin".into(), "cli".into()]).collect();
    assert_eq!(rooms, known);
}

#[test]
fn no_module_is_too_long() {
    let long: Vec<String> = sources(&src())
        .into_iter()
        .filter_map(|f| {
            let lines = fs::read_to_string(&f).unwrap().lines().count();
            (lines > 700).then(|| format!("{}: {lines}", f.display()))
        })
        .collect();
    assert!(long.is_empty(), "split these: {long:?}");
}

/// An end-to-end file that the runner does not find would never run.
#[test]
fn every_end_to_end_file_is_run() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let there: Vec<String> = fs::read_dir(tests.join("e2e"))
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().into_string().unwrap().strip_suffix(".py").map(str::to_owned))
        .filter(|stem| stem.starts_with("test_"))
        .collect();
    let asked = Command::new("python3").arg(tests.join("run.py")).arg("--list").output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let listed = String::from_utf8(asked.stdout).unwrap();
    let once: BTreeSet<&str> = listed.lines().collect();
    assert_eq!(once, there.iter().map(String::as_str).collect());
    assert_eq!(listed.lines().count(), once.len(), "a file is run twice");
}

/// Links of the documents to files of this repository lead somewhere.
#[test]
fn documents_lead_to_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["", "hosts", "docs", "docs/decisions"] {
        files.extend(fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().path()));
    }
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(file).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = link.split('#').next().unwrap();
            let there =
                target.is_empty() || target.contains("://") || file.parent().unwrap().join(target).exists();
            assert!(there, "{}: {link}", file.display());
        }
    }
}
