//! Derivations: what `nix-instantiate` makes of an expression, and what ours makes of the same
//! attributes.
use crate::common::{Scratch, lines};
use crate::{Nix, on_both};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::fs;
use stillframe::formats::nix::derivation::{Derivation, Finished, Output};
use stillframe::formats::nix::hash::Sha256;
use stillframe::formats::nix::store_path::{Mode, StoreDir, StorePathName, text_path};

/// One `derivation { … }`.
#[derive(Debug, Clone)]
struct Spec {
    name: String,
    builder: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    kind: Kind,
    /// Which of those before it, and which of its outputs: both count round and round.
    inputs: Vec<(usize, usize)>,
    /// Texts in the store that it refers to.
    sources: Vec<String>,
}

#[derive(Debug, Clone)]
enum Kind {
    Outputs(&'static [&'static str]),
    Fixed(Mode, Form, [u8; 32]),
}

/// How an expression writes a hash.
#[derive(Debug, Clone, Copy)]
enum Form {
    Sri,
    Hex,
    Base32,
}

impl Spec {
    fn outputs(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Outputs(names) => names,
            Kind::Fixed(..) => &["out"],
        }
    }
}

const SYSTEM: &str = "x86_64-linux";

/// Attributes with a meaning of their own.
const TAKEN: &[&str] = &["name", "system", "builder", "args", "outputs", "out", "dev", "lib", "text", "deps"];

fn text() -> impl Strategy<Value = String> {
    let piece = select(
        &[
            "\"",
            "\\",
            "\n",
            "\r",
            "\t",
            "$",
            "${",
            "$$",
            "''",
            "\\n",
            "\r\n",
            " ",
            "a",
            "Z",
            "=",
            ",",
            ")",
            "]",
            "é",
            "漢字",
            "😀",
            "\u{1}",
            "\u{7f}",
            "\u{a0}",
            "/nix/store/",
            "Derive(",
            "e\u{301}",
        ][..],
    );
    prop_oneof![vec(piece, 0..12).prop_map(|p| p.concat()), "[ -~]{0,200}".prop_map(String::from)]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-zA-Z_][a-zA-Z0-9_'-]{0,8}", 1 => text()]
        .prop_filter("an ordinary attribute", |k| !TAKEN.contains(&k.as_str()) && !k.starts_with("__"))
}

fn kind() -> impl Strategy<Value = Kind> {
    let outputs: &[&[&str]] = &[&["out"], &["out", "dev"], &["dev", "out", "lib"], &["lib", "dev"]];
    let form = select(&[Form::Sri, Form::Hex, Form::Base32][..]);
    prop_oneof![
        3 => select(outputs).prop_map(Kind::Outputs),
        1 => (any::<bool>(), form, any::<[u8; 32]>()).prop_map(|(flat, form, hash)| {
            Kind::Fixed(if flat { Mode::Flat } else { Mode::Recursive }, form, hash)
        }),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    (
        "[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,20}",
        prop_oneof![Just("/bin/sh".to_string()), Just("builtin:fetchurl".to_string()), text()],
        vec(text(), 0..4),
        btree_map(key(), text(), 0..5),
        kind(),
        vec((0..100usize, 0..100usize), 0..5),
        vec(text(), 0..3),
    )
        .prop_map(|(name, builder, args, env, kind, inputs, sources)| {
            // Nix refuses an empty builder.
            let builder = if builder.is_empty() { "b".into() } else { builder };
            Spec { name, builder, args, env, kind, inputs, sources }
        })
}

/// A string of the Nix language.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' | '$' => out.extend(['\\', c]),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out + "\""
}

/// What an expression evaluates to, computed here.
struct Known {
    finished: Finished,
    outputs: BTreeMap<String, String>,
}

/// Prints the specifications as one Nix expression, and computes the same derivations.
fn compute(specs: &[Spec], store: &StoreDir) -> (String, Vec<Known>) {
    let mut nix = String::from("let\n");
    let mut known: Vec<Known> = Vec::new();
    let mut modulo: HashMap<_, Sha256> = HashMap::new();
    for (i, spec) in specs.iter().enumerate() {
        let mut derivation = Derivation {
            system: SYSTEM.into(),
            builder: spec.builder.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            ..Derivation::default()
        };
        let mut set = |key: &str, value: String| {
            derivation.env.insert(key.into(), value);
        };
        set("name", spec.name.clone());
        set("system", SYSTEM.into());
        set("builder", spec.builder.clone());
        writeln!(nix, "d{i} = derivation {{ name = {}; system = \"{SYSTEM}\";", quoted(&spec.name)).unwrap();
        writeln!(nix, "builder = {};", quoted(&spec.builder)).unwrap();
        let args: Vec<String> = spec.args.iter().map(|a| quoted(a)).collect();
        writeln!(nix, "args = [ {} ];", args.join(" ")).unwrap();
        for (key, value) in &spec.env {
            writeln!(nix, "{} = {};", quoted(key), quoted(value)).unwrap();
        }
        let mut fixed = None;
        match &spec.kind {
            Kind::Outputs(["out"]) => {}
            Kind::Outputs(names) => {
                writeln!(nix, "outputs = [ \"{}\" ];", names.join("\" \"")).unwrap();
                set("outputs", names.join(" "));
            }
            Kind::Fixed(mode, form, hash) => {
                let hash = Sha256(*hash);
                let text = match form {
                    Form::Sri => hash.to_string(),
                    Form::Hex => hash.to_hex(),
                    Form::Base32 => hash.to_base32(),
                };
                let word = if *mode == Mode::Flat { "flat" } else { "recursive" };
                for (key, value) in
                    [("outputHash", text.as_str()), ("outputHashAlgo", "sha256"), ("outputHashMode", word)]
                {
                    writeln!(nix, "{key} = \"{value}\";").unwrap();
                    set(key, value.into());
                }
                fixed = Some((*mode, hash));
            }
        }
        // References: outputs of those before it, and texts.
        let (mut expression, mut value) = (String::new(), String::new());
        let mut inputs: Vec<(usize, &str)> = Vec::new();
        for (which, output) in spec.inputs.iter().filter(|_| i > 0) {
            let which = which % i;
            let outputs = specs[which].outputs();
            let output = outputs[output % outputs.len()];
            write!(expression, "${{d{which}.{output}}} ").unwrap();
            write!(value, "{} ", known[which].outputs[output]).unwrap();
            inputs.push((which, output));
        }
        set("deps", value);
        writeln!(nix, "deps = \"{expression}\";").unwrap();
        let (mut expression, mut value) = (String::new(), String::new());
        for (n, text) in spec.sources.iter().enumerate() {
            let path = text_path(store, &format!("s{n}"), text.as_bytes(), &BTreeSet::new()).unwrap();
            write!(expression, "${{builtins.toFile \"s{n}\" {}}}/", quoted(text)).unwrap();
            write!(value, "{}/", path.to_absolute(store)).unwrap();
            derivation.input_srcs.insert(path);
        }
        derivation.env.insert("text".into(), value);
        writeln!(nix, "text = \"{expression}\"; }};").unwrap();
        for (which, output) in inputs {
            let input = known[which].finished.drv_path.clone();
            derivation.input_drvs.entry(input).or_default().insert(output.into());
        }
        for output in spec.outputs() {
            derivation.outputs.insert(output.to_string(), Output { path: None, hash: fixed });
        }
        let name = StorePathName::new(&spec.name).unwrap();
        let finished = derivation.finish(store, &name, |drv| modulo.get(drv).copied()).expect("a derivation");
        modulo.insert(finished.drv_path.clone(), finished.modulo);
        let outputs = output_paths(&finished, spec.outputs());
        known.push(Known { finished, outputs });
    }
    nix.push_str("in [ ");
    for i in 0..specs.len() {
        write!(nix, "d{i} ").unwrap();
    }
    (nix + "]\n", known)
}

/// The environment variables of the outputs' names: what `finish` filled in.
fn output_paths(finished: &Finished, names: &[&str]) -> BTreeMap<String, String> {
    let aterm = std::str::from_utf8(&finished.aterm).expect("text");
    names
        .iter()
        .map(|name| {
            let rest = aterm.rsplit_once(&format!("(\"{name}\",\"")).expect("the variable").1;
            (name.to_string(), rest.split_once('"').expect("its end").0.to_string())
        })
        .collect()
}

/// Has Nix evaluate the expression and compares every derivation.
fn compare(at: &Nix, nix: &str, known: &[Known]) -> Result<(), TestCaseError> {
    let scratch = Scratch::new();
    let store = StoreDir::default();
    fs::write(scratch.join("expression.nix"), nix).expect("a file");
    let mut drvs = lines(&mut at.run(&scratch, "nix-instantiate", ["expression.nix"]));
    // Where "out" is not the first output, the line names the one that is.
    drvs.iter_mut().for_each(|d| d.truncate(d.find('!').unwrap_or(d.len())));
    prop_assert_eq!(drvs.len(), known.len());
    let mut wanted = BTreeSet::new();
    for (drv, known) in drvs.iter().zip(known) {
        let theirs = fs::read(scratch.physical(drv)).expect("the derivation");
        let ours = String::from_utf8_lossy(&known.finished.aterm);
        prop_assert_eq!(&ours, &String::from_utf8_lossy(&theirs));
        prop_assert_eq!(known.finished.aterm.as_slice(), theirs.as_slice());
        // Read, it is one that prints as it was.
        let printed = Derivation::parse(&store, &theirs).expect("a derivation").to_aterm(&store);
        prop_assert_eq!(printed.as_bytes(), theirs.as_slice());
        prop_assert_eq!(&known.finished.drv_path.to_absolute(&store), drv);
        let first = known.outputs.get("out").unwrap_or_else(|| known.outputs.values().next().expect("one"));
        prop_assert_eq!(&known.finished.out.to_absolute(&store), first);
        wanted.extend(known.outputs.values().cloned());
    }
    let args = ["--query", "--outputs"].into_iter().chain(drvs.iter().map(String::as_str));
    let outputs: BTreeSet<String> = lines(&mut at.run(&scratch, "nix-store", args)).into_iter().collect();
    prop_assert_eq!(outputs, wanted);
    Ok(())
}

on_both! {
    derivations_are_those_of_nix_instantiate
    two_ways_to_one_fixed_output_are_one_input
}

fn derivations_are_those_of_nix_instantiate(at: &Nix) {
    at.holds(vec(spec(), 1..6), |mut specs| {
        for (i, spec) in specs.iter_mut().enumerate() {
            // Nix prints one line for two that are the same.
            write!(spec.name, "-{i}").unwrap();
        }
        let (nix, known) = compute(&specs, &StoreDir::default());
        compare(at, &nix, &known)
    });
}

/// A fixed output stands for how it is made: of two ways to fetch one thing, a dependent has one output
/// path, and what needs both dependents sees one input.
fn two_ways_to_one_fixed_output_are_one_input(at: &Nix) {
    let spec = |name: &str, kind: Kind, inputs: &[(usize, usize)], url: &str| Spec {
        name: name.into(),
        builder: "/bin/sh".into(),
        args: vec![],
        env: BTreeMap::from([("url".into(), url.into())]),
        kind,
        inputs: inputs.to_vec(),
        sources: vec![],
    };
    let fixed = Kind::Fixed(Mode::Flat, Form::Sri, [7; 32]);
    let two = Kind::Outputs(&["out", "dev"]);
    let specs = [
        spec("x", fixed.clone(), &[], "file:///one"),
        spec("x", fixed, &[], "file:///two"),
        spec("user", two.clone(), &[(0, 0)], ""),
        spec("user", two, &[(1, 0)], ""),
        spec("both", Kind::Outputs(&["out"]), &[(2, 0), (3, 1)], ""),
    ];
    let (nix, known) = compute(&specs, &StoreDir::default());
    assert_eq!(known[2].finished.out, known[3].finished.out);
    assert_ne!(known[2].finished.drv_path, known[3].finished.drv_path);
    compare(at, &nix, &known).expect("equal");
}
