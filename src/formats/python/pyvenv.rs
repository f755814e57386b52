//! `pyvenv.cfg`, PEP 405: what makes a directory a virtual environment.
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PyvenvError {
    #[error("pyvenv.cfg has no \"home\" key")]
    NoHome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pyvenv {
    /// The directory of the base interpreter.
    pub home: PathBuf,
    pub system_site_packages: bool,
    /// `version` (venv) or `version_info` (virtualenv, uv).
    pub version: Option<String>,
    /// The base interpreter itself, where the tool wrote it.
    pub executable: Option<PathBuf>,
    /// uv's version, when uv made it.
    pub uv: Option<String>,
}

impl Pyvenv {
    pub fn parse(text: &str) -> Result<Self, PyvenvError> {
        let (mut home, mut system, mut version) = (None, false, None);
        let (mut executable, mut base, mut uv) = (None, None, None);
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "home" => home = Some(PathBuf::from(value)),
                "include-system-site-packages" => system = value.eq_ignore_ascii_case("true"),
                "version" | "version_info" => version = Some(value.to_owned()),
                "executable" => executable = Some(PathBuf::from(value)),
                "base-executable" => base = Some(PathBuf::from(value)),
                "uv" => uv = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(Pyvenv {
            home: home.filter(|h| !h.as_os_str().is_empty()).ok_or(PyvenvError::NoHome)?,
            system_site_packages: system,
            version,
            executable: executable.or(base),
            uv,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn venv_and_uv() {
        let v = Pyvenv::parse("home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\nexecutable = /usr/bin/python3.11\ncommand = /usr/bin/python3 -m venv /e\n").unwrap();
        assert_eq!(v.home, PathBuf::from("/usr/bin"));
        assert!(!v.system_site_packages);
        assert_eq!(v.executable, Some(PathBuf::from("/usr/bin/python3.11")));
        let u = Pyvenv::parse("home = /p/bin\nimplementation = CPython\nuv = 0.5.1\nversion_info = 3.12.3\ninclude-system-site-packages = True\n").unwrap();
        assert_eq!(u.uv.as_deref(), Some("0.5.1"));
        assert_eq!(u.version.as_deref(), Some("3.12.3"));
        assert!(u.system_site_packages);
    }

    #[test]
    fn no_home() {
        let e = Pyvenv::parse("version = 3\nhome =\n").unwrap_err();
        assert_eq!(e.to_string(), "pyvenv.cfg has no \"home\" key");
    }
}
