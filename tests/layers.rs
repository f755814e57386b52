//! The guards: the layer rule of `src/lib.rs`, the size of modules, and that no test file is forgotten.
use std::collections::{BTreeMap, BTreeSet};
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
    ("capture", &["formats", "store", "sys", "words"]),
    ("closure", &["formats", "protocol", "store", "sys", "capture::model", "capture::trees"]),
    ("scaling", &["protocol"]),
    ("ship", &["formats", "protocol", "scaling", "store", "sys", "words"]),
    ("host", &["formats", "protocol", "scaling", "store", "sys"]),
    (
        "snapshot",
        &[
            "formats",
            "protocol",
            "store",
            "sys",
            "words",
            "capture",
            "closure",
            "host::foreground",
            "host::slot",
        ],
    ),
    (
        "deploy",
        &[
            "formats",
            "protocol",
            "store",
            "sys",
            "words",
            "ship",
            "closure::registry",
            "closure::diff",
            "snapshot::report",
        ],
    ),
    ("jobs", &["formats", "protocol", "sys"]),
    ("gateway", &["formats", "jobs", "protocol", "scaling", "sys"]),
    ("agent", &["formats", "gateway", "host", "protocol", "store", "sys"]),
];

/// A file without the lines that are comments.
fn code_of(text: &str) -> String {
    text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

/// What a file names with `crate::`; each member of a group `crate::a::{b, c}` for itself.
fn used(text: &str) -> BTreeSet<String> {
    let code = code_of(text);
    let mut found = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        let own_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if own_word {
            paths(&code[at + word.len()..], "", &mut found);
        }
    }
    found
}

/// Reads one path, or a group of them, and says how many bytes it took.
fn paths(text: &str, before: &str, found: &mut BTreeSet<String>) -> usize {
    let length = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    let path = format!("{before}{}", &text[..length]);
    if !text[length..].starts_with('{') {
        found.insert(path.trim_end_matches(':').trim_end_matches("::self").to_string());
        return length;
    }
    let mut at = length + 1;
    loop {
        at += text[at..].find(|c: char| !c.is_whitespace() && c != ',').expect("a group ends");
        if text[at..].starts_with('}') {
            return at + 1;
        }
        let taken = paths(&text[at..], &path, found);
        assert!(taken > 0, "cannot read {}", &text[..at]);
        at += taken;
    }
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
fn groups_are_read_member_by_member() {
    let text = "use crate::a::{self, b::C, d::{E, f}};\nfn g(x: crate::h::I) {} // crate::j\n// crate::k\n";
    assert_eq!(used(text), ["a", "a::b::C", "a::d::E", "a::d::f", "h::I", "j"].map(String::from).into());
}

/// Module path -> file; tests aside.
fn modules() -> BTreeMap<String, PathBuf> {
    let test = |file: &PathBuf| {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        stem == "tests" || stem == "fixture" || stem.ends_with("_tests")
    };
    sources(&src())
        .into_iter()
        .filter(|file| !test(file))
        .map(|file| {
            let path = file.strip_prefix(src()).unwrap().with_extension("");
            let names: Vec<&str> = path.iter().map(|n| n.to_str().unwrap()).filter(|n| *n != "mod").collect();
            (names.join("::"), file)
        })
        .collect()
}

/// Which modules a file imports, tests aside: with `crate::`, with `super::`, and what a `mod.rs` takes from below.
fn imports(module: &str, text: &str, all: &BTreeMap<String, PathBuf>) -> BTreeSet<String> {
    let code = code_of(text.split("\n#[cfg(test)]\n").next().unwrap());
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut named = used(&code);
    let beside = if parent.is_empty() { String::new() } else { format!("{parent}::") };
    for (at, word) in code.match_indices("super::") {
        paths(&code[at + word.len()..], &beside, &mut named);
    }
    for below in code.lines().filter_map(|line| line.split_once("use ").map(|(_, rest)| rest)) {
        let first = below.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        named.insert(format!("{module}::{first}"));
    }
    let resolve = |path: &String| {
        let mut path = path.as_str();
        while !all.contains_key(path) {
            path = path.rsplit_once("::")?.0;
        }
        Some(path.to_string())
    };
    // A path of another crate resolves to its own module, if to any.
    named.iter().filter_map(resolve).filter(|target| target != module).collect()
}

/// One way round through the imports that comes back to where it began, if there is one.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|m| m == at) {
            return Some([&way[start..], &[at.to_string()]].concat());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at.into());
        let found = graph.get(at).into_iter().flatten().find_map(|next| walk(next, graph, way, done));
        way.pop();
        done.insert(at.into());
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| walk(module, graph, &mut Vec::new(), &mut done))
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let all = modules();
    let graph: BTreeMap<String, BTreeSet<String>> = all
        .iter()
        .map(|(module, file)| (module.clone(), imports(module, &fs::read_to_string(file).unwrap(), &all)))
        .collect();
    assert!(graph["capture::pipeline"].contains("capture::comfy"), "imports are not seen: {graph:?}");
    assert_eq!(circle(&graph), None);
}

/// The folders of a room, which its `mod.rs` and the files beside it only put together.
#[test]
fn no_wing_imports_one_that_imports_it() {
    let all = modules();
    let wing = |module: &str| {
        let mut parts = module.split("::");
        let (room, wing) = (parts.next()?, parts.next()?);
        src().join(room).join(wing).is_dir().then(|| format!("{room}::{wing}"))
    };
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, file) in &all {
        let Some(from) = wing(module) else { continue };
        let named = imports(module, &fs::read_to_string(file).unwrap(), &all);
        graph
            .entry(from.clone())
            .or_default()
            .extend(named.iter().filter_map(|to| wing(to)).filter(|to| *to != from));
    }
    assert!(graph["capture::python"].contains("capture::index"), "imports are not seen: {graph:?}");
    assert_eq!(circle(&graph), None);
}

#[test]
fn a_circle_is_seen() {
    let graph = |arrows: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in arrows {
            graph.entry((*from).into()).or_default().insert((*to).into());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
    let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")])).unwrap();
    assert_eq!(found, ["b", "c", "d", "b"]);
}

/// The table of ARCHITECTURE.md says what the list above says, and `src/lib.rs` names every room.
#[test]
fn the_rule_stands_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let table = text.split("\n## Rooms\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut written: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (rooms, uses) = (cells[1], cells[cells.len() - 2]);
        let uses = uses
            .split(", ")
            .map(|name| name.trim_matches('`').to_string())
            .filter(|n| n != "nothing of ours");
        let uses: BTreeSet<String> = uses.collect();
        for room in rooms.split(", ").map(|name| name.trim_matches('`').split('/').next().unwrap()) {
            written.entry(room.into()).or_default().extend(uses.iter().cloned());
        }
    }
    let mut wanted: BTreeMap<String, BTreeSet<String>> = ALLOWED
        .iter()
        .map(|(room, uses)| (room.to_string(), uses.iter().map(|u| u.to_string()).collect()))
        .collect();
    for room in ["bin", "cli"] {
        wanted.insert(room.into(), ["everything".to_string()].into());
    }
    assert_eq!(written, wanted);
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let docs: String = lib.lines().filter(|l| l.starts_with("//!")).collect();
    let unnamed: Vec<&String> = wanted.keys().filter(|room| !docs.contains(&format!("`{room}`"))).collect();
    assert!(unnamed.is_empty(), "src/lib.rs does not say what these are: {unnamed:?}");
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
            (lines > 500).then(|| format!("{}: {lines}", f.display()))
        })
        .collect();
    assert!(long.is_empty(), "split these: {long:?}");
}

/// Lines of each function, from its name to the brace that closes it: `cargo fmt` puts both below each other.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words: Vec<&str> = code.split(' ').take_while(|word| *word != "fn").collect();
        let known =
            |word: &&str| matches!(*word, "pub" | "async" | "const" | "unsafe") || word.starts_with("pub(");
        let Some((_, rest)) = code.split_once("fn ").filter(|_| words.iter().all(known)) else { continue };
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        // A declaration, or all of it in one line.
        if line.ends_with(';') || line.ends_with('}') {
            found.push((name.to_string(), 1));
            continue;
        }
        if let Some(length) = lines[at..].iter().position(|line| *line == close) {
            found.push((name.to_string(), length + 1));
        }
    }
    found
}

#[test]
fn few_functions_are_long() {
    let seen = functions(
        "pub(crate) async fn a(\n    b: u8,\n) {\n    if b {\n    }\n}\nfn c() {}\nlet fnord = 1;\n",
    );
    assert_eq!(seen, [("a".to_string(), 6), ("c".to_string(), 1)]);
    let mut all = 0;
    let mut long = Vec::new();
    for file in sources(&src()) {
        let found = functions(&fs::read_to_string(&file).unwrap());
        all += found.len();
        let lengthy = found.into_iter().filter(|(_, lines)| *lines > 60);
        long.extend(lengthy.map(|(name, lines)| format!("{lines} {} {name}", file.display())));
    }
    assert!(all > 2000, "functions are not seen: {all}");
    assert!(long.len() * 100 < all, "{} of {all} functions have more than 60 lines: {long:#?}", long.len());
}

/// `println!` and its like panic where nobody takes what they print: `cli::output` and `sys::say` do not.
#[test]
fn nothing_prints_past_what_cannot_panic() {
    let print = |line: &str| {
        ["println!", "print!"].iter().any(|word| {
            line.match_indices(word)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() && c != 'e'))
        })
    };
    assert!(print("    eprintln!(\"a\")") && print("print!(\"a\")") && !print("sprint!(1)"));
    let found: Vec<String> = sources(&src())
        .into_iter()
        .filter(|file| !file.ends_with("sys/say.rs") && !file.to_string_lossy().ends_with("_tests.rs"))
        .filter(|file| code_of(&fs::read_to_string(file).unwrap()).lines().any(print))
        .map(|file| file.display().to_string())
        .collect();
    assert!(found.is_empty(), "print by sys::say or the printer: {found:?}");
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
