//! Which index the environment's own pip or uv installs from. Everything is read, nothing is run: a
//! hostile pack in the environment must not get to run during capture.
use crate::capture::files::paths::open_regular;
use crate::formats::python::pip_config::{PipConfig, seconds, truth};
use crate::sys::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// Bounds the text of pip's source and of configuration files.
pub(super) const MAX_TEXT: u64 = 1 << 20;

/// The URL of an index. Its credentials are kept apart and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct IndexUrl {
    url: Url,
    credentials: Option<(String, Option<String>)>,
}

impl IndexUrl {
    /// Only http and https: other schemes cannot be asked.
    pub fn parse(text: &str) -> Option<Self> {
        let mut url = Url::parse(text.trim()).ok()?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return None;
        }
        let decode = crate::formats::python::simple_index::percent_decoded;
        let user = decode(url.username());
        let password = url.password().map(decode);
        let credentials = (!user.is_empty() || password.is_some()).then_some((user, password));
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        url.set_fragment(None);
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Some(IndexUrl { url, credentials })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn credentials(&self) -> Option<(&str, Option<&str>)> {
        self.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_deref()))
    }

    pub(super) fn with_credentials(mut self, user: Option<&String>, password: Option<&String>) -> Self {
        if user.is_some() || password.is_some() {
            self.credentials = Some((user.cloned().unwrap_or_default(), password.cloned()));
        }
        self
    }

    /// The page of a project, by its normalised name.
    pub fn project(&self, name: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{name}/", self.url.path()));
        url
    }
}

impl fmt::Display for IndexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for IndexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IndexUrl({})", self.url)
    }
}

impl serde::Serialize for IndexUrl {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.url.as_str())
    }
}

#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct IndexSettings {
    /// In the order they are asked; empty when nothing says where to ask.
    pub indexes: Vec<IndexUrl>,
    pub cert: Option<PathBuf>,
    /// pip's own limit for an answer.
    pub timeout: Option<Duration>,
    /// Where this came from, for people.
    pub source: String,
    /// What is configured and cannot be asked: `find-links`, `file:` indexes.
    pub ignored: Vec<String>,
}

/// What [`IndexSettings::discover`] looks at.
#[derive(Debug, Clone, Default)]
pub struct SettingsInput {
    pub env: BTreeMap<String, String>,
    pub home: Option<PathBuf>,
    /// `/`, another directory in tests.
    pub root: PathBuf,
    /// The environment's prefix (`sys.prefix`), where its own pip.conf would be.
    pub prefix: Option<PathBuf>,
    /// Where the environment's pip may be.
    pub site_packages: Vec<PathBuf>,
    /// The environment's directory, where a uv project's own uv.toml or pyproject.toml would be.
    pub project: Option<PathBuf>,
    /// The interpreter's standard library, for `ensurepip/_bundled`.
    pub stdlib: Option<PathBuf>,
}

impl SettingsInput {
    /// From this process's environment variables.
    pub fn from_process() -> Self {
        let env: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        let home = env.get("HOME").map(PathBuf::from);
        SettingsInput { env, home, root: PathBuf::from("/"), ..SettingsInput::default() }
    }

    pub(super) fn var(&self, name: &str) -> Option<&String> {
        self.env.get(name).filter(|value| !value.trim().is_empty())
    }

    pub(super) fn config_home(&self) -> Option<PathBuf> {
        let xdg = self.var("XDG_CONFIG_HOME").map(PathBuf::from);
        xdg.or_else(|| self.home.as_ref().map(|home| home.join(".config")))
    }
}

#[derive(Default)]
pub(super) struct Found {
    primary: Vec<IndexUrl>,
    extra: Vec<IndexUrl>,
    sources: Vec<String>,
    ignored: Vec<String>,
}

impl Found {
    pub(super) fn add(&mut self, primary: bool, text: &str, from: &str) -> Option<&mut IndexUrl> {
        match IndexUrl::parse(text) {
            Some(index) => {
                if !self.sources.iter().any(|source| source == from) {
                    self.sources.push(from.to_owned());
                }
                let list = if primary { &mut self.primary } else { &mut self.extra };
                list.push(index);
                list.last_mut()
            }
            None => {
                let shown = crate::formats::python::direct_url::without_credentials(text);
                self.ignored.push(format!("{shown} from {from} (only http and https indexes are asked)"));
                None
            }
        }
    }

    pub(super) fn find_links(&mut self, link: &str) {
        let shown = crate::formats::python::direct_url::without_credentials(link);
        self.ignored.push(format!("{shown} from find-links (wheels are looked for in indexes only)"));
    }
}

impl IndexSettings {
    /// pip's settings, then uv's; either may have installed what is there, and a wheel from any index
    /// the environment is configured for is as good. pip's built-in default only when neither names
    /// a main index.
    pub fn discover(input: &SettingsInput) -> Result<Self> {
        let mut found = Found::default();
        let (pip, mut cert) = pip_settings(input, &mut found)?;
        super::uv_settings::read(input, &mut found)?;
        if cert.is_none() {
            cert = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
                .into_iter()
                .filter_map(|name| input.var(name).map(PathBuf::from))
                .find(|path| path.is_file());
        }
        if found.primary.is_empty() && pip.no_index != Some(true) {
            match super::pip_default::find(input) {
                Some((url, from)) => drop(found.add(true, &url, &from)),
                None => found.sources.push(
                    "no index is configured and the environment has no pip to read a default from".to_owned(),
                ),
            }
        } else if found.primary.is_empty() {
            found.sources.push("pip's no-index".to_owned());
        }
        let mut indexes: Vec<IndexUrl> = Vec::new();
        for index in found.primary.into_iter().chain(found.extra) {
            if !indexes.iter().any(|have| have.url == index.url) {
                indexes.push(index);
            }
        }
        let source = found.sources.join(", ");
        Ok(IndexSettings { indexes, cert, timeout: pip.timeout, source, ignored: found.ignored })
    }
}

pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    // A FIFO or a device in place of a configuration file would hang or never end.
    if !path.metadata().is_ok_and(|m| m.is_file()) {
        return Ok(None);
    }
    let file = open_regular(path).map_err(|e| Error::io("read", path, e))?;
    let mut bytes = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// pip's configuration: global, user, site, `PIP_CONFIG_FILE`, then `PIP_*` variables.
fn pip_settings(input: &SettingsInput, found: &mut Found) -> Result<(PipConfig, Option<PathBuf>)> {
    let override_file = input.var("PIP_CONFIG_FILE").map(PathBuf::from);
    let mut files = Vec::new();
    // pip loads no configuration file at all when told to read the null device.
    if override_file.as_deref() != Some(Path::new("/dev/null")) {
        files.push(input.root.join("etc/xdg/pip/pip.conf"));
        files.push(input.root.join("etc/pip.conf"));
        // A PIP_CONFIG_FILE stands in for the user's own.
        if !override_file.as_ref().is_some_and(|file| file.exists()) {
            files.extend(input.home.as_ref().map(|home| home.join(".pip/pip.conf")));
            files.extend(input.config_home().map(|config| config.join("pip/pip.conf")));
        }
        files.extend(input.prefix.as_ref().map(|prefix| prefix.join("pip.conf")));
        files.extend(override_file);
    }
    let mut config = PipConfig::default();
    let (mut index_from, mut extra_from) = (String::new(), String::new());
    for file in files {
        let Some(text) = read_text(&file)? else {
            continue;
        };
        let layer = PipConfig::parse(&text).map_err(|e| {
            Error::new(Kind::Input, format!("{} is no pip configuration: {e}", file.display()))
                .hint("correct the file, or set PIP_CONFIG_FILE=/dev/null to ignore it")
        })?;
        let from = file.display().to_string();
        if layer.index_url.is_some() {
            index_from.clone_from(&from);
        }
        if !layer.extra_index_urls.is_empty() {
            extra_from = from;
        }
        config = config.overlaid(layer);
    }
    let words = |name: &str| {
        let value = input.var(name).map(String::as_str).unwrap_or_default();
        value.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let env = PipConfig {
        index_url: input.var("PIP_INDEX_URL").cloned(),
        extra_index_urls: words("PIP_EXTRA_INDEX_URL"),
        find_links: words("PIP_FIND_LINKS"),
        cert: input.var("PIP_CERT").cloned(),
        no_index: input.var("PIP_NO_INDEX").map(|value| truth(value)),
        timeout: ["PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT"]
            .iter()
            .find_map(|name| input.var(name).and_then(|value| seconds(value))),
    };
    if env.index_url.is_some() {
        index_from = "PIP_INDEX_URL".to_owned();
    }
    if !env.extra_index_urls.is_empty() {
        extra_from = "PIP_EXTRA_INDEX_URL".to_owned();
    }
    let config = config.overlaid(env);
    if config.no_index != Some(true) {
        if let Some(url) = &config.index_url {
            found.add(true, url, &index_from);
        }
        for url in &config.extra_index_urls {
            found.add(false, url, &extra_from);
        }
    }
    config.find_links.iter().for_each(|link| found.find_links(link));
    let cert = config.cert.as_ref().map(PathBuf::from);
    Ok((config, cert))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
