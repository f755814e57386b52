//! One derivation at a time: what a builder of ours is told, and the `.drv` file that says it. Pure, as all of the graph.
use crate::capture::trees::tree::TreeRef;
use crate::formats::nix::derivation::{Derivation, Output};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::{self, StoreDir, StorePath, StorePathName};
use crate::store::{PathInfo, Text};
use crate::sys::error::{Error, Kind, Result};
use std::collections::{BTreeSet, HashMap};

/// How a builder runs a script: `-S -s` keep everything but the standard library out, `-B` writes nothing beside it.
const FLAGS: &str = "-SsBc";
/// Runs the script named after it, which given as the program would have the whole store to import from.
const RUN_SCRIPT: &str = "import sys;exec(open(sys.argv[1],'rb').read())";

/// What builders run, or lay out. A file of its own in the store, not a text in each derivation: a daemon parses every
/// derivation twice as it adds it, character by character.
#[derive(Clone, Copy)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// How a derivation's output comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Fetched by Nix.
    Wheel,
    /// Unpacked from a wheel; imported from disk at the same path.
    Distribution,
    /// Imported, and made by nothing.
    Captured,
    /// Computed from the others.
    Built,
}

/// One derivation of the graph, ready for the store.
#[derive(Debug, Clone)]
pub struct Node {
    pub kind: NodeKind,
    /// The hash of a fixed output.
    pub fixed: Option<Sha256>,
    pub drv: StorePath,
    pub aterm: Vec<u8>,
    pub out: StorePath,
    pub references: Vec<StorePath>,
    /// What it makes, for progress and for `verify`.
    pub label: String,
}

impl Node {
    /// Its `.drv` file.
    pub fn text(&self) -> Text<'_> {
        Text { name: self.drv.name(), references: &self.references, bytes: &self.aterm }
    }
}

/// A content-addressed tree the graph needs in the store.
#[derive(Debug, Clone)]
pub struct Import {
    pub path: StorePath,
    pub tree: TreeRef,
    pub label: String,
    /// The derivation that makes the same path from the wheel.
    pub drv: Option<StorePath>,
}

impl Import {
    /// The store paths that its files name.
    pub fn references(&self) -> Result<BTreeSet<StorePath>> {
        references(&self.tree)
    }

    /// What the store has on record of it.
    pub fn info(&self) -> Result<PathInfo> {
        Ok(PathInfo {
            nar_hash: self.tree.nar_hash,
            nar_size: self.tree.nar_size,
            references: self.references()?,
            deriver: None,
            ca: String::new(),
        })
    }
}

fn references(tree: &TreeRef) -> Result<BTreeSet<StorePath>> {
    let parsed = tree.references.iter().map(|text| {
        StorePath::from_base_name(text)
            .map_err(|e| Error::new(Kind::Input, format!("the lock refers to the store path {text:?}: {e}")))
    });
    parsed.collect()
}

/// A script of ours, as a text in the store.
#[derive(Debug, Clone)]
pub struct ScriptFile {
    pub path: StorePath,
    pub text: String,
    pub references: Vec<StorePath>,
}

impl ScriptFile {
    pub fn text(&self) -> Text<'_> {
        Text { name: self.path.name(), references: &self.references, bytes: self.text.as_bytes() }
    }
}

/// The store path of a content-addressed tree.
pub fn tree_path(tree: &TreeRef, store: &StoreDir) -> Result<StorePath> {
    store_path::source_path(store, &tree.name, &tree.nar_hash, &references(tree)?)
        .map_err(|e| Error::new(Kind::Input, format!("{:?} cannot name a store path: {e}", tree.name)))
}

pub(super) struct Builder<'a> {
    pub(super) store: &'a StoreDir,
    system: String,
    modulo: HashMap<StorePath, Sha256>,
    pub(super) scripts: Vec<ScriptFile>,
    pub(super) nodes: Vec<Node>,
    pub(super) imports: Vec<Import>,
    seen: BTreeSet<StorePath>,
}

/// Where a derivation's interpreter is.
pub(super) struct Runtime {
    pub(super) path: StorePath,
    pub(super) absolute: String,
}

/// What one of our scripts makes, and from what.
pub(super) struct Job<'a> {
    pub(super) kind: NodeKind,
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) script: Script,
    pub(super) inputs: &'a [Input<'a>],
    pub(super) env: &'a [(&'a str, String)],
    /// The NAR hash of a fixed output.
    pub(super) fixed: Option<Sha256>,
}

pub(super) enum Input<'a> {
    Drv(&'a StorePath),
    Source(&'a StorePath),
}

impl<'a> Builder<'a> {
    pub(super) fn new(store: &'a StoreDir, system: &str) -> Builder<'a> {
        Builder {
            store,
            system: system.into(),
            modulo: HashMap::new(),
            scripts: Vec::new(),
            nodes: Vec::new(),
            imports: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    pub(super) fn import(
        &mut self,
        tree: &TreeRef,
        label: &str,
        drv: Option<StorePath>,
    ) -> Result<StorePath> {
        let path = tree_path(tree, self.store)?;
        if self.seen.insert(path.clone()) {
            self.imports.push(Import { path: path.clone(), tree: tree.clone(), label: label.into(), drv });
        }
        Ok(path)
    }

    pub(super) fn add(
        &mut self,
        kind: NodeKind,
        name: &str,
        label: &str,
        drv: Derivation,
    ) -> Result<(StorePath, StorePath)> {
        let name = StorePathName::sanitize(name);
        let references: Vec<StorePath> = drv.input_drvs.keys().chain(&drv.input_srcs).cloned().collect();
        let fixed = drv.outputs.values().find_map(|output| output.hash).map(|(_, hash)| hash);
        let modulo = &self.modulo;
        let done = drv
            .finish(self.store, &name, |path| modulo.get(path).copied())
            .map_err(|e| Error::new(Kind::Build, format!("cannot write the derivation of {label}: {e}")))?;
        self.modulo.insert(done.drv_path.clone(), done.modulo);
        if self.seen.insert(done.drv_path.clone()) {
            self.nodes.push(Node {
                kind,
                fixed,
                drv: done.drv_path.clone(),
                aterm: done.aterm,
                out: done.out.clone(),
                references,
                label: label.into(),
            });
        }
        Ok((done.drv_path, done.out))
    }

    /// A script as a file of the store. One for builders names its interpreter: what refers to it has both in its
    /// closure, and each reference of a derivation is a row in the daemon's database, with two indexes.
    pub(super) fn script_file(&mut self, script: Script, runtime: Option<&Runtime>) -> Result<StorePath> {
        if let Some(known) = self.scripts.iter().find(|s| s.path.name() == script.name) {
            return Ok(known.path.clone());
        }
        let text = match runtime {
            Some(runtime) => format!("#!{}/bin/python3\n{}", runtime.absolute, script.text),
            None => script.text.into(),
        };
        let references: Vec<StorePath> = runtime.iter().map(|runtime| runtime.path.clone()).collect();
        self.text_file(script.name, text, references)
    }

    /// A text of ours as a file of the store.
    pub(super) fn text_file(
        &mut self,
        name: &str,
        text: String,
        references: Vec<StorePath>,
    ) -> Result<StorePath> {
        let bad = |e| Error::new(Kind::Build, format!("cannot name the text {name}")).caused_by(e);
        let all = references.iter().cloned().collect();
        let path = store_path::text_path(self.store, name, text.as_bytes(), &all).map_err(bad)?;
        self.scripts.push(ScriptFile { path: path.clone(), text, references });
        Ok(path)
    }

    /// A derivation whose builder is the captured interpreter running one of our scripts.
    pub(super) fn script(&mut self, runtime: &Runtime, job: &Job) -> Result<(StorePath, StorePath)> {
        let Job { kind, name, label, script, inputs, env, fixed } = *job;
        let script = self.script_file(script, Some(runtime))?;
        let mut drv = Derivation {
            system: self.system.clone(),
            builder: format!("{}/bin/python3", runtime.absolute),
            args: [FLAGS, RUN_SCRIPT, &script.to_absolute(self.store)].map(String::from).to_vec(),
            ..Derivation::default()
        };
        drv.outputs.insert(
            "out".into(),
            Output { path: None, hash: fixed.map(|h| (store_path::Mode::Recursive, h)) },
        );
        drv.input_srcs.insert(script);
        for input in inputs {
            match input {
                Input::Drv(path) => {
                    drv.input_drvs.entry((*path).clone()).or_default().insert("out".into());
                }
                Input::Source(path) => {
                    drv.input_srcs.insert((*path).clone());
                }
            }
        }
        let mut set = |key: &str, value: String| drv.env.insert(key.into(), value);
        set("name", StorePathName::sanitize(name).to_string());
        set("system", self.system.clone());
        set("builder", format!("{}/bin/python3", runtime.absolute));
        // CPython finds its prefix through argv[0], which Nix sets to the builder's base name.
        set("PATH", format!("{}/bin", runtime.absolute));
        set("PYTHONHASHSEED", "0".into());
        for (key, value) in env {
            if *key == "config" {
                // Longer than a variable of a process may be.
                set("passAsFile", "config".into());
            }
            set(key, value.clone());
        }
        if let Some(hash) = fixed {
            set("outputHash", hash.to_hex());
            set("outputHashAlgo", "sha256".into());
            set("outputHashMode", "recursive".into());
        }
        self.add(kind, name, label, drv)
    }
}
