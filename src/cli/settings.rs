//! Settings resolved once: command line over `stillframe.toml` over defaults, and where state and
//! caches live (XDG base directory specification).
use crate::capture::model::used::Configured;
use crate::deploy::fleet::{GivenHosts, Project};
use crate::ship::config::{self, RolloutConfig, ServiceConfig, ShipConfig, arguments};
use crate::snapshot::config::{ProbeConfig, PythonConfig, StoreSection};
use crate::snapshot::subject::{Service, Subject};
use crate::store::StoreConfig;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::words;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const CONFIG: &str = "stillframe.toml";

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The ComfyUI directory, relative to this file.
    pub environment: Option<PathBuf>,
    /// The cache whose downloads ship, relative to this file (default: `.cache` in the environment).
    pub cache: Option<PathBuf>,
    /// How the interpreter and its packages are captured.
    pub python: PythonConfig,
    /// What is served; hosts may say it too, and come first.
    pub service: ServiceConfig,
    /// How `snapshot --probe` looks.
    pub probe: ProbeConfig,
    /// Which Nix store is used.
    pub store: StoreSection,
    /// How a deployment goes over several hosts.
    pub rollout: RolloutConfig,
    /// Where closures come from besides this workstation.
    pub ship: ShipConfig,
    /// Paths relative to the environment that stay out of the snapshot.
    pub exclude: Vec<String>,
    /// Paths relative to the environment that ship though they hold what looks like a secret.
    pub allow_secrets: Vec<String>,
    /// Files that ship with single values empty, relative to the environment, as in "custom_nodes/a-pack/settings.json" =
    /// ["api_key"]: names of keys, or JSON Pointers.
    pub redact: BTreeMap<String, Vec<String>>,
    /// Files that name the environment's own folders, relative to the environment, with `*` (which crosses `/`) and `?`: an
    /// instance finds its own places there instead.
    pub own_paths: Vec<String>,
    /// Files of intent to check against: uv.lock, pylock.toml, requirements, a ManagerSnapshot.
    pub intent: Vec<PathBuf>,
}

/// A project and its hosts as `lib.mkDeployment` of the flake evaluated them. It lies in the Nix store: relative paths
/// begin at the flake that is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deployment {
    version: u32,
    project: Config,
    #[serde(default)]
    folder: Option<String>,
    hosts: BTreeMap<String, Value>,
}

const DEPLOYMENT_VERSION: u32 = 1;

fn read_deployment(path: &Path) -> Result<Deployment> {
    let invalid = |why: String| {
        Error::new(Kind::Input, format!("{} is no deployment: {why}", path.display()))
            .hint("it is made by `lib.mkDeployment` of the flake, of the same version as this program")
    };
    let read: Deployment = serde_json::from_slice(&files::read(path)?).map_err(|e| invalid(e.to_string()))?;
    if read.version != DEPLOYMENT_VERSION {
        return Err(invalid(format!("its version is {}, not {DEPLOYMENT_VERSION}", read.version)));
    }
    Ok(read)
}

/// Everything a command needs to know about where it is.
#[derive(Debug, Clone)]
pub struct Settings {
    pub config: Config,
    /// The text of stillframe.toml and where it is, to name lines of it.
    pub source: Option<(PathBuf, String)>,
    /// The hosts, where a deployment that Nix evaluated brings them; else they are files of the project.
    pub hosts: Option<GivenHosts>,
    /// Where the lock files go: the folder of stillframe.toml, else the environment.
    pub project: PathBuf,
    pub environment: PathBuf,
    /// The environment as it was named, which may be by a link.
    pub named: PathBuf,
    pub state: PathBuf,
    pub cache: PathBuf,
}

/// Where this workstation's records are.
pub fn state_folder() -> Result<PathBuf> {
    home("XDG_STATE_HOME", ".local/state")
}

fn home(variable: &str, below_home: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable).filter(|v| Path::new(v).is_absolute()) {
        return Ok(PathBuf::from(dir).join("stillframe"));
    }
    let home = std::env::var_os("HOME").filter(|v| !v.is_empty()).ok_or_else(|| {
        Error::new(Kind::Input, format!("neither {variable} nor HOME is set"))
            .hint(format!("set {variable} to a directory that stillframe may write to"))
    })?;
    Ok(PathBuf::from(home).join(below_home).join("stillframe"))
}

/// The nearest stillframe.toml at or above `from`.
fn find_config(from: &Path) -> Option<PathBuf> {
    from.ancestors().map(|dir| dir.join(CONFIG)).find(|path| path.is_file())
}

fn read_config(path: &Path) -> Result<(Config, String)> {
    let invalid = |why: &str| Error::new(Kind::Input, format!("{} is not valid: {why}", path.display()));
    const CORRECT: &str = "correct the file, or name another with --config";
    // Which file it is, and that it can be read, is the user's to say.
    let bytes = files::read(path).map_err(|e| e.of_kind(Kind::Input).hint(CORRECT))?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8").hint(CORRECT))?;
    let config = toml::from_str::<Config>(&text).map_err(|e| {
        let hint = words::nearest_field(e.message()).map(|key| format!("did you mean `{key}`?"));
        invalid(&words::for_writers(e.to_string().trim())).hint(hint.unwrap_or_else(|| CORRECT.into()))
    })?;
    Ok((config, text))
}

/// Whether a stillframe.toml does not say that it is another environment's: of that, neither interpreter nor exclusions
/// nor the place of its lock are this one's.
fn may_be_of(file: &Path, environment: &Path) -> bool {
    // What cannot be read is told of where it is used.
    let Ok((Config { environment: Some(named), .. }, _)) = read_config(file) else { return true };
    let named = file.parent().map(|base| base.join(named)).and_then(|path| path.canonicalize().ok());
    environment.canonicalize().ok() == named
}

impl Settings {
    /// What of it concerns the hosts.
    pub fn fleet(&self) -> Project<'_> {
        Project {
            folder: &self.project,
            service: &self.config.service,
            source: self.source.as_ref(),
            given: self.hosts.as_ref(),
            cache: &self.cache,
        }
    }

    pub fn store(&self) -> StoreConfig {
        let doubts = Some(self.state.join("store-in-doubt"));
        StoreConfig { doubts, ..StoreConfig::from_environment(self.config.store.remote.as_deref()) }
    }

    /// What it says already of what an environment uses of its machine.
    pub fn configured(&self) -> Configured {
        let Config { python, service, exclude, .. } = &self.config;
        let folders = service.folders.iter().flatten();
        Configured {
            libraries: python.libraries.iter().map(|path| path.display().to_string()).collect(),
            programs: service.programs.clone().unwrap_or_default(),
            system_files: service.system_files.clone().unwrap_or_default(),
            exclude: exclude.clone(),
            folders: folders.map(|f| (f.path.clone(), f.at.clone(), f.writable)).collect(),
            models: service.models.clone(),
        }
    }

    /// What of it concerns the environment and its snapshots.
    pub fn subject(&self) -> Result<Subject> {
        let config = &self.config;
        let service = &config.service;
        let checked =
            arguments::check(&service.arguments).map_err(|wrong| (wrong, "take it out of the arguments"));
        let checked = checked.and_then(|()| {
            config::system::check(service)
                .map_err(|wrong| (wrong, "name what the service reads, and no more"))
        });
        checked.map_err(|(wrong, hint)| {
            let source = self.source.as_ref().map(|(file, text)| (file.as_path(), text.as_str()));
            let place = wrong.place(source).or_else(|| source.map(|(file, _)| file.display().to_string()));
            let place = place.map_or_else(String::new, |place| format!("{place}: "));
            Error::new(Kind::Input, format!("{place}{wrong}")).hint(hint)
        })?;
        Ok(Subject {
            environment: self.environment.clone(),
            project: self.project.clone(),
            state: self.state.clone(),
            cache: self.cache.clone(),
            environment_cache: config.cache.as_ref().map(|path| self.project.join(path)),
            python: config.python.clone(),
            probe: config.probe.clone(),
            exclude: config.exclude.clone(),
            allow_secrets: config.allow_secrets.clone(),
            redact: config.redact.clone(),
            own_paths: config.own_paths.clone(),
            named: self.named.clone(),
            intent: config.intent.clone(),
            service: Service {
                name: config.service.name().into(),
                arguments: config.service.arguments.clone(),
                environment: config.service.environment.clone(),
                programs: service.programs.clone().unwrap_or_default(),
                system_files: service.system_files.clone().unwrap_or_default(),
            },
            configured: self.configured(),
            private: self.fleet().private_files(&self.environment)?,
            store: self.store(),
        })
    }

    pub fn resolve(env: Option<&Path>, config: Option<&Path>) -> Result<Settings> {
        let mut settings = Self::without_environment(env, config)?;
        settings.environment = settings.environment.canonicalize().map_err(|e| {
            Error::new(Kind::Input, format!("cannot open the environment {}", settings.environment.display()))
                .hint("give the directory that holds ComfyUI's main.py")
                .caused_by(e)
        })?;
        Ok(settings)
    }

    /// For what works with snapshots: the environment they were taken of may be gone since.
    pub fn without_environment(env: Option<&Path>, config: Option<&Path>) -> Result<Settings> {
        let cwd = std::env::current_dir().map_err(|e| Error::io("find", ".", e))?;
        let config_path = match (config, env) {
            (Some(path), _) => Some(cwd.join(path)),
            (None, Some(env)) if cwd.join(env).join(CONFIG).is_file() => Some(cwd.join(env).join(CONFIG)),
            (None, None) => find_config(&cwd),
            (None, Some(env)) => find_config(&cwd).filter(|file| may_be_of(file, &cwd.join(env))),
        };
        let flake = || cwd.ancestors().find(|dir| dir.join("flake.nix").is_file()).unwrap_or(&cwd);
        let mut hosts = None;
        let (parsed, source) = match &config_path {
            Some(path) if path.extension().is_some_and(|e| e == "json") => {
                let deployment = read_deployment(path)?;
                hosts = Some(GivenHosts { folder: deployment.folder, hosts: deployment.hosts });
                // Its lines are Nix, which nobody reads here.
                (deployment.project, Some((flake().join("flake.nix"), String::new())))
            }
            Some(path) => {
                let (config, text) = read_config(path)?;
                (config, Some((path.clone(), text)))
            }
            None => (Config::default(), None),
        };
        let base = match hosts {
            Some(_) => Some(flake()),
            None => config_path.as_deref().and_then(Path::parent),
        };
        let environment = match (env, &parsed.environment, base) {
            (Some(env), _, _) => cwd.join(env),
            (None, Some(env), Some(base)) => base.join(env),
            _ => cwd.clone(),
        };
        let project = match base {
            Some(base) => base.to_path_buf(),
            None => environment.clone(),
        };
        Ok(Settings {
            config: parsed,
            source,
            hosts,
            project,
            named: environment.clone(),
            environment,
            state: state_folder()?,
            cache: home("XDG_CACHE_HOME", ".cache")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_brings_the_nearest_to_mind() {
        let message = |text: &str| toml::from_str::<Config>(text).unwrap_err().message().to_string();
        assert_eq!(words::nearest_field(&message("[python]\nreal_files = []\n")), Some("real-files"));
        assert_eq!(words::nearest_field(&message("enviroment = \"x\"\n")), Some("environment"));
        assert_eq!(words::nearest_field(&message("zebra = 1\n")), None);
        assert_eq!(words::nearest_field(&message("exclude = 1\n")), None);
    }

    /// What README shows is what is read: every key that is there exists.
    #[test]
    fn the_example_in_readme_is_valid() {
        let readme = include_str!("../../README.md");
        let block = readme.split("```toml\n").find(|b| b.starts_with("environment = \"ComfyUI\"  ")).unwrap();
        let config = toml::from_str::<Config>(block.split("```").next().unwrap()).unwrap();
        assert_eq!(config.service.port, Some(8188));
        let secrets: Vec<&str> = config.service.secrets.keys().map(String::as_str).collect();
        assert_eq!(secrets, ["HF_TOKEN", "PACK_SETTINGS", "licence"]);
        assert_eq!(config.redact["custom_nodes/a-pack/settings.json"], ["api_key"]);
        assert!(config.service.spec(&["0".into(), "1".into()], vec![], None).is_ok());
    }
}
