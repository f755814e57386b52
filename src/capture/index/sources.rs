//! Where index settings are looked for, and what was found so far.
use super::url::IndexUrl;
use crate::capture::files::paths::open_regular;
use crate::formats::credentials::without_credentials;
use crate::sys::error::{Error, Result};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bounds the text of pip's source and of configuration files.
pub(super) const MAX_TEXT: u64 = 1 << 20;

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
    pub primary: Vec<IndexUrl>,
    pub extra: Vec<IndexUrl>,
    pub sources: Vec<String>,
    pub ignored: Vec<String>,
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
                let shown = without_credentials(text);
                self.ignored.push(format!("{shown} from {from} (only http and https indexes are asked)"));
                None
            }
        }
    }

    pub(super) fn find_links(&mut self, link: &str) {
        let shown = without_credentials(link);
        self.ignored.push(format!("{shown} from find-links (wheels are looked for in indexes only)"));
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
