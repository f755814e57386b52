//! Which index the environment's own pip or uv installs from. Everything is read, nothing is run: a
//! hostile pack in the environment must not get to run during capture.
use super::sources::{Found, SettingsInput, read_text};
use super::url::IndexUrl;
use crate::formats::python::pip_config::{PipConfig, seconds, truth};
use crate::sys::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
            if !indexes.iter().any(|have| have.url() == index.url()) {
                indexes.push(index);
            }
        }
        let source = found.sources.join(", ");
        Ok(IndexSettings { indexes, cert, timeout: pip.timeout, source, ignored: found.ignored })
    }
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
