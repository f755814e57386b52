//! Values that configuration only points to: secrets and keys. Read when they are needed, shown never.
use crate::ship::config::ValueConfig;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::process;
use std::path::Path;
use std::time::Duration;

/// A command may ask a vault, which may ask a person.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// `what` and `origin` are for messages: which value, and the file that points to it.
pub fn resolve(value: &ValueConfig, what: &str, origin: &Path) -> Result<String> {
    let wrong = |why: String| Error::new(Kind::Input, format!("{}: {what} {why}", origin.display()));
    let folder = origin.parent().unwrap_or(Path::new("."));
    match (&value.env, &value.file, &value.command) {
        (Some(name), None, None) => std::env::var(name).ok().filter(|v| !v.is_empty()).ok_or_else(|| {
            wrong(format!("comes from the variable {name}, which is not set"))
                .hint(format!("set it before the command: {name}=… stillframe deploy"))
        }),
        (None, Some(file), None) => {
            let path = folder.join(file);
            let text = files::read_text(&path).map_err(|e| e.of_kind(Kind::Input))?;
            let text = text.strip_suffix('\n').unwrap_or(&text).to_string();
            if text.is_empty() {
                Err(wrong(format!("comes from {}, which is empty", path.display())))
            } else {
                Ok(text)
            }
        }
        (None, None, Some(words)) if !words.is_empty() => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let text = String::from_utf8(process::must_in_front(&words, COMMAND_LIMIT)?)
                .map_err(|_| wrong("comes from a command whose output is not UTF-8".into()))?;
            Ok(text.strip_suffix('\n').unwrap_or(&text).to_string())
        }
        _ => Err(wrong("needs exactly one of env, file and command".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn one_place_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let origin = dir.path().join("stillframe.toml");
        std::fs::write(dir.path().join("token"), "s3cret\n").unwrap();
        std::fs::write(dir.path().join("empty"), "\n").unwrap();
        let file = |name: &str| ValueConfig { file: Some(PathBuf::from(name)), ..ValueConfig::default() };
        let shown = |value: &ValueConfig| {
            resolve(value, "service.secrets.T", &origin)
                .map_err(|e| e.to_string().replace(&dir.path().display().to_string(), ""))
        };
        assert_eq!(shown(&file("token")).unwrap(), "s3cret");
        assert_eq!(
            shown(&file("empty")).unwrap_err(),
            "/stillframe.toml: service.secrets.T comes from /empty, which is empty"
        );
        assert_eq!(shown(&file("none")).unwrap_err(), "cannot read /none");
        let command = |words: &[&str]| ValueConfig {
            command: Some(words.iter().map(|w| (*w).to_string()).collect()),
            ..ValueConfig::default()
        };
        assert_eq!(shown(&command(&["echo", "from a vault"])).unwrap(), "from a vault");
        assert!(shown(&command(&["false"])).unwrap_err().contains("`false` ended with status 1"));
        let none = ValueConfig { env: Some("NO_SUCH_VARIABLE_HERE".into()), ..ValueConfig::default() };
        assert_eq!(
            shown(&none).unwrap_err(),
            "/stillframe.toml: service.secrets.T comes from the variable NO_SUCH_VARIABLE_HERE, which is not set"
        );
        let both = ValueConfig { env: Some("A".into()), ..file("token") };
        let text = "/stillframe.toml: service.secrets.T needs exactly one of env, file and command";
        assert_eq!(shown(&both).unwrap_err(), text);
        assert_eq!(shown(&ValueConfig::default()).unwrap_err(), text);
    }
}
