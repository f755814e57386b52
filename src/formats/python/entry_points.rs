//! `entry_points.txt`: the scripts an installer writes (`console_scripts`, `gui_scripts`).
use super::ini::{Ini, IniError};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryPointsError {
    #[error("entry_points.txt: {0}")]
    Ini(#[from] IniError),
    #[error("entry_points.txt: {0} has the target {1:?}, expected module:function")]
    Target(String, String),
    #[error("entry_points.txt: {0:?} is no script name")]
    Name(String),
    #[error("entry_points.txt: it is not UTF-8")]
    Encoding,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPoint {
    pub name: String,
    pub module: String,
    /// Dotted: `main` or `Cli.run`.
    pub function: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryPoints {
    pub console: Vec<EntryPoint>,
    pub gui: Vec<EntryPoint>,
}

impl EntryPoints {
    /// Every script that an installer could write, and what is wrong with the others.
    pub fn parse(bytes: &[u8]) -> (Self, Vec<EntryPointsError>) {
        let mut wrong = Vec::new();
        let ini = match std::str::from_utf8(bytes) {
            Ok(text) => Ini::parse(text, &['=']).map_err(EntryPointsError::from),
            Err(_) => Err(EntryPointsError::Encoding),
        };
        let ini = ini.unwrap_or_else(|e| {
            wrong.push(e);
            Ini::default()
        });
        let mut scripts = |section: &str| -> Vec<EntryPoint> {
            let read = ini.entries(section).map(|(name, value)| script(name, value));
            read.filter_map(|read| read.map_err(|e| wrong.push(e)).ok()).collect()
        };
        let points = EntryPoints { console: scripts("console_scripts"), gui: scripts("gui_scripts") };
        (points, wrong)
    }

    /// By script name; of two of a name the last counts, as it does for an installer.
    pub fn scripts(self) -> BTreeMap<String, EntryPoint> {
        self.console.into_iter().chain(self.gui).map(|point| (point.name.clone(), point)).collect()
    }
}

/// The line of an `entry_points.txt`.
impl fmt::Display for EntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}:{}", self.name, self.module, self.function)
    }
}

impl FromStr for EntryPoint {
    type Err = EntryPointsError;

    fn from_str(line: &str) -> Result<Self, EntryPointsError> {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        script(name.trim(), value.trim())
    }
}

fn script(name: &str, value: &str) -> Result<EntryPoint, EntryPointsError> {
    // The name becomes a file in bin/, so it must not lead anywhere else.
    if name.is_empty() || matches!(name, "." | "..") || name.contains(['/', '\\', '\0']) {
        return Err(EntryPointsError::Name(name.to_owned()));
    }
    // Extras behind the target ("mod:f [extra]") are only a hint to old installers.
    let target = value.split('[').next().unwrap_or("").trim();
    let bad = || EntryPointsError::Target(name.to_owned(), value.to_owned());
    let (module, function) = target.split_once(':').ok_or_else(bad)?;
    let (module, function) = (module.trim(), function.trim());
    // Both are written into a generated script, so only dotted identifiers may pass.
    if !dotted(module) || !dotted(function) {
        return Err(bad());
    }
    Ok(EntryPoint { name: name.to_owned(), module: module.into(), function: function.into() })
}

fn dotted(text: &str) -> bool {
    text.split('.').all(|part| {
        part.starts_with(|c: char| c == '_' || c.is_alphabetic())
            && part.chars().all(|c| c == '_' || c.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_looking() {
        let (e, wrong) = EntryPoints::parse(
            b"[console_scripts]\nf2py = numpy.f2py.f2py2e:main\ntorchrun=torch.distributed.run:main [x]\n\n[gui_scripts]\nidle = idlelib:App.run\n[pyinstaller40]\nhook-dirs = numpy:_hook\n",
        );
        assert_eq!((e.console.len(), wrong), (2, vec![]));
        assert_eq!(e.console[1].module, "torch.distributed.run");
        assert_eq!(e.console[1].function, "main");
        assert_eq!(e.gui[0].function, "App.run");
        let lines: Vec<String> = e.scripts().values().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "f2py = numpy.f2py.f2py2e:main",
                "idle = idlelib:App.run",
                "torchrun = torch.distributed.run:main"
            ]
        );
        assert_eq!(lines[1].parse::<EntryPoint>().unwrap().to_string(), lines[1]);
    }

    #[test]
    fn a_bad_one_does_not_spoil_the_others() {
        let wrong = |lines: &[u8]| {
            let file = [b"[console_scripts]\ngood = m:f\n", lines, b"\n"].concat();
            let (points, wrong) = EntryPoints::parse(&file);
            (points.console.len(), wrong.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let one = |text: &str| (1, vec![text.to_string()]);
        assert_eq!(
            wrong(b"a = b"),
            one("entry_points.txt: a has the target \"b\", expected module:function")
        );
        assert_eq!(
            wrong(b"a = b:c();evil"),
            one("entry_points.txt: a has the target \"b:c();evil\", expected module:function")
        );
        assert_eq!(wrong(b"../a = b:c"), one("entry_points.txt: \"../a\" is no script name"));
        assert_eq!(wrong(b".. = b:c"), one("entry_points.txt: \"..\" is no script name"));
        // Of a file that cannot be read, nothing can be told.
        let none = |text: &str| (0, vec![text.to_string()]);
        assert_eq!(wrong(b"a"), none("entry_points.txt: line 3: expected \"key = value\""));
        assert_eq!(wrong(b"a\xff = b:c"), none("entry_points.txt: it is not UTF-8"));
    }
}
