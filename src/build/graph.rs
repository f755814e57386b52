//! lock -> derivations. Pure: no Nix evaluation, no store; the same lock gives the same paths on any
//! machine. Big things (wheels' trees, packs, the runtime) are content-addressed, so a new version of
//! this program ships none of them again; only what we compute from them is input-addressed.
use crate::build::launch::{self, LAUNCH_VERSION, Launch, Layer, Link};
use crate::capture::lock::{DistributionLock, Lock, Provenance, TreeRef, WheelRef};
use crate::formats::nix::derivation::{Derivation, Output};
use crate::formats::nix::hash::Sha256;
use crate::formats::nix::store_path::{self, StoreDir, StorePath, StorePathName};
use crate::formats::python::entry_points::EntryPoint;
use crate::store::Text;
use crate::sys::error::{Error, Kind, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr;

/// What builders run. A file of its own in the store, not a text in each derivation: a daemon parses every derivation
/// twice as it adds it, character by character.
#[derive(Clone, Copy)]
struct Script {
    name: &'static str,
    text: &'static str,
}

const UNPACK: Script = Script { name: "unpack.py", text: include_str!("scripts/unpack.py") };
const CAPTURED: Script = Script { name: "captured.py", text: include_str!("scripts/captured.py") };
const BYTECODE: Script = Script { name: "bytecode.py", text: include_str!("scripts/bytecode.py") };
const PYTHON: Script = Script { name: "python.py", text: include_str!("scripts/python.py") };
const ENVIRONMENT: Script = Script { name: "environment.py", text: include_str!("scripts/environment.py") };
const SNAPSHOT: Script = Script { name: "snapshot.py", text: include_str!("scripts/snapshot.py") };

/// Runs the script named after it: `-S -s` keep everything but the standard library out, and given as a program it
/// would have the whole store to import from.
const RUN_SCRIPT: &str =
    "import sys; exec(compile(open(sys.argv[1], encoding='utf-8').read(), 'script', 'exec'))";

/// What a service adds to the lock: it is part of the snapshot, not of the environment.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    pub name: String,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
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

/// A script that builders run, as a text in the store.
#[derive(Debug, Clone)]
pub struct ScriptFile {
    pub path: StorePath,
    pub bytes: &'static [u8],
}

impl ScriptFile {
    pub fn text(&self) -> Text<'_> {
        Text { name: self.path.name(), references: &[], bytes: self.bytes }
    }
}

#[derive(Debug, Clone)]
pub struct Graph {
    pub scripts: Vec<ScriptFile>,
    /// In an order in which each comes after those it refers to.
    pub nodes: Vec<Node>,
    pub imports: Vec<Import>,
    /// The runtime of the configuration, in place of a captured one: it comes with a closure of its own.
    pub given: Option<StorePath>,
    pub environment: StorePath,
    pub snapshot: StorePath,
    pub snapshot_drv: StorePath,
}

/// The store path of a content-addressed tree.
pub fn tree_path(tree: &TreeRef, store: &StoreDir) -> Result<StorePath> {
    let mut references = BTreeSet::new();
    for text in &tree.references {
        references.insert(StorePath::from_base_name(text).map_err(|e| {
            Error::new(Kind::Input, format!("the lock refers to the store path {text:?}: {e}"))
        })?);
    }
    store_path::source_path(store, &tree.name, &tree.nar_hash, &references)
        .map_err(|e| Error::new(Kind::Input, format!("{:?} cannot name a store path: {e}", tree.name)))
}

struct Builder<'a> {
    store: &'a StoreDir,
    system: String,
    modulo: HashMap<StorePath, Sha256>,
    scripts: Vec<ScriptFile>,
    nodes: Vec<Node>,
    imports: Vec<Import>,
    seen: BTreeSet<StorePath>,
}

/// Where a derivation's interpreter is.
struct Runtime {
    path: StorePath,
    absolute: String,
}

/// What one of our scripts makes, and from what.
struct Job<'a> {
    kind: NodeKind,
    name: &'a str,
    label: &'a str,
    script: Script,
    inputs: &'a [Input<'a>],
    env: &'a [(&'a str, String)],
    /// The NAR hash of a fixed output.
    fixed: Option<Sha256>,
}

enum Input<'a> {
    Drv(&'a StorePath),
    Source(&'a StorePath),
}

impl Builder<'_> {
    fn import(&mut self, tree: &TreeRef, label: &str, drv: Option<StorePath>) -> Result<StorePath> {
        let path = tree_path(tree, self.store)?;
        if self.seen.insert(path.clone()) {
            self.imports.push(Import { path: path.clone(), tree: tree.clone(), label: label.into(), drv });
        }
        Ok(path)
    }

    fn add(
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

    fn script_file(&mut self, script: Script) -> Result<StorePath> {
        if let Some(known) = self.scripts.iter().find(|s| s.path.name() == script.name) {
            return Ok(known.path.clone());
        }
        let bad = |e| Error::new(Kind::Build, format!("cannot name the script {}", script.name)).caused_by(e);
        let bytes = script.text.as_bytes();
        let path = store_path::text_path(self.store, script.name, bytes, &BTreeSet::new()).map_err(bad)?;
        self.scripts.push(ScriptFile { path: path.clone(), bytes });
        Ok(path)
    }

    /// A derivation whose builder is the captured interpreter running one of our scripts.
    fn script(&mut self, runtime: &Runtime, job: &Job) -> Result<(StorePath, StorePath)> {
        let Job { kind, name, label, script, inputs, env, fixed } = *job;
        let script = self.script_file(script)?;
        let mut drv = Derivation {
            system: self.system.clone(),
            builder: format!("{}/bin/python3", runtime.absolute),
            args: ["-S", "-s", "-B", "-c", RUN_SCRIPT, &script.to_absolute(self.store)]
                .map(String::from)
                .to_vec(),
            ..Derivation::default()
        };
        drv.outputs.insert(
            "out".into(),
            Output { path: None, hash: fixed.map(|h| (store_path::Mode::Recursive, h)) },
        );
        drv.input_srcs.extend([runtime.path.clone(), script]);
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

    fn wheel(&mut self, wheel: &WheelRef) -> Result<(StorePath, StorePath)> {
        let mut drv = Derivation {
            system: "builtin".into(),
            builder: "builtin:fetchurl".into(),
            ..Derivation::default()
        };
        drv.outputs
            .insert("out".into(), Output { path: None, hash: Some((store_path::Mode::Flat, wheel.sha256)) });
        let name = StorePathName::sanitize(&wheel.file);
        for (key, value) in [
            ("name", name.to_string()),
            ("system", "builtin".into()),
            ("builder", "builtin:fetchurl".into()),
            ("url", wheel.url.clone()),
            ("urls", wheel.url.clone()),
            ("outputHash", wheel.sha256.to_hex()),
            ("outputHashAlgo", "sha256".into()),
            ("outputHashMode", "flat".into()),
            ("executable", String::new()),
            ("unpack", String::new()),
            ("preferLocalBuild", "1".into()),
            ("impureEnvVars", "http_proxy https_proxy ftp_proxy all_proxy no_proxy".into()),
        ] {
            drv.env.insert(key.into(), value);
        }
        self.add(NodeKind::Wheel, &wheel.file, &wheel.file, drv)
    }

    /// The path of a distribution and what a build takes it from. What no wheel makes has a derivation all
    /// the same, one that fails: the paths of what is built from it depend on the content alone, and stay the
    /// same whether a wheel vouches for it or not. Only with references it cannot have one, by Nix's rules.
    fn distribution(&mut self, runtime: &Runtime, d: &DistributionLock) -> Result<(StorePath, bool)> {
        let label = format!("{} {}", d.name, d.version);
        let (kind, script, wheel) = match (&d.wheel, d.provenance) {
            (Some(wheel), Provenance::Pinned) => (NodeKind::Distribution, UNPACK, Some(self.wheel(wheel)?)),
            _ if d.tree.references.is_empty() => (NodeKind::Captured, CAPTURED, None),
            _ => return Ok((self.import(&d.tree, &label, None)?, false)),
        };
        let inputs: Vec<Input> = wheel.iter().map(|(drv, _)| Input::Drv(drv)).collect();
        let src = wheel.as_ref().map_or(String::new(), |(_, path)| path.to_absolute(self.store));
        let (drv, out) = self.script(
            runtime,
            &Job {
                kind,
                name: &d.tree.name,
                label: &label,
                script,
                inputs: &inputs,
                env: &[("src", src)],
                fixed: Some(d.tree.nar_hash),
            },
        )?;
        let expected = tree_path(&d.tree, self.store)?;
        if out != expected {
            return Err(Error::new(
                Kind::Build,
                format!("{label}: the derivation gives {out}, the content {expected}"),
            ));
        }
        self.import(&d.tree, &label, wheel.is_some().then(|| drv.clone()))?;
        Ok((drv, true))
    }
}

/// Writes the whole graph for a lock.
pub fn graph(lock: &Lock, store: &StoreDir, service: &ServiceSpec) -> Result<Graph> {
    let mut b = Builder {
        store,
        system: lock.system.clone(),
        modulo: HashMap::new(),
        scripts: Vec::new(),
        nodes: Vec::new(),
        imports: Vec::new(),
        seen: BTreeSet::new(),
    };
    let (runtime, home, home_input) = runtime(lock, &mut b)?;
    let mut inputs: Vec<(bool, StorePath)> = vec![home_input];
    let mut members = Vec::new();
    for d in &lock.distributions {
        let (input, derived) = b.distribution(&runtime, d)?;
        let source = tree_path(&d.tree, store)?.to_absolute(store);
        let mut member = json!({"name": d.name, "path": source, "real": d.real_files});
        if !d.scripts.is_empty() {
            member["scripts"] = scripts(d)?;
        }
        if d.has_modules {
            let (bytecode_drv, bytecode) = b.script(
                &runtime,
                &Job {
                    kind: NodeKind::Built,
                    name: &format!("{}-{}-bytecode", d.name, d.version),
                    label: &format!("bytecode of {} {}", d.name, d.version),
                    script: BYTECODE,
                    inputs: &[if derived { Input::Drv(&input) } else { Input::Source(&input) }],
                    env: &[("src", source)],
                    fixed: None,
                },
            )?;
            member["bytecode"] = json!(bytecode.to_absolute(store));
            inputs.push((true, bytecode_drv));
        }
        inputs.push((derived, input));
        members.push(member);
    }
    for source in &lock.sources {
        let path = b.import(&source.tree, &source.path, None)?;
        inputs.push((false, path));
    }
    if let Some(tree) = &lock.unowned {
        let path = b.import(tree, "files no distribution owns", None)?;
        let source = path.to_absolute(store);
        let (bytecode_drv, bytecode) = b.script(
            &runtime,
            &Job {
                kind: NodeKind::Built,
                name: "site-packages-unowned-bytecode",
                label: "bytecode of files no distribution owns",
                script: BYTECODE,
                inputs: &[Input::Source(&path)],
                env: &[("src", source.clone())],
                fixed: None,
            },
        )?;
        let bytecode = bytecode.to_absolute(store);
        members.push(json!({"name": "unowned", "path": source, "real": false, "bytecode": bytecode}));
        inputs.push((true, bytecode_drv));
        inputs.push((false, path));
    }
    let inputs: Vec<Input> = inputs
        .iter()
        .map(|(is_drv, path)| if *is_drv { Input::Drv(path) } else { Input::Source(path) })
        .collect();
    let (environment_drv, environment) = b.script(
        &runtime,
        &Job {
            kind: NodeKind::Built,
            name: "python-environment",
            label: "Python environment",
            script: ENVIRONMENT,
            inputs: &inputs,
            env: &[("config", json!({"home": home, "distributions": members}).to_string())],
            fixed: None,
        },
    )?;
    snapshot(lock, store, service, b, &runtime, environment_drv, environment)
}

/// Its scripts as the builder writes them.
fn scripts(d: &DistributionLock) -> Result<serde_json::Value> {
    let script = |line: &String| {
        let point = EntryPoint::from_str(line)
            .map_err(|e| Error::new(Kind::Input, format!("the lock has a bad script of {}: {e}", d.name)))?;
        Ok(json!({"name": point.name, "module": point.module, "function": point.function}))
    };
    d.scripts.iter().map(script).collect()
}

/// The interpreter the builders use, the `home` of the environment, and what the environment needs for
/// it: the captured runtime with its compiled standard library, or the given store path as it is.
fn runtime(lock: &Lock, b: &mut Builder) -> Result<(Runtime, String, (bool, StorePath))> {
    let given = |text: &str| {
        StorePath::from_absolute(b.store, text).map_err(|e| {
            Error::new(Kind::Input, format!("the Python runtime {text:?} is not a store path: {e}"))
        })
    };
    if let Some(text) = &lock.runtime.store_path {
        let path = given(text)?;
        let absolute = path.to_absolute(b.store);
        let home = format!("{absolute}/bin");
        return Ok((Runtime { path: path.clone(), absolute }, home, (false, path)));
    }
    let (Some(libraries), Some(tree)) = (&lock.runtime.libraries, &lock.runtime.tree) else {
        return Err(Error::new(
            Kind::Input,
            "the lock has neither a captured runtime nor a store path for it",
        )
        .hint("write it anew with `stillframe lock`"));
    };
    b.import(libraries, "base libraries", None)?;
    let path = b.import(tree, "Python runtime", None)?;
    let absolute = path.to_absolute(b.store);
    let runtime = Runtime { path: path.clone(), absolute: absolute.clone() };
    let (drv, out) = b.script(
        &runtime,
        &Job {
            kind: NodeKind::Built,
            name: &format!("python-{}", lock.runtime.version),
            label: "standard library bytecode",
            script: PYTHON,
            inputs: &[],
            env: &[("src", absolute)],
            fixed: None,
        },
    )?;
    Ok((runtime, format!("{}/bin", out.to_absolute(b.store)), (true, drv)))
}

fn snapshot(
    lock: &Lock,
    store: &StoreDir,
    service: &ServiceSpec,
    mut b: Builder,
    runtime: &Runtime,
    environment_drv: StorePath,
    environment: StorePath,
) -> Result<Graph> {
    let environment_path = environment.to_absolute(store);
    let mut sources = Vec::new();
    let mut links = vec![json!({"at": "python", "to": environment_path})];
    let mut layers = Vec::new();
    let mut slot_links = vec![Link { at: "base/models".into(), to: "{models}".into() }];
    let main = b.import(&lock.main.tree, "main program", None)?;
    let main_path = main.to_absolute(store);
    sources.push(main);
    links.push(json!({"at": "main", "to": main_path}));
    // Packs have none: newer ComfyUI refuses a pack with bytecode in it.
    let (bytecode_drv, bytecode) = b.script(
        runtime,
        &Job {
            kind: NodeKind::Built,
            name: "comfyui-bytecode",
            label: "bytecode of the main program",
            script: BYTECODE,
            inputs: &[Input::Source(&sources[0])],
            env: &[("src", main_path.clone()), ("checked", "1".into())],
            fixed: None,
        },
    )?;
    layers.push(Layer {
        at: "main".into(),
        lower: main_path.clone(),
        writable: true,
        bytecode: Some(bytecode.to_absolute(store)),
    });
    let mut packs = Vec::new();
    for pack in &lock.packs {
        let path = b.import(&pack.tree, &pack.name, None)?;
        let absolute = path.to_absolute(store);
        let at = format!("base/custom_nodes/{}", pack.name);
        links.push(json!({"at": format!("custom_nodes/{}", pack.name), "to": absolute}));
        sources.push(path);
        let mut weights = Vec::new();
        for weight in &pack.weights {
            let path = b.import(&weight.tree, &format!("{}/{}", pack.name, weight.path), None)?;
            let to = path.to_absolute(store);
            weights.push(json!({"at": weight.path, "path": to}));
            slot_links.push(Link { at: format!("{at}/{}", weight.path), to });
            sources.push(path);
        }
        packs.push(json!({"name": pack.name, "path": absolute, "weights": weights,
            "commit": pack.git.as_ref().and_then(|g| g.commit.clone())}));
        layers.push(Layer { at, lower: absolute, writable: true, bytecode: None });
    }
    let mut cache = Vec::new();
    for entry in &lock.cache {
        let path = b.import(&entry.tree, &entry.path, None)?;
        let lower = path.to_absolute(store);
        cache.push(json!({"at": entry.path, "path": lower}));
        let at = format!("base/.cache/{}", entry.path);
        layers.push(Layer { at, lower, writable: false, bytecode: None });
        sources.push(path);
    }
    let mut variables: BTreeMap<String, String> = [
        ("HF_HOME", "{slot}/base/.cache/huggingface"),
        ("TORCH_HOME", "{slot}/base/.cache/torch"),
        ("XDG_CACHE_HOME", "{slot}/base/.cache"),
        ("PYTHONNOUSERSITE", "1"),
        // What can be compiled ahead is. The rest must not be written: root could write into the store.
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .collect();
    variables.extend(service.environment.clone());
    let launch = Launch {
        version: LAUNCH_VERSION,
        service: service.name.clone(),
        program: format!("{environment_path}/bin/python"),
        arguments: launch::arguments(&lock.main.flags, &service.arguments),
        directory: "main".into(),
        environment: variables,
        layers,
        links: slot_links,
        directories: [
            "{base}/input",
            "{output}",
            "{base}/user",
            "{slot}/base/custom_nodes",
            "{slot}/base/.cache",
        ]
        .map(String::from)
        .to_vec(),
    };
    let manifest = json!({
        "version": 1, "system": lock.system, "python": environment_path, "main": main_path,
        "comfyui": lock.main.version,
        "commit": lock.main.git.as_ref().and_then(|g| g.commit.clone()),
        "packs": packs, "cache": cache,
        "distributions": lock.distributions.iter()
            .map(|d| json!({"name": d.name, "version": d.version})).collect::<Vec<_>>(),
    });
    let config = json!({"manifest": manifest, "links": links,
        "launch": {service.name.clone(): launch}});
    let mut inputs: Vec<Input> = vec![Input::Drv(&environment_drv), Input::Drv(&bytecode_drv)];
    inputs.extend(sources.iter().map(Input::Source));
    let (snapshot_drv, snapshot) = b.script(
        runtime,
        &Job {
            kind: NodeKind::Built,
            name: "comfyui-snapshot",
            label: "snapshot",
            script: SNAPSHOT,
            inputs: &inputs,
            env: &[("config", config.to_string())],
            fixed: None,
        },
    )?;
    let given = lock.runtime.store_path.is_some().then(|| runtime.path.clone());
    Ok(Graph {
        scripts: b.scripts,
        nodes: b.nodes,
        imports: b.imports,
        given,
        environment,
        snapshot,
        snapshot_drv,
    })
}
