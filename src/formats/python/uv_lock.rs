//! `uv.lock`: names, versions and wheel hashes, read as a statement of intent.
use super::digest::{Sha256Digest, parse_hex};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UvLockError {
    #[error("uv.lock: {0}")]
    Toml(String),
    #[error("uv.lock has version {0}, only version 1 is known")]
    Version(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UvLock {
    pub requires_python: Option<String>,
    pub packages: Vec<UvPackage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UvPackage {
    pub name: String,
    /// Absent for packages whose version is dynamic.
    pub version: Option<String>,
    pub source: UvSource,
    pub wheels: Vec<UvFile>,
    pub sdist: Option<UvFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UvFile {
    pub url: Option<String>,
    pub sha256: Option<Sha256Digest>,
    pub size: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UvSource {
    Registry(String),
    Git(String),
    Url(String),
    /// `path`, `directory`, `editable` and `virtual`.
    Local(String),
    Unknown,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    version: u64,
    requires_python: Option<String>,
    #[serde(default, rename = "package")]
    packages: Vec<RawPackage>,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    version: Option<String>,
    #[serde(default)]
    source: RawSource,
    #[serde(default)]
    wheels: Vec<RawFile>,
    sdist: Option<RawFile>,
}

#[derive(Deserialize, Default)]
struct RawSource {
    registry: Option<String>,
    git: Option<String>,
    url: Option<String>,
    path: Option<String>,
    directory: Option<String>,
    editable: Option<String>,
    r#virtual: Option<String>,
}

#[derive(Deserialize)]
struct RawFile {
    url: Option<String>,
    hash: Option<String>,
    size: Option<u64>,
}

impl From<RawFile> for UvFile {
    fn from(raw: RawFile) -> Self {
        let sha256 = raw.hash.as_deref().and_then(|h| h.strip_prefix("sha256:"));
        UvFile { url: raw.url, sha256: sha256.and_then(parse_hex), size: raw.size }
    }
}

impl From<RawSource> for UvSource {
    fn from(raw: RawSource) -> Self {
        let local = raw.path.or(raw.directory).or(raw.editable).or(raw.r#virtual);
        if let Some(registry) = raw.registry {
            UvSource::Registry(registry)
        } else if let Some(git) = raw.git {
            UvSource::Git(git)
        } else if let Some(url) = raw.url {
            UvSource::Url(url)
        } else {
            local.map_or(UvSource::Unknown, UvSource::Local)
        }
    }
}

impl UvLock {
    pub fn parse(text: &str) -> Result<Self, UvLockError> {
        let raw: Raw = toml::from_str(text).map_err(|e| UvLockError::Toml(e.to_string()))?;
        if raw.version != 1 {
            return Err(UvLockError::Version(raw.version));
        }
        let packages = raw.packages.into_iter().map(|p| UvPackage {
            name: p.name,
            version: p.version,
            source: p.source.into(),
            wheels: p.wheels.into_iter().map(UvFile::from).collect(),
            sdist: p.sdist.map(UvFile::from),
        });
        Ok(UvLock { requires_python: raw.requires_python, packages: packages.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_looking() {
        let a = "ab".repeat(32);
        let text = format!(
            "version = 1\nrevision = 2\nrequires-python = \">=3.11\"\n\n[[package]]\nname = \"attrs\"\nversion = \"25.1.0\"\nsource = {{ registry = \"https://index.example/simple\" }}\nsdist = {{ url = \"https://f.example/a.tar.gz\", hash = \"sha256:{a}\", size = 1 }}\nwheels = [\n    {{ url = \"https://f.example/a.whl\", hash = \"sha256:{a}\", size = 63152 }},\n]\n\n[[package]]\nname = \"mine\"\nversion = \"0.1.0\"\nsource = {{ editable = \".\" }}\ndependencies = [{{ name = \"attrs\" }}]\n"
        );
        let lock = UvLock::parse(&text).unwrap();
        assert_eq!(lock.packages[0].wheels[0].sha256, Some([0xab; 32]));
        assert_eq!(lock.packages[0].wheels[0].size, Some(63152));
        assert_eq!(lock.packages[1].source, UvSource::Local(".".into()));
    }

    #[test]
    fn errors() {
        let text = |s: &str| UvLock::parse(s).unwrap_err().to_string();
        assert_eq!(text("version = 7"), "uv.lock has version 7, only version 1 is known");
        assert!(text("").contains("missing field `version`"));
    }
}
