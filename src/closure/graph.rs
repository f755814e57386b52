//! lock -> derivations. Pure: no Nix evaluation, no store; the same lock gives the same paths on any
//! machine. Big things (wheels' trees, packs, the runtime) are content-addressed, so a new version of
//! this program ships none of them again; only what we compute from them is input-addressed.
use crate::capture::model::change::FileChange;
use crate::capture::model::inventory::PackKind;
use crate::capture::model::lock::{DistributionLock, Lock, PackLock, Provenance, WheelRef};
use crate::closure::nodes::{Builder, Input, Job, Runtime, Script, ScriptFile};
pub use crate::closure::nodes::{Import, Node, NodeKind, tree_path};
use crate::closure::system::system;
use crate::formats::nix::derivation::{Derivation, Output};
use crate::formats::nix::store_path::{self, StoreDir, StorePath, StorePathName};
use crate::formats::python::entry_points::EntryPoint;
use crate::protocol::launch::{self, LAUNCH_VERSION, Launch, Layer, Link};
use crate::store::Text;
use crate::sys::error::{Error, Kind, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

const UNPACK: Script = Script { name: "unpack.py", text: include_str!("scripts/unpack.py") };
const CAPTURED: Script = Script { name: "captured.py", text: include_str!("scripts/captured.py") };
const BYTECODE: Script = Script { name: "bytecode.py", text: include_str!("scripts/bytecode.py") };
const PYTHON: Script = Script { name: "python.py", text: include_str!("scripts/python.py") };
const ENVIRONMENT: Script = Script { name: "environment.py", text: include_str!("scripts/environment.py") };
const START: Script = Script { name: "start.py", text: include_str!("scripts/start.py") };
const SNAPSHOT: Script = Script { name: "snapshot.py", text: include_str!("scripts/snapshot.py") };

/// Where ComfyUI finds the models of its own repository.
const MODELS: &str = "comfyui-models.yaml";

/// What a service adds to the lock: it is part of the snapshot, not of the environment.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    pub name: String,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Whether packs are compiled ahead.
    pub pack_bytecode: bool,
}

#[derive(Debug, Clone)]
pub struct Graph {
    pub(super) scripts: Vec<ScriptFile>,
    /// In an order in which each comes after those it refers to.
    pub nodes: Vec<Node>,
    pub imports: Vec<Import>,
    pub environment: StorePath,
    pub snapshot: StorePath,
    pub snapshot_drv: StorePath,
}

impl Graph {
    /// Everything that this snapshot is made of, and all that makes it.
    pub fn paths(&self) -> impl Iterator<Item = &StorePath> {
        let imports = self.imports.iter().map(|import| &import.path);
        let scripts = self.scripts.iter().map(|script| &script.path);
        imports.chain(scripts).chain(self.nodes.iter().flat_map(|node| [&node.drv, &node.out]))
    }

    /// Every text for the store, scripts and `.drv` files: path, what it is for, and the text.
    pub fn texts(&self) -> impl Iterator<Item = (&StorePath, &str, Text<'_>)> {
        let scripts = self.scripts.iter().map(|s| (&s.path, s.path.name(), s.text()));
        scripts.chain(self.nodes.iter().map(|n| (&n.drv, n.label.as_str(), n.text())))
    }
}

impl Builder<'_> {
    /// Compiles a tree ahead. Where an instance may change its copy of it, `env` says `checked`.
    fn bytecode(
        &mut self,
        runtime: &Runtime,
        name: &str,
        label: &str,
        tree: Input,
        env: &[(&str, String)],
    ) -> Result<(StorePath, StorePath)> {
        self.script(
            runtime,
            &Job {
                kind: NodeKind::Built,
                name: &format!("{name}-bytecode"),
                label: &format!("bytecode of {label}"),
                script: BYTECODE,
                inputs: &[tree],
                env,
                fixed: None,
            },
        )
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
    let mut b = Builder::new(store, &lock.system);
    let (runtime, home, home_input) = runtime(lock, &mut b)?;
    let mut inputs: Vec<(bool, StorePath)> = vec![home_input];
    let mut members = Vec::new();
    for d in in_order(&lock.distributions) {
        let (input, derived) = b.distribution(&runtime, d)?;
        let source = tree_path(&d.tree, store)?.to_absolute(store);
        // The script takes the name for the folder of headers alone.
        let folder = d.headers.as_ref().unwrap_or(&d.name);
        let mut member = json!({"name": folder, "path": source, "real": d.real_files});
        if d.site != 0 {
            member["site"] = json!(d.site);
        }
        if !d.scripts.is_empty() {
            member["scripts"] = scripts(d)?;
        }
        if d.has_modules {
            let (name, label) = (format!("{}-{}", d.name, d.version), format!("{} {}", d.name, d.version));
            let from = if derived { Input::Drv(&input) } else { Input::Source(&input) };
            let (bytecode_drv, bytecode) = b.bytecode(&runtime, &name, &label, from, &[("src", source)])?;
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
        let (name, label) = ("site-packages-unowned", "files no distribution owns");
        let env = [("src", source.clone())];
        let (bytecode_drv, bytecode) = b.bytecode(&runtime, name, label, Input::Source(&path), &env)?;
        let bytecode = bytecode.to_absolute(store);
        members.push(json!({"name": "unowned", "path": source, "real": false, "bytecode": bytecode}));
        inputs.push((true, bytecode_drv));
        inputs.push((false, path));
    }
    if let Some(tree) = &lock.library_links {
        let path = b.import(tree, "links to base libraries", None)?;
        members.push(json!({"name": "library-links", "path": path.to_absolute(store), "real": false}));
        inputs.push((false, path));
    }
    let start = b.script_file(START, None)?;
    inputs.push((false, start.clone()));
    let mut config = json!({"home": home, "distributions": members, "start": start.to_absolute(store)});
    if let (Some(libraries), Some(interpreter)) = (&lock.runtime.further, &lock.runtime.interpreter) {
        b.import(libraries, "further libraries", None)?;
        let path = b.import(interpreter, "interpreter with further libraries", None)?;
        config["interpreter"] = json!(format!("{}/bin/python", path.to_absolute(store)));
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
            env: &[("config", config.to_string())],
            fixed: None,
        },
    )?;
    snapshot(lock, store, service, b, &runtime, environment_drv, environment)
}

/// Of a file that two distributions have alike, the environment links to the first's. Where one's files were replaced by
/// another's, that is the other: code that looks beside its own `realpath(__file__)` finds there what was replaced
/// (opencv's packages, which install the same `cv2/__init__.py`, do).
fn in_order(distributions: &[DistributionLock]) -> Vec<&DistributionLock> {
    fn visit<'a>(
        d: &'a DistributionLock,
        by_name: &BTreeMap<&str, &'a DistributionLock>,
        seen: &mut BTreeSet<&'a str>,
        ordered: &mut Vec<&'a DistributionLock>,
    ) {
        if !seen.insert(&d.name) {
            return;
        }
        for name in d.changed.iter().filter_map(FileChange::replaced_by) {
            if let Some(other) = by_name.get(name) {
                visit(other, by_name, seen, ordered);
            }
        }
        ordered.push(d);
    }
    let by_name = distributions.iter().map(|d| (d.name.as_str(), d)).collect();
    let (mut seen, mut ordered) = (BTreeSet::new(), Vec::new());
    for d in distributions {
        visit(d, &by_name, &mut seen, &mut ordered);
    }
    ordered
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

/// Checked against its source on import, which an instance may change.
fn pack_bytecode(
    b: &mut Builder,
    runtime: &Runtime,
    pack: &PackLock,
    tree: &StorePath,
) -> Result<(StorePath, StorePath)> {
    let mut env = vec![("src", tree.to_absolute(b.store)), ("checked", "1".into())];
    if pack.kind == PackKind::File {
        env.push(("module", pack.name.clone()));
    }
    b.bytecode(runtime, &pack.tree.name, &pack.name, Input::Source(tree), &env)
}

/// `extra_model_paths.yaml` of the main program's own `models`, which ComfyUI looks in behind the host's. YAML 1.2 takes
/// JSON, and so do the flow collections of PyYAML.
fn own_models(folders: &[String], main: &str) -> String {
    let mut section: BTreeMap<&str, String> = folders.iter().map(|f| (f.as_str(), f.clone())).collect();
    section.insert("base_path", format!("{main}/models"));
    json!({"comfyui-repository": section}).to_string() + "\n"
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
    let mut arguments = service.arguments.clone();
    if !lock.main.models.is_empty() && lock.main.flags.iter().any(|flag| flag == launch::EXTRA_MODELS) {
        let path = b.text_file(MODELS, own_models(&lock.main.models, &main_path), vec![main.clone()])?;
        arguments.splice(0..0, [launch::EXTRA_MODELS.to_string(), path.to_absolute(store)]);
        sources.push(path);
    }
    let mut seeds = Vec::new();
    if lock.main.input {
        seeds.push(Link { at: "{base}/input".into(), to: format!("{main_path}/input") });
    }
    links.push(json!({"at": "main", "to": main_path}));
    let (bytecode_drv, bytecode) = b.bytecode(
        runtime,
        "comfyui",
        "the main program",
        Input::Source(&main),
        &[("src", main_path.clone()), ("checked", "1".into())],
    )?;
    sources.push(main);
    layers.push(Layer {
        at: "main".into(),
        lower: main_path.clone(),
        writable: true,
        bytecode: Some(bytecode.to_absolute(store)),
    });
    let mut packs = Vec::new();
    let mut compiled = vec![environment_drv, bytecode_drv];
    for pack in &lock.packs {
        let path = b.import(&pack.tree, &pack.name, None)?;
        let absolute = path.to_absolute(store);
        let mut bytecode = None;
        if service.pack_bytecode {
            let (drv, out) = pack_bytecode(&mut b, runtime, pack, &path)?;
            bytecode = Some(out.to_absolute(store));
            compiled.push(drv);
        }
        let at = format!("{}{}", launch::PACKS, pack.name);
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
        layers.push(Layer { at, lower: absolute, writable: true, bytecode });
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
    let system = system(lock, &mut b)?;
    links.extend(system.links);
    sources.extend(system.sources);
    let mut path = vec![format!("{environment_path}/bin")];
    path.extend(system.path);
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
        arguments: launch::arguments(&lock.main.flags, &arguments),
        directory: "main".into(),
        environment: variables,
        layers,
        links: slot_links,
        seeds,
        path,
        system_files: system.files,
        own_places: lock.own_places(),
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
        "programs": lock.programs.iter().map(|p| &p.name).collect::<Vec<_>>(),
        "system-files": lock.system_files.iter().map(|f| &f.at).collect::<Vec<_>>(),
        "distributions": lock.distributions.iter()
            .map(|d| json!({"name": d.name, "version": d.version})).collect::<Vec<_>>(),
    });
    let config = json!({"manifest": manifest, "links": links,
        "launch": {service.name.clone(): launch}});
    let inputs: Vec<Input> =
        compiled.iter().map(Input::Drv).chain(sources.iter().map(Input::Source)).collect();
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
    Ok(Graph { scripts: b.scripts, nodes: b.nodes, imports: b.imports, environment, snapshot, snapshot_drv })
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
