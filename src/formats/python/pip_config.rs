//! `pip.conf`: the part that says which index pip installs from.
use super::ini::{Ini, IniError};
use std::time::Duration;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipConfig {
    pub index_url: Option<String>,
    pub extra_index_urls: Vec<String>,
    pub find_links: Vec<String>,
    pub cert: Option<String>,
    pub no_index: Option<bool>,
    pub timeout: Option<Duration>,
}

impl PipConfig {
    /// `[install]` overrides `[global]`, as in pip.
    pub fn parse(text: &str) -> Result<Self, IniError> {
        let ini = Ini::parse(text, &['=', ':'])?;
        let mut out = PipConfig::default();
        for section in ["global", "install"] {
            for (key, value) in ini.entries(section) {
                let words = || value.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                match key.to_ascii_lowercase().replace('_', "-").as_str() {
                    "index-url" => out.index_url = words().into_iter().next(),
                    "extra-index-url" => out.extra_index_urls = words(),
                    "find-links" => out.find_links = words(),
                    "cert" => out.cert = Some(value.to_owned()),
                    "timeout" | "default-timeout" => out.timeout = seconds(value),
                    "no-index" => out.no_index = Some(truth(value)),
                    _ => {}
                }
            }
        }
        Ok(out)
    }

    /// What `later` sets replaces what `self` set: pip reads global, user, site, then the environment.
    pub fn overlaid(self, later: PipConfig) -> Self {
        let pick = |a: Vec<String>, b: Vec<String>| if b.is_empty() { a } else { b };
        PipConfig {
            index_url: later.index_url.or(self.index_url),
            extra_index_urls: pick(self.extra_index_urls, later.extra_index_urls),
            find_links: pick(self.find_links, later.find_links),
            cert: later.cert.or(self.cert),
            no_index: later.no_index.or(self.no_index),
            timeout: later.timeout.or(self.timeout),
        }
    }
}

/// A time limit; nothing where it is none, as pip itself would refuse to run then.
pub fn seconds(value: &str) -> Option<Duration> {
    let seconds = value.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero())
}

/// pip's (distutils') idea of true.
pub fn truth(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "y" | "yes" | "t" | "true" | "on" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_overrides_global() {
        let c = PipConfig::parse("[global]\nindex-url = https://a.example/simple\ncert = /c.pem\nextra-index-url =\n    https://b.example/simple\n    https://c.example/simple\n[install]\nindex_url = https://d.example/simple\nno-index = no\n[list]\nindex-url = https://e.example\n").unwrap();
        assert_eq!(c.index_url.as_deref(), Some("https://d.example/simple"));
        assert_eq!(c.extra_index_urls.len(), 2);
        assert_eq!(c.cert.as_deref(), Some("/c.pem"));
        assert_eq!(c.no_index, Some(false));
        assert_eq!(c.timeout, None);
        assert_eq!(seconds(" 2.5 "), Some(Duration::from_millis(2500)));
        assert_eq!((seconds("soon"), seconds("0"), seconds("inf"), seconds("-1")), (None, None, None, None));
        let over = c.overlaid(PipConfig { no_index: Some(true), ..PipConfig::default() });
        assert_eq!(over.no_index, Some(true));
        assert_eq!(over.extra_index_urls.len(), 2);
    }

    #[test]
    fn broken() {
        let e = PipConfig::parse("index-url = x\n").unwrap_err();
        assert_eq!(e.to_string(), "line 1: a value before the first [section]");
    }
}
