//! The one error type of every room above `formats`: a kind, a message that names the path or
//! command, a hint that says what to do next, and a source. Display leaves the source to the printer.
use std::fmt;
use std::path::Path;

/// What went wrong, for exit codes and `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The user's input or configuration is at fault.
    Input,
    /// The environment cannot be captured as it is.
    Environment,
    /// The package index did not answer, or answered wrongly.
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

/// An error a person can act on.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    /// An I/O error always carries its path and the verb that failed: `io("read", path, e)`.
    pub fn io(verb: &str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let full =
            matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let error = Error::new(Kind::Io, format!("cannot {verb} {}", path.as_ref().display()));
        let error = error.caused_by(source);
        if full { error.hint("free space there, then run the command again") } else { error }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
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
