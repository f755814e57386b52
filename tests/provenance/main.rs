//! Provenance against a local index with every fault one can have, and once against the real index
//! that this machine's pip is configured for.
mod faults;
mod real;
mod server;

use server::{Route, Server};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stillframe::capture::index::client::{ClientOptions, IndexClient};
use stillframe::capture::index::provenance::{Candidate, Want, find_wheels};
use stillframe::capture::index::settings::IndexSettings;
use stillframe::capture::index::sources::SettingsInput;
use stillframe::capture::index::url::IndexUrl;
use stillframe::capture::index::wheel::WheelListing;
use stillframe::formats::hex::hex;
use stillframe::formats::python::digest::base64url;
use stillframe::formats::python::record::Record;

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const FILE: &str = "demo-1.0-py3-none-any.whl";
const WHEEL: &str = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";

fn members() -> Vec<(String, Vec<u8>)> {
    let member = |name: &str, data: &[u8]| (name.to_owned(), data.to_vec());
    vec![
        member("demo/__init__.py", b"print('hello')\n"),
        member("demo/run.sh", b"#!/bin/sh\n"),
        member("demo-1.0.dist-info/METADATA", b"Name: demo\nVersion: 1.0\n"),
        member("demo-1.0.dist-info/WHEEL", WHEEL.as_bytes()),
    ]
}

fn record(members: &[(String, Vec<u8>)]) -> String {
    let mut out = String::new();
    for (name, data) in members {
        let digest = base64url(&Sha256::digest(data).into());
        out.push_str(&format!("{name},sha256={digest},{}\n", data.len()));
    }
    out + "demo-1.0.dist-info/RECORD,,\n"
}

fn wheel(members: &[(String, Vec<u8>)], record: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let mut add = |name: &str, data: &[u8]| {
        let mode = if name.ends_with(".sh") { 0o755 } else { 0o644 };
        let options = zip::write::SimpleFileOptions::default().unix_permissions(mode);
        zip.start_file(name, options).unwrap();
        zip.write_all(data).unwrap();
    };
    for (name, data) in members {
        add(name, data);
    }
    add("demo-1.0.dist-info/RECORD", record.as_bytes());
    zip.finish().unwrap().into_inner()
}

fn good() -> Vec<u8> {
    wheel(&members(), &record(&members()))
}

fn page(wheel: &[u8], size: usize) -> String {
    let sha = hex(&Sha256::digest(wheel));
    format!(
        r#"{{"meta":{{"api-version":"1.0"}},"name":"demo","files":[{{"filename":"{FILE}","url":"../../files/{FILE}","hashes":{{"sha256":"{sha}"}},"size":{size}}}]}}"#
    )
}

fn publish(server: &Server, wheel: Vec<u8>) {
    server.put("/simple/demo/", Route::new(JSON, page(&wheel, wheel.len())));
    server.put(&format!("/files/{FILE}"), Route::new("application/octet-stream", wheel));
}

fn options() -> ClientOptions {
    ClientOptions {
        connect_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(200),
        ..ClientOptions::default()
    }
}

fn client(index: &str, cache: Option<&Path>) -> IndexClient {
    let settings = IndexSettings {
        indexes: index.split_whitespace().map(|url| IndexUrl::parse(url).unwrap()).collect(),
        source: "the test".into(),
        ..IndexSettings::default()
    };
    IndexClient::new(settings, cache, options()).unwrap()
}

fn want() -> Want {
    Want {
        name: "Demo".into(),
        version: "1.0".into(),
        wheel_tags: vec!["py3-none-any".into()],
        wheel_file: Vec::new(),
        python: "cp311".into(),
        machine: "x86_64".into(),
        build: None,
        direct_url: None,
    }
}

async fn look(client: &IndexClient) -> Result<WheelListing, String> {
    match find_wheels(client, &[want()], |_, _| {}).await.pop().unwrap() {
        Candidate::Wheel(listing) => Ok(listing),
        Candidate::None(why) => Err(why.to_string()),
    }
}

async fn reason(server: &Server) -> String {
    look(&client(&format!("{}/simple", server.base), None)).await.unwrap_err()
}

#[tokio::test]
async fn good_wheel_then_warm_cache() {
    let server = Server::start().await;
    publish(&server, good());
    let cache = tempfile::tempdir().unwrap();
    let index = format!("{}/simple/", server.base);
    let cold = client(&index, Some(cache.path()));
    let listing = look(&cold).await.unwrap();
    assert_eq!(listing.file.filename, FILE);
    assert_eq!(listing.file.url, format!("{}/files/{FILE}", server.base));
    assert_eq!(listing.dist_info, "demo-1.0.dist-info");
    assert_eq!(listing.record_bytes, record(&members()).into_bytes());
    assert_eq!(listing.wheel_bytes, WHEEL.as_bytes());
    assert_eq!(listing.entries.len(), 5);
    let entry = &listing.entries["demo/__init__.py"];
    assert_eq!(entry.sha256[..], Sha256::digest(b"print('hello')\n")[..]);
    assert_eq!((entry.size, entry.executable), (15, false));
    assert_eq!(entry.crc32, crc32fast::hash(b"print('hello')\n"));
    assert!(listing.entries["demo/run.sh"].executable);
    assert_eq!(cold.stats().requests, 2);
    assert_eq!(cold.stats().range_bytes, good().len() as u64);

    let warm = client(&index, Some(cache.path()));
    assert_eq!(look(&warm).await.unwrap(), listing);
    assert_eq!(warm.stats().requests, 0);

    // Every cache file damaged: as good as cold, and repaired.
    for folder in ["files", "wheels"] {
        for entry in std::fs::read_dir(cache.path().join("python-index-v1").join(folder)).unwrap() {
            std::fs::write(entry.unwrap().path(), b"damaged").unwrap();
        }
    }
    let again = client(&index, Some(cache.path()));
    assert_eq!(look(&again).await.unwrap(), listing);
    assert_eq!(again.stats().requests, 2);
    let warm = client(&index, Some(cache.path()));
    assert_eq!(look(&warm).await.unwrap(), listing);
    assert_eq!(warm.stats().requests, 0);
}

#[tokio::test]
async fn a_large_wheel_takes_few_small_requests() {
    let server = Server::start().await;
    let mut all = members();
    // Incompressible enough, and a directory longer than the first tail.
    for i in 0..3000u32 {
        let data: Vec<u8> = (0..20).flat_map(|j| Sha256::digest((i * 100 + j).to_le_bytes())).collect();
        all.insert(0, (format!("demo/data/some_longer_name_{i}.bin"), data));
    }
    let bytes = wheel(&all, &record(&all));
    let length = bytes.len() as u64;
    publish(&server, bytes);
    let client = client(&format!("{}/simple", server.base), None);
    assert_eq!(look(&client).await.unwrap().entries.len(), 3005);
    let stats = client.stats();
    assert_eq!(stats.requests, 3, "index, tail, directory with RECORD");
    assert!(stats.range_bytes < length / 3, "{} of {length}", stats.range_bytes);
}

#[tokio::test]
async fn html_gzip_etag_and_retry() {
    let server = Server::start().await;
    let bytes = good();
    let sha = hex(&Sha256::digest(&bytes));
    publish(&server, bytes);
    let html = format!("<!DOCTYPE html><a href=\"/files/{FILE}#sha256={sha}\">{FILE}</a>");
    let route = Route { gzip: true, etag: Some("\"v1\""), failures: 1, ..Route::new("text/html", html) };
    server.put("/simple/demo/", route);
    let cache = tempfile::tempdir().unwrap();
    let index = format!("{}/simple", server.base);
    let first = client(&index, Some(cache.path()));
    assert_eq!(look(&first).await.unwrap().file.size, None);
    assert_eq!(first.stats().requests, 3, "503, index, tail");
    // A version that the cached answer lacks makes the index be asked again, by ETag.
    let second = client(&index, Some(cache.path()));
    let newer = Want { version: "2.0".into(), ..want() };
    let found = find_wheels(&second, &[newer], |_, _| {}).await;
    let Candidate::None(why) = &found[0] else { panic!("a wheel of 2.0") };
    assert_eq!(
        why.to_string(),
        "the index has no wheel Demo 2.0 for tags py3-none-any (built from an sdist?)"
    );
    let stats = second.stats();
    assert_eq!((stats.requests, stats.index_bytes), (1, 0));
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let server = Server::start().await;
    publish(&server, good());
    let bytes = good();
    let auth = Some("Basic Ym9iOnNlY3JldA==");
    let index = Route { authorization: auth, ..Route::new(JSON, page(&bytes, bytes.len())) };
    server.put("/simple/demo/", index);
    let file = Route { authorization: auth, ..Route::new("application/zip", bytes) };
    server.put(&format!("/files/{FILE}"), file);
    let cache = tempfile::tempdir().unwrap();
    let url = format!("http://bob:secret@{}/simple", server.authority);
    let with = client(&url, Some(cache.path()));
    let listing = look(&with).await.unwrap();
    assert!(!format!("{listing:?} {:?}", with.settings()).contains("secret"));
    assert_eq!(
        reason(&server).await,
        format!("the index could not be reached: {} refuses access (status 401)", server.authority)
    );
}

#[tokio::test]
async fn second_index_has_it() {
    let (empty, full) = (Server::start().await, Server::start().await);
    publish(&full, good());
    let both = client(&format!("{}/simple {}/simple", empty.base, full.base), None);
    assert!(look(&both).await.is_ok());
    assert_eq!((empty.requests(), full.requests()), (1, 2));
}
