//! What can go wrong in a database, and what a person is told of it.
use crate::jobs::store::Damage;
use crate::sys::error::{Error, Kind};
use rusqlite::ErrorCode;
use std::io::ErrorKind;
use std::path::Path;

#[derive(Debug)]
pub enum Failure {
    Sqlite(rusqlite::Error),
    /// The file is of a version that another stillframe made.
    Version {
        found: i64,
        known: usize,
    },
    /// A database with tables that are not ours.
    NotOurs,
    /// A body or a history that is not what was written.
    Damaged(Box<dyn std::error::Error + Send + Sync>),
    /// What was asked for cannot be: it is not the disk's fault, and would fail again.
    Wrong(String),
}

impl Failure {
    pub fn damaged(cause: impl std::error::Error + Send + Sync + 'static) -> Failure {
        Failure::Damaged(Box::new(cause))
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Sqlite(error)
    }
}

impl Failure {
    /// `verb`: what was done with the file.
    pub fn on(self, verb: &str, file: &Path) -> Error {
        let path = file.display();
        let error = match self {
            Failure::Wrong(message) => return Error::new(Kind::Input, message),
            Failure::Version { found, known } => Error::new(
                Kind::Input,
                format!("{path} is of version {found}, and this stillframe knows versions up to {known}"),
            )
            .hint("deploy with the stillframe that wrote it or a later one; or put back a copy from before, made by stillframe jobs backup"),
            Failure::NotOurs => Error::new(Kind::Input, format!("{path} is a database, but not one of stillframe's"))
                .hint("move it away, and a new one is made"),
            Failure::Damaged(cause) => damaged(file, cause),
            Failure::Sqlite(error) => of_sqlite(error, verb, file),
        };
        Error { path: file.is_absolute().then(|| file.into()), ..error }
    }
}

fn of_sqlite(error: rusqlite::Error, verb: &str, file: &Path) -> Error {
    let path = file.display();
    let cannot = |kind| Error::new(kind, format!("cannot {verb} {path}"));
    match error.sqlite_error_code() {
        // As an I/O error, so that it is known as one of a full disk.
        Some(ErrorCode::DiskFull) => Error::io(verb, file, ErrorKind::StorageFull.into())
            .hint("free space there; nothing else is to be done, for it is tried again"),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(file, error.into()),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => cannot(Kind::Io)
            .caused_by(error)
            .hint("the gateway must be able to write this file, those beside it (-wal, -shm) and their folder: look at the owner, the mode and the mount"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => cannot(Kind::Busy)
            .caused_by(error)
            .hint(format!("another process writes it: fuser -v {path} on the host says which")),
        Some(ErrorCode::SystemIoFailure) => cannot(Kind::Io)
            .caused_by(error)
            .hint("the disk may be failing: journalctl -k on the host says more"),
        // A column that does not hold what we write there, an index that names a row that is not there, a table that
        // does not fit our statements or the other tables.
        None | Some(ErrorCode::ConstraintViolation | ErrorCode::Unknown) => damaged(file, error.into()),
        _ => cannot(Kind::Io).caused_by(error),
    }
}

fn damaged(file: &Path, cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(Kind::Io, format!("{} is damaged", file.display())).caused_by(Damage(cause)).hint(
        "put back a copy that stillframe jobs backup made, or move the file away with those beside it (-wal, -shm) to begin without jobs",
    )
}
