//! Damaged, foreign and later files: an error that names the file, never a panic, and nothing is changed.
use super::*;
use crate::jobs::fixture::*;
use crate::jobs::store::Sort;
use std::fs;

fn refused(file: &Path) -> Error {
    Sqlite::open(file).err().expect("it opens")
}

#[test]
fn a_later_version_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    Sqlite::open(&file).unwrap().connection.pragma_update(None, "user_version", 7).unwrap();
    let before = fs::read(&file).unwrap();
    let error = refused(&file);
    assert_eq!(error.kind, Kind::Input);
    let known = schema::STEPS.len();
    assert_eq!(
        error.message,
        format!("{} is of version 7, and this stillframe knows versions up to {known}", file.display())
    );
    assert!(error.hint.unwrap().contains("stillframe jobs backup"));
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn what_is_not_ours_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (a text)").unwrap();
    let before = fs::read(&file).unwrap();
    assert_eq!(
        refused(&file).message,
        format!("{} is a database, but not one of stillframe's", file.display())
    );
    assert_eq!(fs::read(&file).unwrap(), before);

    fs::write(&file, "no database, but long enough to be one\n".repeat(100)).unwrap();
    assert_eq!(refused(&file).message, format!("{} is damaged", file.display()));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(refused(&file).message.contains("other.db"));
    let nowhere = folder.path().join("none/jobs.db");
    let error = refused(&nowhere);
    assert_eq!(error.message, format!("cannot create {}", nowhere.display()));
    assert!(error.hint.is_some());
}

/// What each thing that is done with a file says, where it fails.
fn everything(file: &Path, jobs: u64) -> Vec<Error> {
    let mut store = match Sqlite::open(file) {
        Ok(store) => store,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    errors.extend(store.open_jobs().err());
    for seq in 1..=jobs {
        errors.extend(store.job(&id(seq)).err());
        errors.extend(store.body(&id(seq)).err());
        errors.extend(store.history(&id(seq)).err());
    }
    for sort in [Sort::Accepted, Sort::Ended, Sort::Duration] {
        errors.extend(store.find(&Find { sort, ..Find::default() }).err());
    }
    errors.extend(store.write(&[accept(jobs + 1)]).err());
    errors.extend(store.write(&[dispatch(2, 1), end(2, State::Failed, 5)]).err());
    errors.extend(store.expire(&Keep { age_ms: 0, count: 3, bytes: 1 << 40 }, 1, 100).err());
    errors.extend(store.backup(&file.with_extension("copy")).err());
    errors
}

#[test]
fn a_torn_page_is_an_error_that_names_the_file() {
    const JOBS: u64 = 30;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let mut store = Sqlite::open(&file).unwrap();
    for seq in 1..=JOBS {
        store.write(&[accept(seq)]).unwrap();
        if seq % 2 == 1 {
            store.write(&[dispatch(seq, 1), end(seq, State::Succeeded, 5 + seq)]).unwrap();
        }
    }
    drop(store);
    let whole = fs::read(&file).unwrap();
    assert_eq!(everything(&file, JOBS).len(), 0);
    let (mut seen, mut damages) = (0, 0);
    for page in 0..whole.len() / 4096 {
        for damage in ["torn", "gone", "noise", "cut"] {
            let mut bytes = whole.clone();
            let at = page * 4096;
            match damage {
                // As it is when the second half of a page did not get to the disk.
                "torn" => bytes[at + 2048..at + 4096].fill(0),
                "gone" => bytes[at..at + 4096].fill(0),
                "noise" => (0..4096).for_each(|n| bytes[at + n] = ((n * n) >> 3) as u8),
                _ => bytes.truncate(at),
            }
            let damaged = tempfile::tempdir().unwrap();
            let file = damaged.path().join("jobs.db");
            fs::write(&file, bytes).unwrap();
            let errors = everything(&file, JOBS);
            damages += 1;
            seen += u32::from(!errors.is_empty());
            for error in errors {
                // Where nothing is left of a tree, its jobs are unknown.
                let unknown = error.message.starts_with("there is no job");
                let named = error.message.contains("jobs.") && error.hint.is_some();
                assert!(unknown || named, "{page} {damage}: {}", error.full());
            }
        }
    }
    // A file that is cut to nothing is a new one; half a page may have been empty.
    assert!(seen * 3 > damages * 2, "{seen} of {damages} were seen");
}

/// The log is torn where a power loss may tear it, which is behind what was synced: whole transactions up to some
/// point are there, and nothing else is.
#[test]
fn a_torn_log_ends_at_a_transaction() {
    const JOBS: u64 = 20;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let mut store = Sqlite::open(&file).unwrap();
    (1..=JOBS).step_by(2).for_each(|seq| store.write(&[accept(seq), accept(seq + 1)]).unwrap());
    let (base, log) = (fs::read(&file).unwrap(), fs::read(file.with_extension("db-wal")).unwrap());
    let mut last = 0;
    for part in 0..=16 {
        let copy = tempfile::tempdir().unwrap();
        let file = copy.path().join("jobs.db");
        fs::write(&file, &base).unwrap();
        // As long as before, with nothing behind the tear.
        let mut torn = log.clone();
        torn[log.len() * part / 16..].fill(0);
        fs::write(file.with_extension("db-wal"), torn).unwrap();
        let Ok(mut store) = Sqlite::open(&file) else {
            panic!("a torn log keeps it from opening: {part}");
        };
        let (jobs, counted) = store.open_jobs().unwrap();
        let seqs: Vec<u64> = jobs.iter().map(|job| job.seq).collect();
        assert_eq!(seqs, (1..=counted).collect::<Vec<_>>());
        assert!(counted % 2 == 0 && counted >= last, "{part}: {counted} after {last}");
        assert!(seqs.iter().all(|seq| store.body(&id(*seq)).unwrap() == Some(body(*seq))));
        last = counted;
    }
    assert_eq!(last, JOBS);
}

/// The file's own limit, which is SQLite's word for a full disk.
#[test]
fn a_full_disk_is_known_as_one_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(&folder.path().join("jobs.db")).unwrap();
    store.write(&[accept(1)]).unwrap();
    let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    store.connection.pragma_update_and_check(None, "max_page_count", pages + 2, |_| Ok(())).unwrap();
    let mut last = 1;
    let error = loop {
        match store.write(&[accept(last + 1)]) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_full() && error.kind == Kind::Io, "{error:?}");
    assert!(error.message.ends_with("jobs.db") && error.hint.is_some());
    assert_eq!(store.open_jobs().unwrap().0, (1..=last).map(job).collect::<Vec<_>>());
    store.connection.pragma_update_and_check(None, "max_page_count", 1 << 20, |_| Ok(())).unwrap();
    store.write(&[accept(last + 1)]).unwrap();
}

#[test]
fn another_process_that_writes_is_named_as_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let mut store = Sqlite::open(&file).unwrap();
    store.connection.busy_timeout(Duration::from_millis(50)).unwrap();
    let other = Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.write(&[accept(1)]).unwrap_err();
    assert_eq!((error.kind, error.message), (Kind::Busy, format!("cannot write {}", file.display())));
    assert!(error.hint.unwrap().contains("fuser"));
    other.execute_batch("ROLLBACK").unwrap();
    store.write(&[accept(1)]).unwrap();
}
