use crate::jobs::delivery::{Delivery, FindDeliveries, Kind, State, Tried};
use crate::jobs::fixture::*;
use crate::jobs::model;
use crate::jobs::sqlite::{Sqlite, schema};
use crate::jobs::store::{Keep, Store, Write};
use rusqlite::Connection;
use serde_json::json;

fn open(folder: &tempfile::TempDir) -> Sqlite {
    Sqlite::open(&folder.path().join("jobs.db")).unwrap()
}

fn webhook(name: &str, job: u64, at: u64) -> Delivery {
    Delivery::new(name.into(), &id(job), Kind::Webhook, "webhook", json!({"type": "job.succeeded"}), at)
}

fn upload(name: &str, job: u64, at: u64) -> Delivery {
    Delivery { kind: Kind::Upload, place: "upload".into(), ..webhook(name, job, at) }
}

fn deliver(delivery: &Delivery) -> Write {
    Write::Deliver(Box::new(delivery.clone()))
}

fn tried(name: &str, state: State, due: u64) -> Write {
    let why = (state != State::Delivered).then(|| "it answered 500".to_string());
    Write::Tried(Tried { id: name.into(), state, at: 90, due, why, bytes: None })
}

fn ids(found: Vec<Delivery>) -> Vec<String> {
    found.into_iter().map(|delivery| delivery.id).collect()
}

fn state(store: &mut Sqlite, name: &str) -> State {
    let find = FindDeliveries { ids: vec![name.into()], ..FindDeliveries::default() };
    store.deliveries(&find).unwrap().0.remove(0).state
}

#[test]
fn it_is_written_with_the_end_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    let (end, tell) = (end(1, model::State::Succeeded, 50), deliver(&webhook("m1", 1, 50)));
    store.write(&[accept(1), dispatch(1, 10)]).unwrap();
    // The end of a job that is not there takes what it would tell with it.
    let other = Write::End { id: id(9), state: model::State::Failed, at: 1, reason: None, history: None };
    assert!(store.write(&[deliver(&webhook("m9", 9, 1)), other]).is_err());
    store.write(&[end, tell.clone()]).unwrap();
    // Twice is once.
    store.write(&[tell]).unwrap();
    drop(store);
    let mut store = open(&folder);
    assert_eq!(store.due("webhook", 50, 10).unwrap(), [webhook("m1", 1, 50)]);
    assert!(
        store.due("webhook", 49, 10).unwrap().is_empty() && store.due("upload", 50, 10).unwrap().is_empty()
    );
    assert_eq!(store.counts().unwrap(), (1, 0));
}

#[test]
fn tries_and_a_second_life() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1), accept(2)]).unwrap();
    store
        .write(&[deliver(&webhook("a", 1, 1)), deliver(&webhook("b", 2, 2)), tried("a", State::Waiting, 100)])
        .unwrap();
    assert_eq!(ids(store.due("webhook", 99, 10).unwrap()), ["b"]);
    assert_eq!(ids(store.due("webhook", 100, 10).unwrap()), ["b", "a"]);
    store.write(&[tried("a", State::Failed, 0), tried("b", State::Delivered, 0)]).unwrap();
    assert_eq!(store.counts().unwrap(), (0, 1));
    let find = FindDeliveries { states: vec![State::Failed], ..FindDeliveries::default() };
    let (found, all) = store.deliveries(&find).unwrap();
    assert_eq!((found[0].tries, found[0].ended, all), (2, Some(90), 1));
    assert_eq!(found[0].why.as_deref(), Some("it answered 500"));
    store.write(&[Write::Redeliver { ids: vec!["b".into()], at: 200 }]).unwrap();
    assert_eq!(store.counts().unwrap(), (0, 1), "what was delivered is not sent again");
    store.write(&[Write::Redeliver { ids: vec!["a".into()], at: 200 }]).unwrap();
    assert_eq!(store.due("webhook", 200, 10).unwrap()[0].tries, 0);
    store.write(&[tried("a", State::Waiting, 900)]).unwrap();
    store.write(&[Write::Redeliver { ids: vec!["a".into()], at: 300 }]).unwrap();
    let due = store.due("webhook", 300, 10).unwrap();
    assert_eq!((due[0].tries, due[0].made), (1, 200), "one that waits is only tried sooner");
}

#[test]
fn a_receiver_that_is_gone_hears_no_more_of_that_job() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1), accept(2)]).unwrap();
    let own = Delivery { address: Some("https://h/own".into()), ..webhook("own", 1, 1) };
    store
        .write(&[webhook("a", 1, 1), webhook("b", 1, 1), own, webhook("c", 2, 1)].map(|d| deliver(&d)))
        .unwrap();
    store.write(&[tried("a", State::Gone, 0), deliver(&webhook("later", 1, 5))]).unwrap();
    assert_eq!(
        ["a", "b", "own", "c"].map(|name| state(&mut store, name)),
        [State::Gone, State::Gone, State::Waiting, State::Waiting]
    );
    assert_eq!(store.deliveries(&FindDeliveries::default()).unwrap().1, 4);
    assert_eq!(store.other_places(&["webhook".into()]).unwrap(), Vec::<String>::new());
    assert_eq!(store.other_places(&[]).unwrap(), ["webhook"]);
}

#[test]
fn a_webhook_waits_for_its_jobs_uploads_and_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1), accept(2)]).unwrap();
    store
        .write(&[webhook("m", 1, 10), upload("u", 1, 10), webhook("n", 2, 10)].map(|d| deliver(&d)))
        .unwrap();
    assert_eq!(ids(store.due("webhook", 20, 9).unwrap()), ["n"]);
    assert_eq!(ids(store.due("webhook", 20 + super::FOR_UPLOADS, 9).unwrap()), ["m", "n"]);
    store.write(&[tried("u", State::Waiting, 9), tried("u", State::Waiting, 9)]).unwrap();
    assert_eq!(store.due("webhook", 20, 9).unwrap().len(), 1);
    store.write(&[tried("u", State::Waiting, 9)]).unwrap();
    assert_eq!(store.due("webhook", 20, 9).unwrap().len(), 2, "one that fails holds nothing up");
    store.write(&[tried("u", State::Delivered, 0)]).unwrap();
    assert_eq!(store.due("webhook", 20, 9).unwrap().len(), 2);
}

#[test]
fn what_is_over_goes_with_its_job_and_what_waits_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    let over = |n: u64| [accept(n), dispatch(n, 1), end(n, model::State::Succeeded, 5)];
    store.write(&[over(1), over(2)].concat()).unwrap();
    let names = ["w1", "d1", "w2", "d2"];
    store
        .write(&[("w1", 1), ("d1", 1), ("w2", 2), ("d2", 2)].map(|(n, j)| deliver(&webhook(n, j, 5))))
        .unwrap();
    store.write(&[tried("d1", State::Delivered, 0), tried("d2", State::Failed, 0)]).unwrap();
    store.write(&[Write::Forget { ids: vec![id(1)] }]).unwrap();
    assert_eq!(store.expire(&Keep { age_ms: 0, count: 0, bytes: 0 }, 1000, 100).unwrap(), 1);
    let mut left = ids(store.deliveries(&FindDeliveries::default()).unwrap().0);
    left.sort();
    assert_eq!(left, [names[0], names[2]]);
}

/// A file of version `at`, as an earlier program left it.
fn earlier(folder: &tempfile::TempDir, at: usize) -> Connection {
    let mut connection = Connection::open(folder.path().join("jobs.db")).unwrap();
    schema::migrate(&mut connection, &schema::STEPS[..at]).unwrap();
    assert_eq!(schema::version(&connection, schema::STEPS).unwrap(), at);
    let insert = "INSERT INTO job (id, seq, number, priority, owner, digest, warmth, retry, state, accepted, duration, \
                  tries, bytes) VALUES (?1, 1, 1.0, 0, 'o', ?2, 0, 1, 'queued', 7, 0, '[]', 0)";
    connection.execute(insert, rusqlite::params![id(1), vec![0u8; 32]]).unwrap();
    connection.execute("UPDATE counter SET value = 1", []).unwrap();
    connection
}

fn has_all_its_jobs(store: &mut Sqlite) {
    let (jobs, last) = store.open_jobs().unwrap();
    assert_eq!((jobs.len(), jobs[0].accepted, last), (1, 7, 1));
    assert_eq!(schema::version(&store.connection, schema::STEPS).unwrap(), schema::STEPS.len());
    store.write(&[deliver(&webhook("a", 1, 1))]).unwrap();
    assert_eq!(store.counts().unwrap(), (1, 0));
}

#[test]
fn a_file_of_version_1_becomes_one_of_this_version_with_all_its_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let connection = earlier(&folder, 1);
    assert!(connection.prepare("SELECT id FROM asset").is_err());
    drop(connection);
    let mut store = open(&folder);
    has_all_its_jobs(&mut store);
    assert!(store.connection.prepare("SELECT id FROM asset").is_ok());
}

#[test]
fn a_file_of_version_2_becomes_one_of_this_version_with_all_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let connection = earlier(&folder, 2);
    assert!(connection.prepare("SELECT id FROM delivery").is_err());
    let asset = "INSERT INTO asset (id, owner, hash, size, content_type, created, touched) \
                 VALUES ('a', 'o', 'h', 3, 'image/png', 5, 5)";
    connection.execute(asset, []).unwrap();
    connection.execute("INSERT INTO label (seq, name, value) VALUES (1, 'n', 'v')", []).unwrap();
    connection.execute("INSERT INTO claim (owner, name, job, at) VALUES ('o', 'k', ?1, 5)", [id(1)]).unwrap();
    drop(connection);
    let mut store = open(&folder);
    has_all_its_jobs(&mut store);
    for table in ["asset", "label", "claim"] {
        let count = format!("SELECT count(*) FROM {table}");
        let all: i64 = store.connection.query_row(&count, [], |row| row.get(0)).unwrap();
        assert_eq!(all, 1, "{table}");
    }
}

#[test]
fn a_file_of_version_3_becomes_one_of_this_version_with_nothing_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let connection = earlier(&folder, 3);
    assert!(connection.prepare("SELECT cancelled FROM job").is_err());
    drop(connection);
    let mut store = open(&folder);
    has_all_its_jobs(&mut store);
    assert!(!store.open_jobs().unwrap().0[0].cancelled);
}
