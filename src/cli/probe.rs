//! The probe behind `snapshot --probe`: the environment's own server, its own interpreter, copies of
//! its program and packs in a scratch directory, a loopback port; node classes, import failures and
//! times are read, and the server is stopped. The environment itself is only read.
use super::printer::Printer;
use super::settings::Settings;
use crate::capture::index::lookup::interrupted;
use crate::capture::model::probe::{PackProbe, ProbeResult, import_times};
use crate::capture::pipeline::Captured;
use crate::capture::trees::materialise;
use crate::closure::scratch::Scratch;
use crate::formats::comfy::api::paths;
use crate::host::foreground;
use crate::protocol::launch::{self, LAUNCH_VERSION, Launch, Link, Values};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::Amount;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

pub fn probe(settings: &Settings, captured: &Captured, printer: &Printer) -> Result<ProbeResult> {
    printer.progress().stage("probing the environment's own server", Amount::Unknown);
    let scratch = Scratch::new(&settings.cache, "probe")?;
    let slot = scratch.path();
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
    environment.extend(settings.config.service.environment.clone());
    let mut arguments = launch::arguments(&captured.lock.main.flags, &settings.config.service.arguments);
    if let Some(base) = &captured.user_base {
        // The user's own packages are part of this environment: `-s` would leave them out.
        environment.insert("PYTHONUSERBASE".into(), base.display().to_string());
        arguments.retain(|argument| argument != "-s");
    }
    let launch = Launch {
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
    };
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
    let log = slot.join("probe.log");
    let open = || {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| Error::io("write", &log, e))
    };
    let (out, err) = (Stdio::from(open()?), Stdio::from(open()?));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Io, "cannot start the network loop").caused_by(e))?;
    let limit = Duration::from_secs(settings.config.probe.timeout);
    let result = runtime.block_on(async {
        let mut instance = foreground::start(&launch, &values, out, err)?;
        let seen = tokio::select! {
            seen = look(&mut instance, limit) => seen,
            stop = interrupted() => Err(stop),
        };
        instance.stop().await?;
        seen
    });
    let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    let (ready_ms, classes) = result.map_err(|e| {
        if e.kind == Kind::Interrupted {
            return e;
        }
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Error { hint: Some(format!("the end of its log:\n    {}", tail.join("\n    "))), ..e }
    })?;
    Ok(assemble(ready_ms, classes, &text, captured))
}

async fn look(
    instance: &mut foreground::Instance,
    limit: Duration,
) -> Result<(u64, BTreeMap<String, String>)> {
    let took = instance.ready(limit).await?;
    let failed = |e: reqwest::Error| {
        Error::new(Kind::Environment, "the environment's server did not answer /object_info").caused_by(e)
    };
    let client = reqwest::Client::builder().no_proxy().timeout(limit).build().map_err(failed)?;
    let url = format!("{}{}", instance.url, paths::OBJECT_INFO);
    let bytes = client
        .get(url)
        .send()
        .await
        .map_err(failed)?
        .error_for_status()
        .map_err(failed)?
        .bytes()
        .await
        .map_err(failed)?;
    let info: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes).map_err(|e| {
        Error::new(Kind::Environment, "the environment's server answered /object_info with no JSON object")
            .caused_by(e)
    })?;
    let module = |v: &serde_json::Value| v["python_module"].as_str().unwrap_or("").to_string();
    Ok((took.as_millis() as u64, info.iter().map(|(name, v)| (name.clone(), module(v))).collect()))
}

fn assemble(ready_ms: u64, classes: BTreeMap<String, String>, log: &str, captured: &Captured) -> ProbeResult {
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
    ProbeResult { ready_ms, classes, packs }
}
