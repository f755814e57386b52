//! The probe behind `snapshot --probe`: the environment's own server, its own interpreter, copies of
//! its program and packs in a scratch directory, a loopback port; node classes, import failures and
//! times are read, and the server is stopped. The environment itself is only read.
use crate::capture::index::lookup::interrupted;
use crate::capture::model::probe::{PackProbe, ProbeResult};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::model::used::Used;
use crate::capture::pipeline::Captured;
use crate::capture::trees::materialise;
use crate::closure::scratch::Scratch;
use crate::formats::comfy::api::{classes, extensions, paths};
use crate::formats::comfy::log::import_times;
use crate::host::foreground::{self, Around};
use crate::protocol::launch::{self, LAUNCH_VERSION, Launch, Link, Values};
use crate::snapshot::events::Observer;
use crate::snapshot::left_behind;
use crate::snapshot::observed::{self, Known};
use crate::snapshot::places;
use crate::snapshot::subject::Subject;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::observe::Observed;
use crate::sys::progress::Amount;
use crate::sys::seal::Seal;
use crate::words;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Lines of the server's log that an error shows.
const TAIL: usize = 15;

pub fn probe(subject: &Subject, captured: &Captured, observer: &dyn Observer) -> Result<ProbeResult> {
    observer.progress().stage("probing the environment's own server", Amount::Unknown);
    let scratch = Scratch::new(&subject.cache, "probe")?;
    let slot = scratch.path();
    let links = copy(captured, slot)?;
    let mut launch = launch(subject, captured, links);
    // What a server downloads or makes among its models stays here, too.
    let models = slot.join("models");
    materialise::mirror(&captured.scan.root.join("models"), &models)?;
    let values = Values {
        base: slot.join("data").display().to_string(),
        output: slot.join("data/output").display().to_string(),
        models: models.display().to_string(),
        slot: slot.display().to_string(),
        listen: "127.0.0.1".into(),
        port: foreground::free_port()?,
    };
    let routes = foreground::note_routes(&mut launch, &values)?;
    let log = slot.join("probe.log");
    let seal = sealed(subject, captured, slot);
    let known = places::of_probe(subject, captured, slot);
    let since = clock::now();
    let limit = Duration::from_secs(subject.probe.timeout);
    let (seen, observed) = serve(&launch, &values, &log, limit, &seal, &known)?;
    let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    let seen = seen.map_err(|e| match e.kind {
        Kind::Interrupted => e,
        _ => {
            let tail = words::last_lines(&text, TAIL).join("\n    ");
            Error { hint: Some(format!("the end of its log:\n    {tail}")), ..e }
        }
    })?;
    let mut used = observed::sort(&observed, &known, &observed::look);
    used.folders = left_behind::folders(&captured.scan.root.join("models"), &models);
    used.written = left_behind::files(&captured.scan, slot, since);
    // Those are filled anew for each instance.
    let filled = captured.lock.own_places();
    used.written.retain(|name| {
        !filled.contains(&format!("main/{name}")) && !filled.contains(&format!("base/{name}"))
    });
    let found = Found { used, routes: foreground::routes(&routes) };
    Ok(assemble(seen, found, &text, captured))
}

/// A probe without a result, with the line that may give it one.
pub fn failed(subject: &Subject, error: &Error) -> Finding {
    let said = error.hint.as_deref().unwrap_or_default();
    let cpu = |arguments: &[String]| arguments.iter().any(|argument| argument == "--cpu");
    let chosen = cpu(&subject.service.arguments) || cpu(&subject.probe.arguments);
    let hint = match !chosen && !has_gpu() {
        true => {
            "\n    this machine has no GPU: add to stillframe.toml\n    [probe]\n    arguments = [\"--cpu\"]"
        }
        false => "",
    };
    Finding {
        severity: Severity::Warning,
        topic: Topic::Probe,
        path: subject.environment.display().to_string(),
        message: format!(
            "no node classes are known, and deployments cannot compare them: {}; {said}{hint}",
            error.message
        ),
    }
}

/// NVIDIA's, AMD's (ROCm), or Intel's: what PyTorch runs on.
fn has_gpu() -> bool {
    ["/dev/nvidiactl", "/dev/kfd", "/dev/dxg"].iter().any(|device| Path::new(device).exists())
        || std::fs::read_dir("/dev/dri").is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"renderD"))
        })
}

/// Whatever of the environment runs, finds the environment and the store read-only: it may be run as root.
pub fn sealed(subject: &Subject, captured: &Captured, scratch: &Path) -> Seal {
    let prefix = captured
        .python
        .executable
        .canonicalize()
        .ok()
        .and_then(|at| Some(at.parent()?.parent()?.to_path_buf()));
    let mut places = vec![subject.store.store_dir.0.clone().into(), captured.scan.root.clone()];
    places.extend(captured.venv.iter().cloned().chain(prefix).chain(captured.sites.iter().cloned()));
    places.extend(captured.user_base.clone());
    Seal::of_or_told(&places, &[scratch.to_path_buf()], &[])
}

/// Copies program, packs and cache into the slot; what the server is to find by links.
fn copy(captured: &Captured, slot: &Path) -> Result<Vec<Link>> {
    materialise::tree(&captured.scan.main.tree, &slot.join("main"))?;
    let mut links = vec![Link { at: "base/models".into(), to: "{models}".into() }];
    for pack in captured.scan.packs.iter().filter(|p| p.enabled) {
        let at = format!("{}{}", launch::PACKS, pack.name);
        materialise::tree(&pack.tree, &slot.join(&at))?;
        links.extend(pack.weights.iter().map(|w| Link {
            at: format!("{at}/{}", w.path),
            to: pack.location.join(&w.path).display().to_string(),
        }));
    }
    for entry in &captured.scan.cache {
        materialise::tree(&entry.tree, &slot.join("base/.cache").join(&entry.path))?;
    }
    Ok(links)
}

fn launch(subject: &Subject, captured: &Captured, links: Vec<Link>) -> Launch {
    let mut environment: BTreeMap<String, String> = [
        // Nothing may be written beside the environment's own modules.
        ("PYTHONDONTWRITEBYTECODE", "1"),
        // A pack that installs what it misses when it is imported would do so into the environment.
        ("PIP_NO_INDEX", "1"),
        ("UV_OFFLINE", "1"),
        ("HF_HOME", "{slot}/base/.cache/huggingface"),
        ("TORCH_HOME", "{slot}/base/.cache/torch"),
        ("XDG_CACHE_HOME", "{slot}/base/.cache"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .collect();
    // Where pyenv's shim looks for `.python-version`, which may lie above the environment.
    environment.insert("PYENV_DIR".into(), captured.scan.root.display().to_string());
    environment.extend(subject.service.environment.clone());
    let mut arguments = launch::arguments(&captured.lock.main.flags, &subject.service.arguments);
    arguments.extend(subject.probe.arguments.iter().cloned());
    if let Some(base) = &captured.user_base {
        // The user's own packages are part of this environment: `-s` would leave them out.
        environment.insert("PYTHONUSERBASE".into(), base.display().to_string());
        arguments.retain(|argument| argument != "-s");
    }
    if let Some(path) = captured.search_path(environment.get("PYTHONPATH")) {
        environment.insert("PYTHONPATH".into(), path);
    }
    Launch {
        version: LAUNCH_VERSION,
        service: "probe".into(),
        program: captured.python.executable.display().to_string(),
        arguments,
        directory: "main".into(),
        environment,
        layers: Vec::new(),
        links,
        directories: ["{base}/input", "{output}", "{base}/user", "{slot}/base/custom_nodes", "{slot}/home"]
            .map(String::from)
            .to_vec(),
        seeds: Vec::new(),
        // As in the snapshot: scripts of distributions are on PATH.
        path: captured.python.executable.parent().map(|bin| bin.display().to_string()).into_iter().collect(),
        system_files: Vec::new(),
        own_places: captured.lock.own_places(),
    }
}

struct Seen {
    /// Until it answered.
    ready_ms: u64,
    /// With their modules.
    classes: BTreeMap<String, String>,
    extensions: Option<BTreeSet<String>>,
}

fn serve(
    launch: &Launch,
    values: &Values,
    log: &Path,
    limit: Duration,
    seal: &Seal,
    known: &Known,
) -> Result<(Result<Seen>, Observed)> {
    let open = || {
        let file = OpenOptions::new().create(true).append(true).open(log);
        file.map(Stdio::from).map_err(|e| Error::io("write", log, e))
    };
    let (out, err) = (open()?, open()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Io, "cannot start the network loop").caused_by(e))?;
    runtime.block_on(async {
        let around = Around { seal, places: known.own.clone(), placed: &BTreeMap::new() };
        let mut instance = foreground::start(launch, values, (out, err), around)?;
        let seen = tokio::select! {
            seen = look(&mut instance, limit) => seen,
            stop = interrupted() => Err(stop),
        };
        instance.stop().await?;
        Ok((seen, instance.observed()))
    })
}

async fn look(instance: &mut foreground::Instance, limit: Duration) -> Result<Seen> {
    let took = instance.ready(limit).await?;
    let said = |what: &str| {
        Error::new(Kind::Environment, format!("the environment's server {what} {}", paths::OBJECT_INFO))
    };
    let failed = |e: reqwest::Error| said("did not answer").caused_by(e);
    let client = reqwest::Client::builder().no_proxy().timeout(limit).build().map_err(failed)?;
    let get = async |path: &str| {
        let answer = client.get(format!("{}{path}", instance.url)).send().await?.error_for_status()?;
        answer.bytes().await
    };
    let answer = get(paths::OBJECT_INFO).await.map_err(failed)?;
    let classes =
        classes::modules(&answer).map_err(|e| said("gave no object of node classes at").caused_by(e))?;
    // One that has no such page has no scripts of packs either.
    let extensions = get(paths::EXTENSIONS).await.ok().and_then(|answer| extensions::paths(&answer).ok());
    Ok(Seen { ready_ms: took.as_millis() as u64, classes, extensions })
}

/// What is known beside its answers.
struct Found {
    used: Used,
    routes: Option<BTreeSet<String>>,
}

fn assemble(seen: Seen, found: Found, log: &str, captured: &Captured) -> ProbeResult {
    let Seen { ready_ms, classes, extensions } = seen;
    let Found { used, routes } = found;
    let times = import_times(log);
    let packs = captured
        .scan
        .packs
        .iter()
        .filter(|p| p.enabled)
        .map(|pack| {
            let stem = pack.name.strip_suffix(".py").unwrap_or(&pack.name);
            let modules = [format!("custom_nodes.{stem}"), format!("custom_nodes.{}", pack.name)];
            let classes =
                classes.iter().filter(|(_, m)| modules.contains(m)).map(|(name, _)| name.clone()).collect();
            PackProbe::new(&pack.name, &times, classes)
        })
        .collect();
    ProbeResult { ready_ms, classes, packs, used, extensions, routes }
}
