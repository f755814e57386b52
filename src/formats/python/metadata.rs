//! METADATA and PKG-INFO: the headers of core metadata (PEP 566, PEP 639), never the description.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error("METADATA has no {0} header")]
    Missing(&'static str),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub name: String,
    pub version: String,
    pub requires_dist: Vec<String>,
    pub requires_python: Option<String>,
    /// `License-Expression`, or else `License`'s first line.
    pub license: Option<String>,
}

/// RFC 822 headers up to the first blank line; continuation lines are joined with a newline.
/// Metadata of old packages is not always UTF-8, and no header we read depends on the broken part.
pub fn headers(bytes: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(bytes);
    let mut out: Vec<(String, String)> = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        if line.trim().is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = out.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            out.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    out
}

impl Metadata {
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        let mut out = Metadata::default();
        let mut expression = None;
        for (key, value) in headers(bytes) {
            match key.as_str() {
                "name" if out.name.is_empty() => out.name = value,
                "version" if out.version.is_empty() => out.version = value,
                "requires-dist" => out.requires_dist.push(value),
                "requires-python" => out.requires_python = Some(value),
                "license-expression" => expression = Some(value),
                "license" => out.license = value.lines().next().map(str::to_owned),
                _ => {}
            }
        }
        if expression.is_some() {
            out.license = expression;
        }
        if out.name.is_empty() {
            return Err(MetadataError::Missing("Name"));
        }
        if out.version.is_empty() {
            return Err(MetadataError::Missing("Version"));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_looking() {
        let text = b"Metadata-Version: 2.4\nName: aiohttp\nVersion: 3.9.5\nLicense: Apache 2\n        of 2004\nRequires-Dist: attrs >=17.3.0\nRequires-Dist: Brotli ; (platform_python_implementation == \"CPython\") and extra == 'speedups'\nRequires-Python: >=3.8\n\nName: not-this\n";
        let m = Metadata::parse(text).unwrap();
        assert_eq!((m.name.as_str(), m.version.as_str()), ("aiohttp", "3.9.5"));
        assert_eq!(m.requires_dist.len(), 2);
        assert_eq!(m.license.as_deref(), Some("Apache 2"));
        assert_eq!(m.requires_python.as_deref(), Some(">=3.8"));
    }

    #[test]
    fn expression_wins_and_latin1_is_survived() {
        let m = Metadata::parse(
            b"Name: x\r\nVersion: 1\r\nAuthor: Andr\xe9\r\nLicense-Expression: MIT\r\nLicense: long\r\n\r\nbody",
        )
        .unwrap();
        assert_eq!(m.license.as_deref(), Some("MIT"));
    }

    #[test]
    fn errors() {
        let text = |b: &[u8]| Metadata::parse(b).unwrap_err().to_string();
        assert_eq!(text(b"Version: 1\n"), "METADATA has no Name header");
        assert_eq!(text(b"Name: x\n\nVersion: 1\n"), "METADATA has no Version header");
    }
}
