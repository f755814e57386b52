//! Builds: what is built, what the daemon tells meanwhile, and how builds fail.
use crate::common::{Scratch, stdout};
use crate::host::{Host, add_text, on_both, told};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use stillframe::capture::trees::nar::write_tree;
use stillframe::capture::trees::tree::{Source, Tree};
use stillframe::formats::nix::derivation::{Derivation, Finished, Output};
use stillframe::formats::nix::hash::Sha256;
use stillframe::formats::nix::store_path::{Mode, StoreDir, StorePath, StorePathName, fixed_output_path};
use stillframe::store::{Event, Store, Text};
use stillframe::sys::error::{Error, Kind};

on_both! {
    a_chain_is_built_and_told_of
    failed_builds
    a_fixed_output_of_another_hash
    a_daemon_that_is_killed_while_it_builds
    a_daemon_that_is_killed_while_it_takes_a_tree
    a_daemon_that_is_killed_among_texts
}

/// A builder that needs nothing but itself, as a sandbox has nothing else: it says its `lines`, then
/// fails, waits, or writes `text`.
const BUILDER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
    printf("a first line\n");
    if (getenv("hold")) { fflush(stdout); sleep(20); }
    if (getenv("fail")) { fprintf(stderr, "it broke\n"); return atoi(getenv("fail")); }
    if (getenv("nothing")) return 0;
    FILE *out = fopen(getenv("out"), "w");
    fputs(getenv("text"), out);
    return fclose(out);
}
"#;

fn builder() -> Tree {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = PROGRAM.get_or_init(|| {
        let scratch = Scratch::new();
        std::fs::write(scratch.join("builder.c"), BUILDER).unwrap();
        stdout(
            Command::new("cc")
                .args(["-static", "-Os", "-s", "builder.c", "-o", "builder"])
                .current_dir(scratch.path()),
        );
        std::fs::read(scratch.join("builder")).unwrap()
    });
    Tree::single_file(Source::Bytes(bytes.as_slice().into()), true)
}

fn set<const N: usize>(paths: [&StorePath; N]) -> BTreeSet<StorePath> {
    paths.into_iter().cloned().collect()
}

fn env<const N: usize>(all: [(&str, &str); N]) -> BTreeMap<String, String> {
    all.into_iter().map(|(k, v)| (k.into(), v.into())).collect()
}

/// A connection, and what it needs to write derivations.
struct Bench {
    store: Store,
    dir: StoreDir,
    builder: StorePath,
    modulo: BTreeMap<StorePath, Sha256>,
    heard: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    fn new(host: &Host) -> Bench {
        let mut store = host.store();
        let builder = store.add_tree("builder", &BTreeSet::new(), |out| write_tree(&builder(), out)).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hear = heard.clone();
        store.on_event(move |event| hear.lock().unwrap().push(event));
        Bench { store, dir: StoreDir::default(), builder, modulo: BTreeMap::new(), heard }
    }

    /// Writes a derivation with our builder.
    fn derive(&mut self, name: &str, env: BTreeMap<String, String>, inputs: &[&Finished]) -> Finished {
        let derivation = Derivation {
            outputs: [("out".into(), Output { path: None, hash: None })].into(),
            input_drvs: inputs.iter().map(|i| (i.drv_path.clone(), ["out".into()].into())).collect(),
            input_srcs: set([&self.builder]),
            system: format!("{}-linux", std::env::consts::ARCH),
            builder: self.builder.to_absolute(&self.dir),
            args: vec![],
            env,
        };
        self.write(name, derivation)
    }

    fn write(&mut self, name: &str, derivation: Derivation) -> Finished {
        let references: BTreeSet<StorePath> =
            derivation.input_drvs.keys().chain(&derivation.input_srcs).cloned().collect();
        let name = StorePathName::new(name).unwrap();
        let made = derivation.finish(&self.dir, &name, |drv| self.modulo.get(drv).copied()).unwrap();
        let at = add_text(&mut self.store, made.drv_path.name(), &references, &made.aterm).unwrap();
        assert_eq!(at, made.drv_path);
        self.modulo.insert(made.drv_path.clone(), made.modulo);
        made
    }

    /// `builtin:fetchurl` of a text in the store, as a fixed output of `hash`.
    fn fetch(&mut self, text: &str, hash: Sha256) -> Finished {
        let source = add_text(&mut self.store, "source", &BTreeSet::new(), text.as_bytes()).unwrap();
        let url = format!("file://{}", source.to_absolute(&self.dir));
        let sri = hash.to_string();
        let derivation = Derivation {
            outputs: [("out".into(), Output { path: None, hash: Some((Mode::Flat, hash)) })].into(),
            input_srcs: set([&source]),
            system: "builtin".into(),
            builder: "builtin:fetchurl".into(),
            env: env([("url", &url), ("outputHash", &sri), ("outputHashMode", "flat")]),
            ..Derivation::default()
        };
        self.write("fetched", derivation)
    }

    fn build(&mut self, made: &Finished) -> Result<(), Error> {
        self.store.build(std::slice::from_ref(&made.drv_path))
    }

    /// The events since the last time.
    fn heard(&self) -> Vec<Event> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }

    /// What lies at a path that is one file.
    fn text(&self, host: &Host, path: &StorePath) -> String {
        std::fs::read_to_string(host.scratch.physical(&path.to_absolute(&self.dir))).unwrap()
    }
}

fn built(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(
            |e| if let Event::Building { derivation, .. } = e { Some(derivation.as_str()) } else { None },
        )
        .collect()
}

fn a_chain_is_built_and_told_of(host: &Host) {
    let mut bench = Bench::new(host);
    let fetched = bench.fetch("from elsewhere", Sha256::of("from elsewhere"));
    let low = bench.derive("low", env([("text", "low\n")]), &[&fetched]);
    let high_text = format!("see {}", low.out.to_absolute(&bench.dir));
    let high = bench.derive("high", env([("text", &high_text)]), &[&low]);
    bench.build(&high).unwrap();
    assert_eq!(bench.text(host, &fetched.out), "from elsewhere");
    assert_eq!(bench.text(host, &low.out), "low\n");
    assert_eq!(bench.text(host, &high.out), high_text);
    // References are found by the daemon, in what was written.
    let info = bench.store.info(&high.out).unwrap().unwrap();
    assert_eq!(
        (info.references, info.deriver, info.ca.as_str()),
        (set([&low.out]), Some(high.drv_path.clone()), "")
    );
    let info = bench.store.info(&low.out).unwrap().unwrap();
    assert_eq!(info.references, BTreeSet::new());
    let info = bench.store.info(&fetched.out).unwrap().unwrap();
    assert_eq!(info.ca, format!("fixed:sha256:{}", Sha256::of("from elsewhere").to_base32()));

    let events = bench.heard();
    let drvs = [&fetched, &low, &high].map(|f| f.drv_path.to_absolute(&bench.dir));
    assert_eq!(built(&events), drvs);
    for event in &events {
        if let Event::Building { id, .. } = event {
            assert!(events.contains(&Event::Stopped { id: *id }));
        }
    }
    let said = events.iter().filter(|e| **e == Event::Log("a first line".into())).count();
    assert_eq!(said, 2, "{events:?}");

    // There is nothing to do any more.
    bench.build(&high).unwrap();
    assert_eq!(built(&bench.heard()), [""; 0]);
}

fn failed_builds(host: &Host) {
    let mut bench = Bench::new(host);
    let broken = bench.derive("broken", env([("fail", "3")]), &[]);
    let above = bench.derive("above", env([("text", "x")]), &[&broken]);
    let absolute = |path: &StorePath| path.to_absolute(&StoreDir::default());
    let drv = absolute(&broken.drv_path);
    let why = format!(
        "builder for '{drv}' failed with exit code 3;\nlast 2 log lines:\n> a first line\n> it broke\n"
    );
    for made in [&broken, &above] {
        let error = bench.build(made).unwrap_err();
        assert_eq!(error.kind, Kind::Build);
        // Also where it is not what was asked for. Nix indents what it logs.
        let flat: String = error.message.lines().flat_map(|l| [l.trim(), "\n"]).collect();
        assert!(flat.starts_with(&why), "{error}");
        assert!(!error.message.contains('\u{1b}'), "{error}");
        if made.drv_path == above.drv_path {
            let last =
                format!("1 dependencies of derivation '{}' failed to build", absolute(&above.drv_path));
            assert_eq!(error.message.lines().last(), Some(last.as_str()));
        }
        assert!(bench.heard().contains(&Event::Log("it broke".into())));
    }
    let nothing = bench.derive("nothing", env([("nothing", "1")]), &[]);
    let error = bench.build(&nothing).unwrap_err();
    let text = format!(
        "builder for '{}' failed to produce output path for output 'out' at ",
        absolute(&nothing.drv_path)
    );
    assert!(error.message.starts_with(&text), "{error}");
    // A derivation that is not in the store.
    let missing = StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-no.drv").unwrap();
    let error = bench.store.build(std::slice::from_ref(&missing)).unwrap_err();
    assert_eq!(
        told(&error),
        format!("Build: cannot build missing derivation '{}' (hint: none)", absolute(&missing))
    );
    // And the connection goes on.
    let good = bench.derive("good", env([("text", "good")]), &[]);
    bench.build(&good).unwrap();
    assert_eq!(bench.text(host, &good.out), "good");
    assert_eq!(
        bench.store.valid(&set([&good.out, &broken.out, &above.out, &nothing.out])).unwrap(),
        set([&good.out])
    );
}

fn a_fixed_output_of_another_hash(host: &Host) {
    let mut bench = Bench::new(host);
    let (wanted, got) = (Sha256::of("what was pinned"), Sha256::of("what came"));
    let fetched = bench.fetch("what came", wanted);
    let error = bench.build(&fetched).unwrap_err();
    assert_eq!(error.kind, Kind::Build);
    let drv = fetched.drv_path.to_absolute(&bench.dir);
    let words: Vec<&str> = error.message.split_whitespace().collect();
    let text = format!("hash mismatch in fixed-output derivation '{drv}': specified: {wanted} got: {got}");
    assert!(words.join(" ").contains(&text), "{error}");
    // Nix keeps it under the name of what it is.
    let actual = fixed_output_path(&bench.dir, "fetched", Mode::Flat, &got).unwrap();
    assert_eq!(bench.store.valid(&set([&fetched.out, &actual])).unwrap(), set([&actual]));
}

fn ended(host: &Host, kind: Kind) -> String {
    format!(
        "{kind:?}: the Nix daemon at {} ended the connection (hint: what is in the store already stays; run the command \
         again and it goes on from there)",
        host.at()
    )
}

fn a_daemon_that_is_killed_while_it_builds(host: &Host) {
    let mut bench = Bench::new(host);
    let slow = bench.derive("slow", env([("hold", "1"), ("text", "done")]), &[]);
    let kill = host.killer();
    bench.store.on_event(move |event| {
        if matches!(event, Event::Building { .. }) {
            kill();
        }
    });
    let error = bench.build(&slow).unwrap_err();
    assert_eq!(told(&error), ended(host, Kind::Build));
    // The connection stays ended, and says so each time.
    assert_eq!(told(&bench.store.info(&slow.out).unwrap_err()), ended(host, Kind::Store));
    let again = add_text(&mut bench.store, "x", &BTreeSet::new(), b"x");
    assert_eq!(told(&again.unwrap_err()), ended(host, Kind::Store));
    drop(bench);
    // What was in the store is there still.
    let mut store = host.store();
    assert_eq!(store.valid(&set([&slow.drv_path, &slow.out])).unwrap(), set([&slow.drv_path]));
}

/// Kills once so much has gone through.
struct Killing<'a> {
    out: &'a mut dyn Write,
    left: usize,
    kill: &'a dyn Fn(),
}

impl Write for Killing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left > 0 && self.left <= bytes.len() {
            (self.kill)();
        }
        self.left = self.left.saturating_sub(bytes.len());
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn a_daemon_that_is_killed_while_it_takes_a_tree(host: &Host) {
    let mut store = host.store();
    let before = add_text(&mut store, "before", &BTreeSet::new(), b"before").unwrap();
    // More than what a pipe holds comes after.
    let source = host.scratch.join("big");
    std::fs::write(&source, vec![7; 8_000_000]).unwrap();
    let big = Tree::single_file(Source::Disk(source), false);
    let kill = host.killer();
    let error = store
        .add_tree("big", &BTreeSet::new(), |out| {
            write_tree(&big, &mut Killing { out, left: 2_000_000, kill: &kill })
        })
        .unwrap_err();
    assert_eq!(told(&error), ended(host, Kind::Store));
    drop(store);
    // It goes on from there.
    let mut store = host.store();
    let path = store.add_tree("big", &BTreeSet::new(), |out| write_tree(&big, out)).unwrap();
    assert_eq!(store.valid(&set([&before, &path])).unwrap(), set([&before, &path]));
}

fn a_daemon_that_is_killed_among_texts(host: &Host) {
    let mut store = host.store();
    let bodies: Vec<String> = (0..400).map(|n| format!("{n} {}", "x".repeat(2000))).collect();
    let kill = host.killer();
    let texts = bodies.iter().enumerate().map(|(n, body)| {
        if n == 200 {
            kill();
            // In its own root it ends a moment after the process that was killed: it is to hear of no more.
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        Text { name: "t", references: &[], bytes: body.as_bytes() }
    });
    let mut heard = Vec::new();
    let error = store
        .add_texts(texts, |at| {
            heard.push(at);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(told(&error), ended(host, Kind::Store));
    assert!((100..=200).contains(&heard.len()), "{}", heard.len());
    // Those that it had answered for are there.
    let heard: BTreeSet<StorePath> = heard.into_iter().collect();
    assert_eq!(host.store().valid(&heard).unwrap(), heard);
}
