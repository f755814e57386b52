//! `entry_points.txt`: the scripts an installer writes (`console_scripts`, `gui_scripts`).
use super::ini::{Ini, IniError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryPointsError {
    #[error("entry_points.txt: {0}")]
    Ini(#[from] IniError),
    #[error("entry_points.txt: {0} has the target {1:?}, expected module:function")]
    Target(String, String),
    #[error("entry_points.txt: {0:?} is no script name")]
    Name(String),
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
    pub fn parse(text: &str) -> Result<Self, EntryPointsError> {
        let ini = Ini::parse(text, &['='])?;
        Ok(EntryPoints { console: scripts(&ini, "console_scripts")?, gui: scripts(&ini, "gui_scripts")? })
    }
}

fn scripts(ini: &Ini, section: &str) -> Result<Vec<EntryPoint>, EntryPointsError> {
    ini.entries(section).map(|(name, value)| script(name, value)).collect()
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
        let e = EntryPoints::parse(
            "[console_scripts]\nf2py = numpy.f2py.f2py2e:main\ntorchrun=torch.distributed.run:main [x]\n\n[gui_scripts]\nidle = idlelib:App.run\n[pyinstaller40]\nhook-dirs = numpy:_hook\n",
        )
        .unwrap();
        assert_eq!(e.console.len(), 2);
        assert_eq!(e.console[1].module, "torch.distributed.run");
        assert_eq!(e.console[1].function, "main");
        assert_eq!(e.gui[0].function, "App.run");
    }

    #[test]
    fn errors() {
        let text = |s: &str| {
            let file = format!("[console_scripts]\n{s}\n");
            EntryPoints::parse(&file).unwrap_err().to_string()
        };
        assert_eq!(text("a"), "entry_points.txt: line 2: expected \"key = value\"");
        assert_eq!(text("a = b"), "entry_points.txt: a has the target \"b\", expected module:function");
        assert_eq!(
            text("a = b:c();evil"),
            "entry_points.txt: a has the target \"b:c();evil\", expected module:function"
        );
        assert_eq!(text("../a = b:c"), "entry_points.txt: \"../a\" is no script name");
    }
}
