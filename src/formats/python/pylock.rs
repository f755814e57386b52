//! `pylock.toml`, PEP 751: written for the packages of an environment, read as a statement of intent.
use super::digest::{Sha256Digest, parse_hex};
use crate::formats::hex::hex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PylockError {
    #[error("pylock.toml: {0}")]
    Toml(String),
    #[error("pylock.toml has lock-version {0}, only 1.x is known")]
    Version(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pylock {
    pub requires_python: Option<String>,
    pub created_by: String,
    pub packages: Vec<PylockPackage>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PylockPackage {
    pub name: String,
    pub version: Option<String>,
    /// Where it applies; absent means everywhere.
    pub marker: Option<String>,
    pub index: Option<String>,
    pub wheels: Vec<PylockFile>,
    pub sdist: Option<PylockFile>,
    pub source: PylockSource,
    /// `[packages.tool.stillframe]`: what PEP 751 has no field for.
    pub tool: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PylockFile {
    pub name: Option<String>,
    pub url: Option<String>,
    pub size: Option<u64>,
    pub sha256: Option<Sha256Digest>,
}

/// PEP 751 lets a package come from files (wheels, sdist) or from exactly one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PylockSource {
    #[default]
    Files,
    Vcs {
        vcs: String,
        url: String,
        requested_revision: Option<String>,
        commit_id: String,
        subdirectory: Option<String>,
    },
    Directory {
        path: String,
        editable: bool,
    },
    Archive(PylockFile),
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl PylockFile {
    fn print_inline(&self) -> String {
        let mut parts = Vec::new();
        if let Some(name) = &self.name {
            parts.push(format!("name = {}", quoted(name)));
        }
        if let Some(url) = &self.url {
            parts.push(format!("url = {}", quoted(url)));
        }
        if let Some(size) = self.size {
            parts.push(format!("size = {size}"));
        }
        let hashes = self.sha256.map(|d| format!("sha256 = \"{}\"", hex(&d))).unwrap_or_default();
        parts.push(format!("hashes = {{{hashes}}}"));
        format!("{{{}}}", parts.join(", "))
    }
}

impl Pylock {
    /// Prints with packages sorted by name and version: the same environment gives the same bytes.
    pub fn print(&self) -> String {
        let mut out = String::from("lock-version = \"1.0\"\n");
        if let Some(python) = &self.requires_python {
            let _ = writeln!(out, "requires-python = {}", quoted(python));
        }
        let _ = writeln!(out, "created-by = {}", quoted(&self.created_by));
        let mut packages: Vec<&PylockPackage> = self.packages.iter().collect();
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        for package in packages {
            package.print(&mut out);
        }
        out
    }

    pub fn parse(text: &str) -> Result<Self, PylockError> {
        let raw: Raw = toml::from_str(text).map_err(|e| PylockError::Toml(e.to_string()))?;
        if raw.lock_version.split('.').next() != Some("1") {
            return Err(PylockError::Version(raw.lock_version));
        }
        Ok(Pylock {
            requires_python: raw.requires_python,
            created_by: raw.created_by.unwrap_or_default(),
            packages: raw.packages.into_iter().map(PylockPackage::from).collect(),
        })
    }
}

impl PylockPackage {
    fn print(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n[[packages]]\nname = {}\n", quoted(&self.name));
        if let Some(version) = &self.version {
            let _ = writeln!(out, "version = {}", quoted(version));
        }
        if let Some(marker) = &self.marker {
            let _ = writeln!(out, "marker = {}", quoted(marker));
        }
        if let Some(index) = &self.index {
            let _ = writeln!(out, "index = {}", quoted(index));
        }
        if let Some(sdist) = &self.sdist {
            let _ = writeln!(out, "sdist = {}", sdist.print_inline());
        }
        if !self.wheels.is_empty() {
            let mut wheels: Vec<&PylockFile> = self.wheels.iter().collect();
            wheels.sort_by(|a, b| (&a.name, &a.url).cmp(&(&b.name, &b.url)));
            out.push_str("wheels = [\n");
            for wheel in wheels {
                let _ = writeln!(out, "    {},", wheel.print_inline());
            }
            out.push_str("]\n");
        }
        match &self.source {
            PylockSource::Files => {}
            PylockSource::Vcs { vcs, url, requested_revision, commit_id, subdirectory } => {
                let _ = write!(out, "vcs = {{type = {}, url = {}", quoted(vcs), quoted(url));
                if let Some(revision) = requested_revision {
                    let _ = write!(out, ", requested-revision = {}", quoted(revision));
                }
                let _ = write!(out, ", commit-id = {}", quoted(commit_id));
                if let Some(subdirectory) = subdirectory {
                    let _ = write!(out, ", subdirectory = {}", quoted(subdirectory));
                }
                out.push_str("}\n");
            }
            PylockSource::Directory { path, editable } => {
                let path = quoted(path);
                let _ = writeln!(out, "directory = {{path = {path}, editable = {editable}}}");
            }
            PylockSource::Archive(file) => {
                let _ = writeln!(out, "archive = {}", file.print_inline());
            }
        }
        if !self.tool.is_empty() {
            out.push_str("[packages.tool.stillframe]\n");
            for (key, value) in &self.tool {
                let _ = writeln!(out, "{} = {}", quoted(key), quoted(value));
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    lock_version: String,
    requires_python: Option<String>,
    created_by: Option<String>,
    #[serde(default)]
    packages: Vec<RawPackage>,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    index: Option<String>,
    #[serde(default)]
    wheels: Vec<RawFile>,
    sdist: Option<RawFile>,
    vcs: Option<RawVcs>,
    directory: Option<RawDirectory>,
    archive: Option<RawFile>,
    #[serde(default)]
    tool: RawTool,
}

#[derive(Deserialize, Default)]
struct RawTool {
    #[serde(default)]
    stillframe: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawFile {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawVcs {
    r#type: String,
    url: Option<String>,
    path: Option<String>,
    requested_revision: Option<String>,
    commit_id: String,
    subdirectory: Option<String>,
}

#[derive(Deserialize)]
struct RawDirectory {
    path: String,
    #[serde(default)]
    editable: bool,
}

impl From<RawFile> for PylockFile {
    fn from(raw: RawFile) -> Self {
        PylockFile {
            name: raw.name,
            url: raw.url.or(raw.path),
            size: raw.size,
            sha256: raw.hashes.get("sha256").and_then(|h| parse_hex(h)),
        }
    }
}

impl From<RawPackage> for PylockPackage {
    fn from(raw: RawPackage) -> Self {
        let source = if let Some(v) = raw.vcs {
            PylockSource::Vcs {
                vcs: v.r#type,
                url: v.url.or(v.path).unwrap_or_default(),
                requested_revision: v.requested_revision,
                commit_id: v.commit_id,
                subdirectory: v.subdirectory,
            }
        } else if let Some(d) = raw.directory {
            PylockSource::Directory { path: d.path, editable: d.editable }
        } else if let Some(archive) = raw.archive {
            PylockSource::Archive(archive.into())
        } else {
            PylockSource::Files
        };
        PylockPackage {
            name: raw.name,
            version: raw.version,
            marker: raw.marker,
            index: raw.index,
            wheels: raw.wheels.into_iter().map(PylockFile::from).collect(),
            sdist: raw.sdist.map(PylockFile::from),
            source,
            tool: raw.tool.stillframe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Pylock {
        let wheel = PylockFile {
            name: Some("attrs-25.1.0-py3-none-any.whl".into()),
            url: Some("https://files.example/attrs-25.1.0-py3-none-any.whl".into()),
            size: Some(63152),
            sha256: Some([0xab; 32]),
        };
        let package = |name: &str| PylockPackage { name: name.into(), ..Default::default() };
        Pylock {
            requires_python: Some("==3.11.*".into()),
            created_by: "stillframe".into(),
            packages: vec![
                PylockPackage {
                    source: PylockSource::Vcs {
                        vcs: "git".into(),
                        url: "https://git.example/a.git".into(),
                        requested_revision: None,
                        commit_id: "0123".into(),
                        subdirectory: Some("py".into()),
                    },
                    ..package("zeta")
                },
                PylockPackage {
                    version: Some("25.1.0".into()),
                    index: Some("https://index.example/simple/".into()),
                    wheels: vec![wheel],
                    ..package("attrs")
                },
                PylockPackage {
                    source: PylockSource::Directory { path: "../my \"pack\"".into(), editable: true },
                    tool: [("captured".to_owned(), "editable install".to_owned())].into(),
                    ..package("mine")
                },
            ],
        }
    }

    #[test]
    fn prints_in_stable_order_and_reads_back() {
        let text = sample().print();
        let sha = "ab".repeat(32);
        assert!(text.starts_with(&format!(
            "lock-version = \"1.0\"\nrequires-python = \"==3.11.*\"\ncreated-by = \"stillframe\"\n\n[[packages]]\nname = \"attrs\"\nversion = \"25.1.0\"\nindex = \"https://index.example/simple/\"\nwheels = [\n    {{name = \"attrs-25.1.0-py3-none-any.whl\", url = \"https://files.example/attrs-25.1.0-py3-none-any.whl\", size = 63152, hashes = {{sha256 = \"{sha}\"}}}},\n]\n"
        )));
        let mut expected = sample();
        expected.packages.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(Pylock::parse(&text).unwrap(), expected);
        expected.packages.reverse();
        assert_eq!(expected.print(), text);
    }

    #[test]
    fn errors() {
        let text = |s: &str| Pylock::parse(s).unwrap_err().to_string();
        assert_eq!(text("lock-version = \"2.0\""), "pylock.toml has lock-version 2.0, only 1.x is known");
        assert!(text("x = 1").starts_with("pylock.toml: "));
        assert!(text("x = 1").contains("missing field `lock-version`"));
    }
}
