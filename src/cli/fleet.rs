//! The hosts that a command is for, and working on all of them at once.
use super::printer::Printer;
use super::settings::Settings;
use super::values;
use crate::formats::comfy::workflow;
use crate::protocol::spec::Spec;
use crate::ship::config::{ServiceConfig, Wrong, line_of};
use crate::ship::hosts::{self, Host};
use crate::ship::preflight::Needs;
use crate::ship::ssh::Remote;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A key that is shorter can be guessed from its hash, which local users of a host can read.
const SHORTEST_KEY: usize = 16;

/// `--hosts`, the same for every command that speaks with hosts.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Selection {
    /// The hosts: names, globs, @tags, !exclusions, separated by commas (default: all).
    #[arg(long, value_name = "SELECTOR")]
    pub hosts: Option<String>,
}

/// A host with what is to be served there.
#[derive(Debug, Clone)]
pub struct Member {
    pub host: Host,
    /// The host's values over the project's.
    pub service: ServiceConfig,
    project: Option<(PathBuf, String)>,
}

/// Where the files of hosts are, or would be: their relative paths begin there.
fn folder(settings: &Settings) -> PathBuf {
    match &settings.hosts {
        Some(given) => settings.project.join(given.folder.as_deref().unwrap_or("")),
        None => settings.project.join("hosts"),
    }
}

/// Every host of the project.
pub fn described(settings: &Settings) -> Result<Vec<Host>> {
    match &settings.hosts {
        Some(given) => hosts::named(given.hosts.clone(), &folder(settings)).into_iter().collect(),
        None => hosts::load(&folder(settings), &settings.cache),
    }
}

pub fn members(settings: &Settings, selector: Option<&str>) -> Result<Vec<Member>> {
    let all = described(settings)?;
    let folder = folder(settings);
    if let Some(given) = settings.hosts.as_ref().filter(|given| given.folder.is_some()) {
        forgotten(&folder, &given.hosts);
    }
    if all.is_empty() {
        return Err(Error::new(Kind::Input, format!("there is no host in {}", folder.display()))
            .hint("describe one in hosts/NAME.toml (a line `address = \"…\"` is enough) or hosts/NAME.nix"));
    }
    let chosen = hosts::select(&all, selector.unwrap_or("*"))?;
    Ok(chosen
        .into_iter()
        .map(|host| Member {
            service: host.service.over(&settings.config.service),
            host: host.clone(),
            project: settings.source.clone(),
        })
        .collect())
}

/// A flake in a git repository is what git knows of it: a new file is easily forgotten.
fn forgotten(folder: &Path, given: &BTreeMap<String, Value>) {
    let shown = folder.file_name().unwrap_or_default().to_string_lossy();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let host = path.extension().is_some_and(|e| e == "nix" || e == "toml") && path.is_file();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if host && !given.contains_key(&name) {
            let file = entry.file_name();
            eprintln!("{shown}/{} is not part of the flake: `git add` it", file.to_string_lossy());
        }
    }
}

/// Secrets of a member, and the hashes of its API keys.
#[derive(Debug, Clone, Default)]
pub struct Private {
    pub secrets: BTreeMap<String, String>,
    pub keys: Vec<String>,
}

impl Member {
    pub fn name(&self) -> &str {
        &self.host.name
    }

    pub fn remote(&self) -> Result<Remote> {
        Remote::connect(&self.host.target)
    }

    /// A wrong value, with the file and line that it stands in.
    pub fn located(&self, wrong: Wrong) -> Error {
        let own = Some((self.host.file.as_path(), self.host.text.as_str()));
        let project = self.project.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
        let found = [own, project]
            .into_iter()
            .flatten()
            .find_map(|(path, text)| Some((path, line_of(text, wrong.key)?)));
        let place = match found {
            Some((path, line)) => format!("{} line {line}", path.display()),
            None => project.map_or(self.host.file.as_path(), |(path, _)| path).display().to_string(),
        };
        Error::new(Kind::Input, format!("{place}: {} {}", wrong.key, wrong.why))
            .hint("correct the file; what each key means is in README.md")
    }

    /// The file that sets a key: the host's own, if it does.
    fn origin(&self, of_host: bool) -> &Path {
        match &self.project {
            Some((path, _)) if !of_host => path,
            _ => &self.host.file,
        }
    }

    /// Reads what configuration only points to.
    pub fn private(&self) -> Result<Private> {
        let mut private = Private::default();
        for (name, secret) in &self.service.secrets {
            let origin = self.origin(self.host.service.secrets.contains_key(name));
            let value = values::resolve(&secret.value(), &format!("service.secrets.{name}"), origin)?;
            private.secrets.insert(name.clone(), value);
        }
        let origin = self.origin(self.host.service.gateway.api_keys.is_some());
        for key in self.service.gateway.api_keys.iter().flatten() {
            let value = values::resolve(key, "service.gateway.api-keys", origin)?;
            if value.len() < SHORTEST_KEY {
                return Err(Error::new(
                    Kind::Input,
                    format!(
                        "{}: an API key has {} characters; {SHORTEST_KEY} are the least",
                        origin.display(),
                        value.len()
                    ),
                )
                .hint("make one: openssl rand -hex 32"));
            }
            private
                .keys
                .push(crate::formats::nix::hash::Sha256(Sha256::digest(value.as_bytes()).into()).to_hex());
        }
        Ok(private)
    }

    pub fn smoke(&self) -> Result<Option<Value>> {
        let Some(file) = &self.service.health.smoke else { return Ok(None) };
        let origin = self.origin(self.host.service.health.smoke.is_some());
        let path = origin.parent().unwrap_or(Path::new(".")).join(file);
        let bytes = files::read(&path).map_err(|e| Error { kind: Kind::Input, ..e })?;
        workflow::parse(&bytes).map(Some).map_err(|e| {
            Error::new(Kind::Input, format!("{} is no workflow to run: {e}", path.display()))
                .hint("in ComfyUI: Workflow, Export (API)")
        })
    }

    /// What the host must have, before its GPUs are known.
    pub fn needs(&self, smoke: Option<&Value>) -> Needs {
        let service = &self.service;
        let models = service.models.clone().unwrap_or_default();
        let named = smoke.map(workflow::model_files).unwrap_or_default();
        Needs {
            prepared: true,
            folders: [models.clone()]
                .into_iter()
                .chain(service.folders.iter().flatten().map(|f| f.path.clone()))
                .chain(service.output.clone())
                .collect(),
            files: named.into_iter().map(|name| format!("{models}//{name}")).collect(),
            service: service.name().into(),
            port: Some(service.port()),
            ..Needs::default()
        }
    }

    pub fn spec(&self, gpus: &[String], private: &Private, smoke: Option<Value>) -> Result<Spec> {
        self.service.spec(gpus, private.keys.clone(), smoke).map_err(|wrong| self.located(wrong))
    }
}

/// Works on all at once; each says what it has to say when it is done, whatever the others do.
pub fn on_each<M: Send, T: Send>(members: Vec<M>, work: impl Fn(M) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = members.into_iter().map(|member| scope.spawn(move || work(member))).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

pub fn error_value(e: &Error) -> Value {
    let causes: Vec<String> = e.source.iter().map(ToString::to_string).collect();
    json!({"kind": e.kind.name(), "message": e.message, "causes": causes, "hint": e.hint})
}

/// Asks every host, shows what each says, and counts those that did not answer. The JSON document has all of it.
pub fn each_says<T: Send>(
    members: &[Member],
    printer: &Printer,
    ask: impl Fn(&Member) -> Result<T> + Sync,
    mut show: impl FnMut(&Member, &T) -> Value,
) -> (Vec<Value>, usize) {
    let answers = on_each(members.iter().collect(), |member: &Member| ask(member));
    let (mut values, mut failed) = (Vec::new(), 0);
    for (member, answer) in members.iter().zip(answers) {
        match answer {
            Ok(answer) => values.push(show(member, &answer)),
            Err(e) => {
                failed += 1;
                values.push(json!({"host": member.name(), "error": error_value(&e)}));
                if !printer.json {
                    printer.error(&e);
                }
            }
        }
    }
    (values, failed)
}
