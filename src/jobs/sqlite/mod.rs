//! SQLite behind the ledger, linked in. A write-ahead log, synced at each commit: `synchronous=NORMAL` would sync only
//! now and then, and a power loss would take what a client was told is accepted.
mod beside;
mod changes;
mod deliveries;
mod failure;
mod keeping;
mod pages;
mod rows;
mod schema;

use crate::jobs::asset::{Asset, Beside, FindAsset, Used};
use crate::jobs::delivery::{Delivery, FindDeliveries};
use crate::jobs::model::{Body, History, Job, State, Time};
use crate::jobs::sqlite::failure::Failure;
use crate::jobs::sqlite::rows::Packer;
use crate::jobs::store::{Find, Keep, Store, Write};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::{fault, files};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, ffi};
use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Prompts, and what people put into them, are read by the gateway alone.
const MODE: u32 = 0o600;
/// How long another process may hold the lock: a successor opens the file when its predecessor has closed it.
const BUSY: Duration = Duration::from_secs(5);
/// Of pages, in KiB, for each connection.
const CACHE_KIB: i64 = 8 << 10;
/// What is left of the log after a burst.
const LOG_BYTES: i64 = 32 << 20;
/// There are that many statements: each order and filter of a page has its own.
const STATEMENTS: usize = 64;

pub struct Sqlite {
    connection: Connection,
    packer: Packer,
    file: PathBuf,
}

impl Sqlite {
    /// Opens a database, or makes one where there is none; its folder must be there. One of an earlier version is
    /// brought to this one, and one of a later version is not touched.
    pub fn open(file: &Path) -> Result<Sqlite> {
        make(file)?;
        let failed = |failure: Failure| failure.on("open", file);
        let packer = Packer::new().map_err(|e| Error::new(Kind::Io, "cannot start zstd").caused_by(e))?;
        let connection = connect(file).map_err(failed)?;
        Ok(Sqlite { connection, packer, file: file.into() })
    }

    fn packed<T>(
        &self,
        table: &str,
        id: &str,
        unpack: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<Option<T>> {
        let sql = format!("SELECT content FROM {table} JOIN job ON job.seq = {table}.seq WHERE job.id = ?1");
        let read = || -> Result<Option<T>, Failure> {
            let mut select = self.connection.prepare_cached(&sql)?;
            let mut found = select.query([id])?;
            found.next()?.map(|row| unpack(row.get_ref(0)?.as_blob().map_err(Failure::damaged)?)).transpose()
        };
        read().map_err(self.failed("read"))
    }

    fn failed<'a>(&'a self, verb: &'a str) -> impl Fn(Failure) -> Error + 'a {
        move |failure| failure.on(verb, &self.file)
    }
}

/// A new file is its owner's alone from the start; SQLite gives the mode to the files beside it.
fn make(file: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(MODE).open(file) {
        Ok(_) => files::sync_dir(file.parent().unwrap_or(Path::new("/"))),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let mode = std::fs::metadata(file).map_err(|e| Error::io("read", file, e))?.mode();
            if mode & 0o077 == 0 {
                return Ok(());
            }
            // A copy that somebody put back.
            std::fs::set_permissions(file, Permissions::from_mode(MODE))
                .map_err(|e| Error::io("set the mode of", file, e))
        }
        Err(e) => {
            let error = Error::io("create", file, e);
            if error.hint.is_some() {
                return Err(error);
            }
            Err(error.hint(
                "the gateway must be able to write its folder: look at its owner, its mode and its mount",
            ))
        }
    }
}

fn connect(file: &Path) -> Result<Connection, Failure> {
    // One thread has it. A name is no URI.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags)?;
    // What may not be written is opened to be read.
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None).into());
    }
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Before anything is changed.
    schema::version(&connection, schema::STEPS)?;
    // Only a file without tables takes this one.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Failure::Wrong(format!(
            "{} cannot have a write-ahead log: it is on a file system that cannot share memory",
            file.display()
        )));
    }
    // The guard that the tests take out: a power loss then takes what was accepted.
    let synchronous = if fault::is_taken_out("jobs-sync") { "OFF" } else { "FULL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A job's credentials are taken out at its end: nothing of them stays in a page that is free.
    connection.pragma_update(None, "secure_delete", true)?;
    // A damaged page is an error before it is an answer.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    schema::migrate(&mut connection, schema::STEPS)?;
    Ok(connection)
}

impl Store for Sqlite {
    fn write(&mut self, batch: &[Write]) -> Result<()> {
        let Sqlite { connection, packer, file } = self;
        let mut write = || -> Result<(), Failure> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for write in batch {
                changes::apply(&transaction, packer, write)?;
            }
            changes::count_on(&transaction, batch)?;
            Ok(transaction.commit()?)
        };
        write().map_err(|failure| failure.on("write", file))
    }

    fn open_jobs(&mut self) -> Result<(Vec<Job>, u64)> {
        let read = || -> Result<(Vec<Job>, u64), Failure> {
            let view = self.connection.unchecked_transaction()?;
            let select = format!("SELECT {} FROM job WHERE state = ?1 ORDER BY seq", rows::COLUMNS);
            let mut select = view.prepare_cached(&select)?;
            let mut jobs: Vec<Job> = Vec::new();
            for state in State::ALL.into_iter().filter(|state| !state.is_over()) {
                for job in select.query_map([state.name()], rows::job)? {
                    jobs.push(job?);
                }
            }
            jobs.sort_by_key(|job| job.seq);
            let last =
                view.query_row("SELECT value FROM counter WHERE name = 'seq'", [], |row| row.get(0))?;
            Ok((jobs, rows::uint(last)))
        };
        read().map_err(self.failed("read"))
    }

    fn job(&mut self, id: &str) -> Result<Option<Job>> {
        let read = || -> Result<Option<Job>, Failure> {
            let select = format!("SELECT {} FROM job WHERE id = ?1", rows::COLUMNS);
            Ok(self.connection.prepare_cached(&select)?.query_row([id], rows::job).optional()?)
        };
        read().map_err(self.failed("read"))
    }

    fn body(&mut self, id: &str) -> Result<Option<Body>> {
        self.packed("body", id, rows::unpack)
    }

    fn history(&mut self, id: &str) -> Result<Option<History>> {
        self.packed("history", id, rows::unpack)
    }

    fn body_text(&mut self, id: &str) -> Result<Option<String>> {
        self.packed("body", id, rows::unpacked)
    }

    fn history_text(&mut self, id: &str) -> Result<Option<String>> {
        self.packed("history", id, rows::unpacked)
    }

    fn find(&mut self, find: &Find) -> Result<(Vec<Job>, u64)> {
        pages::find(&self.connection, find).map_err(self.failed("read"))
    }

    fn deliveries(&mut self, find: &FindDeliveries) -> Result<(Vec<Delivery>, u64)> {
        deliveries::find(&self.connection, find).map_err(self.failed("read"))
    }

    fn due(&mut self, place: &str, now: Time, most: u64) -> Result<Vec<Delivery>> {
        deliveries::due(&self.connection, place, now, most).map_err(self.failed("read"))
    }

    fn counts(&mut self) -> Result<(u64, u64)> {
        deliveries::counts(&self.connection).map_err(self.failed("read"))
    }

    fn other_places(&mut self, known: &[String]) -> Result<Vec<String>> {
        deliveries::other_places(&self.connection, known).map_err(self.failed("read"))
    }

    fn expire(&mut self, keep: &Keep, now: Time, most: u64) -> Result<u64> {
        keeping::expire(&mut self.connection, keep, now, most).map_err(|f| f.on("write", &self.file))
    }

    fn backup(&mut self, to: &Path) -> Result<()> {
        keeping::backup(&self.connection, &self.file, to)
    }

    fn check(&mut self) -> Result<()> {
        keeping::check(&self.connection).map_err(self.failed("read"))
    }

    fn another(&self) -> Result<Box<dyn Store>> {
        Ok(Box::new(Sqlite::open(&self.file)?))
    }
}

impl Beside for Sqlite {
    fn assets(&mut self, find: &FindAsset) -> Result<Vec<Asset>> {
        beside::assets(&self.connection, find).map_err(self.failed("read"))
    }

    fn is_used(&mut self, asset: &str) -> Result<bool> {
        beside::is_used(&self.connection, asset).map_err(self.failed("read"))
    }

    fn used_by(&mut self, job: &str) -> Result<Vec<Used>> {
        beside::used_by(&self.connection, job).map_err(self.failed("read"))
    }

    fn claimed(&mut self, owner: &str, key: &str, now: Time) -> Result<Option<String>> {
        beside::claimed(&self.connection, owner, key, now).map_err(self.failed("read"))
    }

    fn labels(&mut self, seqs: &[u64]) -> Result<Vec<(u64, String, String)>> {
        beside::labels(&self.connection, seqs).map_err(self.failed("read"))
    }

    fn expire_assets(&mut self, keep: &Keep, now: Time, most: u64) -> Result<u64> {
        beside::expire(&mut self.connection, keep, now, most).map_err(|f| f.on("write", &self.file))
    }

    fn unknown_hashes(&mut self, hashes: &[String]) -> Result<Vec<String>> {
        beside::unknown_hashes(&self.connection, hashes).map_err(self.failed("read"))
    }
}

#[cfg(test)]
mod beside_tests;
#[cfg(test)]
mod sqlite_tests;
#[cfg(test)]
mod trouble_tests;
