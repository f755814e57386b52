//! `dist-info/WHEEL`, PEP 427.
use super::metadata::headers;
use super::wheel_name::expand_tag;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WheelError {
    #[error("WHEEL has no {0} header")]
    Missing(&'static str),
    #[error("WHEEL says Wheel-Version {0}, only 1.x is known")]
    Version(String),
    #[error("WHEEL says Root-Is-Purelib {0:?}, expected true or false")]
    Purelib(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    pub generator: Option<String>,
    pub root_is_purelib: bool,
    /// Expanded, in the file's order, each once.
    pub tags: Vec<String>,
    pub build: Option<String>,
}

impl Wheel {
    pub fn parse(bytes: &[u8]) -> Result<Self, WheelError> {
        let (mut version, mut purelib) = (None, None);
        let (mut generator, mut build, mut tags) = (None, None, Vec::new());
        for (key, value) in headers(bytes) {
            match key.as_str() {
                "wheel-version" => version = Some(value),
                "generator" => generator = Some(value),
                "root-is-purelib" => purelib = Some(value),
                "build" => build = Some(value),
                "tag" => {
                    for tag in expand_tag(&value) {
                        if !tags.contains(&tag) {
                            tags.push(tag);
                        }
                    }
                }
                _ => {}
            }
        }
        let version = version.ok_or(WheelError::Missing("Wheel-Version"))?;
        // PEP 427: an installer must fail on a greater major version.
        if version.split('.').next() != Some("1") {
            return Err(WheelError::Version(version));
        }
        let purelib = purelib.ok_or(WheelError::Missing("Root-Is-Purelib"))?;
        let root_is_purelib = match purelib.to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => return Err(WheelError::Purelib(purelib)),
        };
        let build = build.filter(|b: &String| !b.is_empty());
        Ok(Wheel { generator, root_is_purelib, tags, build })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numpy() {
        let w = Wheel::parse(b"Wheel-Version: 1.0\nGenerator: meson\nRoot-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_17_x86_64\nTag: cp311-cp311-manylinux2014_x86_64\n\n").unwrap();
        assert!(!w.root_is_purelib);
        assert_eq!(w.tags.len(), 2);
        assert_eq!(w.generator.as_deref(), Some("meson"));
        assert_eq!(w.build, None);
    }

    #[test]
    fn compressed_tag_and_build() {
        let w = Wheel::parse(b"Wheel-Version: 1.9\nRoot-Is-Purelib: True\nTag: py2.py3-none-any\nBuild: 3\n")
            .unwrap();
        assert!(w.root_is_purelib);
        assert_eq!(w.tags, ["py2-none-any", "py3-none-any"]);
        assert_eq!(w.build.as_deref(), Some("3"));
    }

    #[test]
    fn errors() {
        let text = |b: &[u8]| Wheel::parse(b).unwrap_err().to_string();
        assert_eq!(text(b"Tag: x\n"), "WHEEL has no Wheel-Version header");
        assert_eq!(text(b"Wheel-Version: 1.0\n"), "WHEEL has no Root-Is-Purelib header");
        assert_eq!(text(b"Wheel-Version: 2.0\n"), "WHEEL says Wheel-Version 2.0, only 1.x is known");
        assert_eq!(
            text(b"Wheel-Version: 1.0\nRoot-Is-Purelib: maybe\n"),
            "WHEEL says Root-Is-Purelib \"maybe\", expected true or false"
        );
    }
}
