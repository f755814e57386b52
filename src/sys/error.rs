//! The one error type of every room above `formats`: a kind, a message that names the path or
//! command, a hint that says what to do next, and a source. Display leaves the source to the printer.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// What went wrong, for exit codes and `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The user's input or configuration is at fault.
    Input,
    /// The environment cannot be captured as it is.
    Environment,
    /// There can be no client for the package index. One that does not answer ends no run.
    Index,
    /// The Nix store or daemon refused or failed.
    Store,
    /// A build failed.
    Build,
    /// A file or process operation failed.
    Io,
    /// A host cannot be reached, or refused or failed.
    Host,
    /// Another run holds the lock.
    Busy,
    /// The user asked to stop.
    Interrupted,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Input,
        Kind::Environment,
        Kind::Index,
        Kind::Store,
        Kind::Build,
        Kind::Io,
        Kind::Host,
        Kind::Busy,
        Kind::Interrupted,
    ];

    /// A stable name for `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Input => "input",
            Kind::Environment => "environment",
            Kind::Index => "index",
            Kind::Store => "store",
            Kind::Build => "build",
            Kind::Io => "io",
            Kind::Host => "host",
            Kind::Busy => "busy",
            Kind::Interrupted => "interrupted",
        }
    }
}

/// An error as our programs print it for other programs, under the key `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct Report {
    pub kind: Kind,
    pub message: String,
    pub causes: Vec<String>,
    pub hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// An error a person can act on. An error that a caller tells from others is an enum of its own module, which
/// becomes one of these where nobody asks any more.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
    /// The file or folder that it is about, where that has an absolute path.
    pub path: Option<Box<Path>>,
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None, path: None, source: None }
    }

    /// An I/O error always carries its path and the verb that failed: `io("read", path, e)`.
    pub fn io(verb: &str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let path = path.as_ref();
        let error = Error::new(Kind::Io, format!("cannot {verb} {}", path.display())).caused_by(source);
        // "standard output" and the name of a program are in the message alone.
        let error = Error { path: path.is_absolute().then(|| path.into()), ..error };
        if error.is_full() { error.hint("free space there, then run the command again") } else { error }
    }

    /// Whether there was no space to write.
    pub fn is_full(&self) -> bool {
        let source = self.source.as_deref().and_then(|source| source.downcast_ref::<std::io::Error>());
        source.is_some_and(|e| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// Of another kind: what to do about it depends on whose file or program it is.
    pub fn of_kind(self, kind: Kind) -> Self {
        Error { kind, ..self }
    }

    /// Says first what it is about.
    pub fn within(self, what: impl fmt::Display) -> Self {
        Error { message: format!("{what}: {}", self.message), ..self }
    }

    pub fn maybe_hint(self, hint: Option<String>) -> Self {
        Error { hint: hint.or(self.hint), ..self }
    }

    pub fn report(&self) -> Report {
        Report {
            kind: self.kind,
            message: self.message.clone(),
            causes: self.causes(),
            hint: self.hint.clone(),
            path: self.path.as_ref().map(|path| path.display().to_string()),
        }
    }

    /// Why, outermost cause first.
    pub fn causes(&self) -> Vec<String> {
        let first = std::error::Error::source(self);
        std::iter::successors(first, |cause| cause.source()).map(ToString::to_string).collect()
    }

    /// The message and its causes as one text: for a record, a reason or another machine. A printer shows
    /// them apart.
    pub fn full(&self) -> String {
        self.causes().into_iter().fold(self.message.clone(), |text, cause| format!("{text}: {cause}"))
    }
}

impl From<Report> for Error {
    /// Another program's error: its causes are texts now, and its path is not one of ours.
    fn from(report: Report) -> Error {
        let error = Error::new(report.kind, report.message).maybe_hint(report.hint);
        if report.causes.is_empty() { error } else { error.caused_by(report.causes.join(": ")) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_causes_only_when_asked() {
        let cause = std::io::Error::other("the disk is gone");
        let error = Error::io("read", "/p/file", cause).within("the configuration");
        assert_eq!(error.to_string(), "the configuration: cannot read /p/file");
        assert_eq!(error.full(), "the configuration: cannot read /p/file: the disk is gone");
        assert_eq!(error.path.as_deref(), Some(Path::new("/p/file")));
    }

    #[test]
    fn a_kind_is_called_the_same_everywhere() {
        assert_eq!(Kind::ALL[Kind::Interrupted as usize], Kind::Interrupted, "the last one is in the list");
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
