//! `direct_url.json`, PEP 610: a distribution installed from a URL, not from an index.
use super::digest::{Sha256Digest, parse_hex};
use crate::formats::credentials::without_credentials;
use serde::Deserialize;
use std::collections::BTreeMap;
use url::Url;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectUrlError {
    #[error("direct_url.json: {0}")]
    Json(String),
    #[error("direct_url.json: expected one of vcs_info, archive_info, dir_info, found {0}")]
    Kinds(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectUrl {
    /// Without credentials (PEP 610 asks installers to drop user and password; not all do, and none drops a query's).
    pub url: String,
    pub subdirectory: Option<String>,
    pub kind: DirectKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectKind {
    Vcs { vcs: String, requested_revision: Option<String>, commit_id: String },
    Archive { sha256: Option<Sha256Digest> },
    Directory { editable: bool },
}

#[derive(Deserialize)]
struct Raw {
    url: String,
    subdirectory: Option<String>,
    vcs_info: Option<RawVcs>,
    archive_info: Option<RawArchive>,
    dir_info: Option<RawDir>,
}

#[derive(Deserialize)]
struct RawVcs {
    vcs: String,
    requested_revision: Option<String>,
    commit_id: String,
}

#[derive(Deserialize)]
struct RawArchive {
    hash: Option<String>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawDir {
    #[serde(default)]
    editable: bool,
}

impl DirectUrl {
    pub fn parse(bytes: &[u8]) -> Result<Self, DirectUrlError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| DirectUrlError::Json(e.to_string()))?;
        let url = without_credentials(&raw.url);
        let subdirectory = raw.subdirectory;
        let kind = match (raw.vcs_info, raw.archive_info, raw.dir_info) {
            (Some(v), None, None) => DirectKind::Vcs {
                vcs: v.vcs,
                requested_revision: v.requested_revision,
                commit_id: v.commit_id,
            },
            (None, Some(a), None) => {
                // `hash` is the older spelling of `hashes`.
                let old = a.hash.as_deref().and_then(|h| h.strip_prefix("sha256="));
                let hex = a.hashes.get("sha256").map(String::as_str).or(old);
                DirectKind::Archive { sha256: hex.and_then(parse_hex) }
            }
            (None, None, Some(d)) => DirectKind::Directory { editable: d.editable },
            (v, a, d) => {
                let found = [v.is_some(), a.is_some(), d.is_some()];
                return Err(DirectUrlError::Kinds(found.into_iter().filter(|x| *x).count()));
            }
        };
        Ok(DirectUrl { url, subdirectory, kind })
    }

    /// The local path of a `file:` URL.
    pub fn path(&self) -> Option<std::path::PathBuf> {
        let url = Url::parse(&self.url).ok()?;
        (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcs() {
        let d = DirectUrl::parse(br#"{"url":"https://u:p@example.org/a.git","vcs_info":{"vcs":"git","requested_revision":"main","commit_id":"0123456789012345678901234567890123456789"},"subdirectory":"py"}"#).unwrap();
        assert_eq!(d.url, "https://example.org/a.git");
        assert_eq!(d.subdirectory.as_deref(), Some("py"));
        assert!(matches!(d.kind, DirectKind::Vcs { ref vcs, .. } if vcs == "git"));
        let signed =
            br#"{"url":"https://h.example/a.whl?token=t1&X-Amz-Signature=s1&v=2","archive_info":{}}"#;
        assert_eq!(DirectUrl::parse(signed).unwrap().url, "https://h.example/a.whl?v=2");
    }

    #[test]
    fn archive_and_directory() {
        let sha = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for info in [format!(r#"{{"hash":"sha256={sha}"}}"#), format!(r#"{{"hashes":{{"sha256":"{sha}"}}}}"#)]
        {
            let json = format!(r#"{{"url":"file:///w/a-1-py3-none-any.whl","archive_info":{info}}}"#);
            let d = DirectUrl::parse(json.as_bytes()).unwrap();
            assert_eq!(d.kind, DirectKind::Archive { sha256: parse_hex(sha) });
        }
        let d = DirectUrl::parse(br#"{"url":"file:///src/my%20pack","dir_info":{"editable":true}}"#).unwrap();
        assert_eq!(d.kind, DirectKind::Directory { editable: true });
        assert_eq!(d.path().unwrap(), std::path::Path::new("/src/my pack"));
    }

    #[test]
    fn errors() {
        let text = |b: &[u8]| DirectUrl::parse(b).unwrap_err().to_string();
        assert_eq!(
            text(br#"{"url":"x"}"#),
            "direct_url.json: expected one of vcs_info, archive_info, dir_info, found 0"
        );
        assert_eq!(
            text(br#"{"url":"x","archive_info":{},"dir_info":{}}"#),
            "direct_url.json: expected one of vcs_info, archive_info, dir_info, found 2"
        );
        assert_eq!(text(b"{}"), "direct_url.json: missing field `url` at line 1 column 2");
    }
}
