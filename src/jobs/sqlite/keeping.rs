//! What is kept of jobs that have ended, and a copy of it all.
use crate::jobs::model::Time;
use crate::jobs::sqlite::deliveries;
use crate::jobs::sqlite::failure::Failure;
use crate::jobs::sqlite::rows::{int, uint};
use crate::jobs::store::Keep;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::path::Path;

/// How many free pages go back to the file system at a time: enough to keep up with what is deleted, and soon done.
const GIVEN_BACK: i64 = 2000;

/// Deletes the oldest ends, as long as there is one too old, one too many or a byte too much.
pub fn expire(connection: &mut Connection, keep: &Keep, now: Time, most: u64) -> Result<u64, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let too_old = int(now.saturating_sub(keep.age_ms));
    let mut gone: Vec<i64> = Vec::new();
    {
        let sums = "SELECT count(*), coalesce(sum(bytes), 0) FROM job WHERE ended IS NOT NULL";
        let mut sums = transaction.prepare_cached(sums)?;
        let (mut count, mut bytes) = sums.query_row([], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
        let oldest = "SELECT seq, ended, bytes FROM job WHERE ended IS NOT NULL ORDER BY ended, seq LIMIT ?1";
        let mut oldest = transaction.prepare_cached(oldest)?;
        let mut rows = oldest.query([int(most.min(i64::MAX as u64))])?;
        while let Some(row) = rows.next()? {
            let (seq, ended, size): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if ended >= too_old && count <= keep.count && bytes <= keep.bytes {
                break;
            }
            gone.push(seq);
            count -= 1;
            bytes = bytes.saturating_sub(uint(size));
        }
    }
    if gone.is_empty() {
        return Ok(0);
    }
    {
        let mut over = transaction.prepare_cached(deliveries::FORGET_OF_SEQ)?;
        let mut delete = transaction.prepare_cached("DELETE FROM job WHERE seq = ?1")?;
        for seq in &gone {
            over.execute([seq])?;
            delete.execute([seq])?;
        }
    }
    transaction.commit()?;
    give_back(connection)?;
    Ok(gone.len() as u64)
}

/// What was deleted is used again; a file whose better part is free is made smaller.
fn give_back(connection: &Connection) -> Result<(), Failure> {
    let pages = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pages("freelist_count")? * 2 > pages("page_count")? {
        // It does a page with each row that it answers.
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({GIVEN_BACK})"))?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
    }
    Ok(())
}

/// Each page of each tree; what an index says of a row is not compared with it.
pub fn check(connection: &Connection) -> Result<(), Failure> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(Failure::Damaged(found.into())) }
}

/// As of one moment, while others write. Whole or not there at all: SQLite does not sync what it makes.
pub fn backup(connection: &Connection, file: &Path, to: &Path) -> Result<()> {
    let there = || {
        Error::new(Kind::Input, format!("{} is there already", to.display()))
            .hint("name a file that is not there yet")
    };
    if to.symlink_metadata().is_ok() {
        return Err(there());
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Private, as the database is.
    let copy = tempfile::Builder::new()
        .prefix(".stillframe-")
        .tempfile_in(folder)
        .map_err(|e| Error::io("create a temporary file in", folder, e))?;
    let Some(name) = copy.path().to_str() else {
        return Err(Error::new(Kind::Input, format!("{} is not UTF-8", folder.display())));
    };
    connection.execute("VACUUM INTO ?1", [name]).map_err(|e| match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::DatabaseBusy) => Failure::from(e).on("copy", file),
        _ => {
            Failure::from(e).on("write", to).hint("nothing is left of the copy: make it where there is space")
        }
    })?;
    let written = std::fs::File::open(copy.path()).and_then(|file| file.sync_all());
    written.map_err(|e| Error::io("sync", copy.path(), e))?;
    copy.persist_noclobber(to).map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => there(),
        _ => Error::io("create", to, e.error),
    })?;
    files::sync_dir(folder)
}
