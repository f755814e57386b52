//! The tables, and how those of an earlier version become those of this one. `PRAGMA user_version` says which
//! version a file is of: how many of the steps it has been through.
//!
//! The types and what is asked of them are PostgreSQL's too, which is to be the second store: SQLite takes any name
//! of a type. Nothing relies on a rowid.
use crate::jobs::sqlite::failure::Failure;
use rusqlite::{Connection, TransactionBehavior};

/// From nothing to version 1, from 1 to 2, and so on. What is here is never changed: it has made files.
pub const STEPS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3, VERSION_4];

/// `bytes` counts body and history. `duration` is 0 for what never started, as ComfyUI sorts it. What has ended has
/// indexes of its own: a page of any order is read from one, whatever the filter.
const VERSION_1: &str = "
CREATE TABLE job (
    id text NOT NULL PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    number double precision NOT NULL,
    priority integer NOT NULL,
    owner text NOT NULL,
    client text,
    workflow text,
    digest bytea NOT NULL,
    warmth bigint NOT NULL,
    retry boolean NOT NULL,
    state text NOT NULL,
    accepted bigint NOT NULL,
    dispatched bigint,
    started bigint,
    ended bigint,
    duration bigint NOT NULL,
    instance text,
    generation bigint,
    tries text NOT NULL,
    reason text,
    bytes bigint NOT NULL
);
CREATE INDEX job_by_state ON job (state, seq);
CREATE INDEX job_by_owner ON job (owner, state, seq);
CREATE INDEX job_by_workflow ON job (workflow, state, seq) WHERE workflow IS NOT NULL;
CREATE INDEX job_by_end ON job (ended, seq, bytes) WHERE ended IS NOT NULL;
CREATE INDEX job_by_state_and_end ON job (state, ended, seq) WHERE ended IS NOT NULL;
CREATE INDEX job_by_state_and_duration ON job (state, duration, seq) WHERE ended IS NOT NULL;

CREATE TABLE body (
    seq bigint NOT NULL PRIMARY KEY REFERENCES job (seq) ON DELETE CASCADE,
    content bytea NOT NULL
);
CREATE TABLE history (
    seq bigint NOT NULL PRIMARY KEY REFERENCES job (seq) ON DELETE CASCADE,
    content bytea NOT NULL
);

CREATE TABLE counter (
    name text NOT NULL PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO counter (name, value) VALUES ('seq', 0);
";

/// Files that clients put in (`asset`) and that jobs need (`used`, with what must be known of a file when its record is
/// gone), the labels that clients find jobs by, and keys for one job each.
const VERSION_2: &str = "
CREATE TABLE asset (
    id text NOT NULL PRIMARY KEY,
    owner text NOT NULL,
    hash text NOT NULL,
    size bigint NOT NULL,
    content_type text NOT NULL,
    file_path text,
    created bigint NOT NULL,
    touched bigint NOT NULL,
    lasts bigint
);
CREATE INDEX asset_by_hash ON asset (hash, owner);
CREATE INDEX asset_by_touch ON asset (touched, id);

CREATE TABLE used (
    seq bigint NOT NULL REFERENCES job (seq) ON DELETE CASCADE,
    asset text NOT NULL,
    name text NOT NULL,
    hash text NOT NULL,
    size bigint NOT NULL,
    PRIMARY KEY (seq, asset)
);
CREATE INDEX used_by_asset ON used (asset);
CREATE INDEX used_by_hash ON used (hash);

CREATE TABLE label (
    seq bigint NOT NULL REFERENCES job (seq) ON DELETE CASCADE,
    name text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (seq, name)
);
CREATE INDEX label_by_value ON label (name, value, seq);

CREATE TABLE claim (
    owner text NOT NULL,
    name text NOT NULL,
    job text NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (owner, name)
);
CREATE INDEX claim_by_age ON claim (at);
";

/// What is to be sent to others. It stands for itself: a job that is forgotten takes nothing with it that waits.
const VERSION_3: &str = "
CREATE TABLE delivery (
    id text NOT NULL PRIMARY KEY,
    job text NOT NULL,
    kind text NOT NULL,
    place text NOT NULL,
    address text,
    content text NOT NULL,
    state text NOT NULL,
    made bigint NOT NULL,
    due bigint NOT NULL,
    tries bigint NOT NULL,
    ended bigint,
    why text,
    bytes bigint
);
CREATE INDEX delivery_by_place ON delivery (state, place, due);
CREATE INDEX delivery_by_job ON delivery (job, kind, state);
CREATE INDEX delivery_by_age ON delivery (made, id);
";

/// That a job was taken back is known before its instance has ended it.
const VERSION_4: &str = "ALTER TABLE job ADD COLUMN cancelled boolean NOT NULL DEFAULT FALSE";

/// Brings a file to the version of `steps`, in one transaction.
pub fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), Failure> {
    // A version that is not known is not even locked.
    if version(connection, steps)? == steps.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been here first.
    let at = version(&transaction, steps)?;
    for step in &steps[at..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", steps.len() as i64)?;
    transaction.commit()?;
    Ok(())
}

/// How many of the steps it has been through.
pub fn version(connection: &Connection, steps: &[&str]) -> Result<usize, Failure> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = usize::try_from(found).ok().filter(|version| *version <= steps.len());
    let Some(version) = version else { return Err(Failure::Version { found, known: steps.len() }) };
    if version == 0 {
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(Failure::NotOurs);
        }
    }
    Ok(version)
}
