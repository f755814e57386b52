//! Assets, labels and keys in a database.
use crate::jobs::asset::{Asset, Beside, CLAIMED, Claim, FindAsset};
use crate::jobs::fixture::{accept, dispatch, end, id};
use crate::jobs::model::State;
use crate::jobs::sqlite::Sqlite;
use crate::jobs::store::{Find, Keep, Store, Write};
use crate::sys::error::Kind;
use std::collections::BTreeMap;

fn open() -> (tempfile::TempDir, Sqlite) {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join("jobs.db")).unwrap();
    (folder, store)
}

fn asset(name: &str, hash: &str, touched: u64) -> Asset {
    Asset {
        id: name.into(),
        owner: "me".into(),
        hash: hash.into(),
        size: 10,
        content_type: "image/png".into(),
        file_path: Some(format!("{name}.png")),
        created: touched,
        touched,
        lasts: None,
    }
}

fn uses(seq: u64, name: &str) -> Write {
    Write::Uses { seq, assets: vec![(name.into(), format!("asset-{name}"))], at: 5 }
}

const ALL: Keep = Keep { age_ms: 1000, count: 100, bytes: 1000 };

#[test]
fn an_asset_is_found_by_whoever_has_it() {
    let (_folder, mut store) = open();
    store
        .write(&[Write::Asset(Box::new(asset("a", "h", 1))), Write::Asset(Box::new(asset("b", "h", 2)))])
        .unwrap();
    let mut find = |id: Option<&str>, hash: Option<&str>, owner: Option<&str>| {
        let text = |text: Option<&str>| text.map(String::from);
        let find = FindAsset { id: text(id), hash: text(hash), owner: text(owner) };
        let found = store.assets(&find).unwrap();
        found.into_iter().map(|asset| asset.id).collect::<Vec<_>>()
    };
    assert_eq!(find(None, Some("h"), None), ["b", "a"]);
    assert_eq!(find(Some("a"), None, Some("me")), ["a"]);
    assert!(find(Some("a"), None, Some("other")).is_empty());
    store.write(&[Write::Asset(Box::new(Asset { lasts: Some(9), ..asset("a", "h", 7) }))]).unwrap();
    let again = store.assets(&FindAsset { id: Some("a".into()), ..FindAsset::default() }).unwrap().remove(0);
    assert_eq!((again.touched, again.lasts, again.created), (7, Some(9), 1));
}

#[test]
fn what_a_job_needs_stays_until_it_has_ended() {
    let (_folder, mut store) = open();
    store.write(&[Write::Asset(Box::new(asset("a", "h", 1)))]).unwrap();
    store.write(&[accept(1), uses(1, "a")]).unwrap();
    let used = store.used_by(&id(1)).unwrap();
    assert_eq!((used.len(), used[0].hash.as_str(), used[0].name.as_str()), (1, "h", "asset-a"));
    let refused = store.write(&[Write::Discard { id: "a".into() }]).unwrap_err();
    assert_eq!(refused.kind, Kind::Input);
    assert_eq!(store.expire_assets(&Keep { count: 0, ..ALL }, 10_000, 9).unwrap(), 0);
    assert_eq!(store.unknown_hashes(&["h".into(), "x".into()]).unwrap(), ["x"]);
    store.write(&[dispatch(1, 2), end(1, State::Succeeded, 3)]).unwrap();
    assert!(!store.is_used("a").unwrap());
    assert_eq!(store.expire_assets(&Keep { count: 0, ..ALL }, 6, 9).unwrap(), 1);
    assert_eq!(store.unknown_hashes(&["h".into()]).unwrap(), ["h"]);
    // What is not there cannot be used, and the job with it is not there either.
    let refused = store.write(&[accept(2), uses(2, "a")]).unwrap_err();
    assert_eq!((refused.kind, store.job(&id(2)).unwrap()), (Kind::Input, None));
}

#[test]
fn old_ones_go_first_and_no_more_than_must() {
    let (_folder, mut store) = open();
    for (name, touched, lasts) in [("a", 1, None), ("b", 2, Some(5_000)), ("c", 3, None), ("d", 4, Some(60))]
    {
        store.write(&[Write::Asset(Box::new(Asset { lasts, ..asset(name, name, touched) }))]).unwrap();
    }
    let mut left = |keep: Keep, now: u64| {
        store.expire_assets(&keep, now, 9).unwrap();
        let found = store.assets(&FindAsset::default()).unwrap();
        found.into_iter().rev().map(|asset| asset.id).collect::<String>()
    };
    assert_eq!(left(ALL, 60), "abcd");
    assert_eq!(left(ALL, 100), "abc");
    assert_eq!(left(Keep { bytes: 20, ..ALL }, 100), "bc");
    assert_eq!(left(ALL, 2_000), "b");
}

#[test]
fn a_key_is_one_jobs_for_a_day() {
    let (_folder, mut store) = open();
    let claim = |job: &str, at| {
        Write::Claim(Box::new(Claim { owner: "me".into(), key: "k".into(), job: job.into(), at }))
    };
    store.write(&[accept(1), claim("one", 5)]).unwrap();
    assert_eq!(store.claimed("me", "k", 6).unwrap().as_deref(), Some("one"));
    assert_eq!(store.claimed("other", "k", 6).unwrap(), None);
    assert_eq!(store.write(&[accept(2), claim("two", 6)]).unwrap_err().kind, Kind::Input);
    assert_eq!(store.job(&id(2)).unwrap(), None, "half of it is written");
    assert_eq!(store.claimed("me", "k", 5 + CLAIMED).unwrap(), None);
    store.write(&[claim("three", 5 + CLAIMED)]).unwrap();
    assert_eq!(store.claimed("me", "k", 6 + CLAIMED).unwrap().as_deref(), Some("three"));
}

#[test]
fn jobs_are_found_by_their_labels() {
    let (_folder, mut store) = open();
    for seq in 1..=4u64 {
        let labels = BTreeMap::from([
            ("all".to_string(), "x".to_string()),
            ("odd".to_string(), (seq % 2).to_string()),
        ]);
        store.write(&[accept(seq), Write::Labels { seq, labels }]).unwrap();
    }
    let find = |labels: &[(&str, &str)], before| Find {
        labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        before,
        ..Find::default()
    };
    let mut seqs =
        |find: &Find| store.find(find).unwrap().0.into_iter().map(|job| job.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&find(&[("odd", "1")], None)), [3, 1]);
    assert_eq!(seqs(&find(&[("odd", "1"), ("all", "x")], Some(3))), [1]);
    assert!(seqs(&find(&[("odd", "x")], None)).is_empty());
    assert_eq!(store.labels(&[2]).unwrap(), [(2, "all".into(), "x".into()), (2, "odd".into(), "0".into())]);
    store.write(&[dispatch(2, 1), end(2, State::Succeeded, 2), Write::Forget { ids: vec![id(2)] }]).unwrap();
    assert!(store.labels(&[2]).unwrap().is_empty());
}
