//! The hosts that a command is for, and working on all of them at once.
use crate::deploy::values;
use crate::formats::comfy::workflow;
use crate::formats::webhook;
use crate::protocol::deliveries::{UPLOAD_SECRET, WEBHOOK_SECRET};
use crate::protocol::spec::Spec;
use crate::ship::config::{QueueOf, ServiceConfig, Wrong};
use crate::ship::hosts::{self, Host};
use crate::ship::preflight::Needs;
use crate::ship::ssh::Remote;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A key that is shorter can be guessed from its hash, which local users of a host can read.
const SHORTEST_KEY: usize = 16;

/// A host with what is to be served there.
#[derive(Debug, Clone)]
pub struct Member {
    pub host: Host,
    /// The host's values over the project's.
    pub service: ServiceConfig,
    project: Option<(PathBuf, String)>,
}

/// Hosts that Nix evaluated.
#[derive(Debug, Clone)]
pub struct GivenHosts {
    /// The folder of their files, relative to the flake; none where they are values of the flake itself.
    pub folder: Option<String>,
    pub hosts: BTreeMap<String, Value>,
}

/// A project's hosts, and what it says of its service.
#[derive(Debug, Clone, Copy)]
pub struct Project<'a> {
    /// The folder of stillframe.toml.
    pub folder: &'a Path,
    pub service: &'a ServiceConfig,
    /// The text of stillframe.toml and where it is, to name lines of it.
    pub source: Option<&'a (PathBuf, String)>,
    /// The hosts, where a deployment that Nix evaluated brings them; else they are files of the project.
    pub given: Option<&'a GivenHosts>,
    /// Where what Nix says of hosts is remembered.
    pub cache: &'a Path,
}

/// The hosts that a command is for.
#[derive(Debug)]
pub struct Chosen {
    pub members: Vec<Member>,
    /// Files of hosts that are not part of the flake, relative to the project.
    pub forgotten: Vec<String>,
}

impl Project<'_> {
    /// Where the files of hosts are, or would be: their relative paths begin there.
    fn hosts_folder(&self) -> PathBuf {
        match self.given {
            Some(given) => self.folder.join(given.folder.as_deref().unwrap_or("")),
            None => self.folder.join("hosts"),
        }
    }

    /// The folder of the hosts' files; none where they are values of a flake.
    pub fn files(&self) -> Option<PathBuf> {
        let are_files = self.given.is_none_or(|given| given.folder.is_some());
        are_files.then(|| self.hosts_folder())
    }

    /// Every host of the project.
    pub fn described(&self) -> Result<Vec<Host>> {
        match self.given {
            Some(given) => hosts::named(given.hosts.clone(), &self.hosts_folder()).into_iter().collect(),
            None => hosts::load(&self.hosts_folder(), self.cache),
        }
    }

    /// Files that the configuration names as secret, of the project and of its hosts.
    pub fn private_files(&self, environment: &Path) -> Result<Vec<PathBuf>> {
        let mut files: BTreeSet<PathBuf> = BTreeSet::new();
        let mut put = |base: &Path, service: &ServiceConfig| {
            let secrets = service.secrets.values().filter_map(|s| s.file.clone());
            let keys = service.gateway.api_keys.iter().flatten().filter_map(|k| k.file.clone());
            let own = [&service.jobs.webhooks.secret, &service.jobs.uploads.secret];
            let own = own.into_iter().flatten().filter_map(|secret| secret.file.clone());
            files.extend(secrets.chain(keys).chain(own).map(|file| base.join(file)));
        };
        put(self.folder, self.service);
        // Hosts are asked for only where their files could lie in the environment.
        if self.folder.starts_with(environment) || environment.starts_with(self.folder) {
            for host in self.described()? {
                put(host.file.parent().unwrap_or(self.folder), &host.service);
            }
        }
        Ok(files.into_iter().collect())
    }

    /// The project's secrets that are files of an instance's own tree: values by their place in the environment.
    pub fn placed(&self) -> Result<BTreeMap<String, String>> {
        let default = self.folder.join("stillframe.toml");
        let origin = self.source.map_or(default.as_path(), |(file, _)| file.as_path());
        let mut placed = BTreeMap::new();
        for (name, secret) in &self.service.secrets {
            if let Some(at) = &secret.at {
                let value = values::resolve(&secret.value(), &format!("service.secrets.{name}"), origin)?;
                placed.insert(at.clone(), value);
            }
        }
        Ok(placed)
    }

    /// Those that a selector names; all without one.
    pub fn choose(&self, selector: Option<&str>) -> Result<Chosen> {
        let all = self.described()?;
        let folder = self.hosts_folder();
        let given = self.given.filter(|given| given.folder.is_some());
        let forgotten = given.map(|given| forgotten(&folder, &given.hosts)).unwrap_or_default();
        if all.is_empty() {
            let hint = match forgotten.first() {
                Some(file) => format!("{file} is not part of the flake: `git add` it"),
                None => {
                    "describe one in hosts/NAME.toml (a line `address = \"…\"` is enough) or hosts/NAME.nix"
                        .into()
                }
            };
            return Err(
                Error::new(Kind::Input, format!("there is no host in {}", folder.display())).hint(hint)
            );
        }
        let member = |host: &Host| Member {
            service: host.service.over(self.service),
            host: host.clone(),
            project: self.source.cloned(),
        };
        let members = hosts::select(&all, selector.unwrap_or("*"))?.into_iter().map(member).collect();
        Ok(Chosen { members, forgotten })
    }
}

/// A flake in a git repository is what git knows of it: a new file is easily forgotten.
fn forgotten(folder: &Path, given: &BTreeMap<String, Value>) -> Vec<String> {
    let shown = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let host = path.extension().is_some_and(|e| e == "nix" || e == "toml") && path.is_file();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if host && !given.contains_key(&name) {
            files.push(format!("{shown}/{}", entry.file_name().to_string_lossy()));
        }
    }
    files
}

/// A member whose values are right and whose own files are read.
#[derive(Debug)]
pub struct Checked {
    pub member: Member,
    pub private: Private,
    /// The smoke workflow.
    pub smoke: Option<Value>,
}

impl Checked {
    /// All that can be wrong before the host is asked; GPUs are the host's to tell.
    pub fn of(member: Member) -> Result<Checked> {
        member.service.check().map_err(|wrong| member.located(wrong))?;
        let private = member.private()?;
        let smoke = member.smoke()?;
        Ok(Checked { member, private, smoke })
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
        let place = wrong.place([own, project].into_iter().flatten()).unwrap_or_else(|| {
            project.map_or(self.host.file.as_path(), |(path, _)| path).display().to_string()
        });
        Error::new(Kind::Input, format!("{place}: {wrong}"))
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
        self.gateway_secrets(&mut private)?;
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

    /// Those of the gateway's own, which no instance gets.
    fn gateway_secrets(&self, private: &mut Private) -> Result<()> {
        let (said, own) = (&self.service.jobs, &self.host.service.jobs);
        let named = [
            (WEBHOOK_SECRET, "service.jobs.webhooks.secret", &said.webhooks.secret, &own.webhooks.secret),
            (UPLOAD_SECRET, "service.jobs.uploads.secret", &said.uploads.secret, &own.uploads.secret),
        ];
        for (name, key, secret, own) in named {
            let Some(secret) = secret.as_ref().filter(|_| said.queue.unwrap_or_default() == QueueOf::Gateway)
            else {
                continue;
            };
            let origin = self.origin(own.is_some());
            let value = values::resolve(secret, key, origin)?;
            if name == WEBHOOK_SECRET
                && let Err(why) = webhook::Key::parse(&value)
            {
                let text = format!("{}: the value of {key} {why}", origin.display());
                return Err(
                    Error::new(Kind::Input, text).hint("make one: echo whsec_$(openssl rand -base64 32)")
                );
            }
            private.secrets.insert(name.into(), value);
        }
        Ok(())
    }

    pub fn smoke(&self) -> Result<Option<Value>> {
        let Some(file) = &self.service.health.smoke else { return Ok(None) };
        let origin = self.origin(self.host.service.health.smoke.is_some());
        let path = origin.parent().unwrap_or(Path::new(".")).join(file);
        let bytes = files::read(&path).map_err(|e| e.of_kind(Kind::Input))?;
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
            metrics_port: service.metrics_port(),
            ..Needs::default()
        }
    }

    pub fn spec(&self, gpus: &[String], private: &Private, smoke: Option<Value>) -> Result<Spec> {
        let mut spec = self.service.spec(gpus, private.keys.clone(), smoke).map_err(|w| self.located(w))?;
        spec.callers.add_host(&self.host.target.address);
        Ok(spec)
    }
}

/// Works on all at once; the results come in the order of the members.
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
