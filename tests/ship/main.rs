//! A transfer between two real stores: our sender, a real `stillframe-agent receive`, and the machine's Nix
//! on both ends. Over SSH it is tried on the test hosts.
#[path = "../common/mod.rs"]
mod common;
#[path = "wrong.rs"]
mod wrong;

use common::{Scratch, outcome};
use std::collections::{BTreeSet, HashMap};
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stillframe::formats::nix::nar::NarWriter;
use stillframe::formats::nix::store_path::StorePath;
use stillframe::ship::send::{Channel, Closure, Missing, Sent, missing, send, settle};
use stillframe::store::{Store, StoreConfig};
use stillframe::sys::error::{Error, Kind, Result};
use stillframe::sys::progress::Silent;

fn config(scratch: &Scratch) -> StoreConfig {
    StoreConfig { remote: Some(scratch.remote()), ..StoreConfig::default() }
}

/// Bytes that do not compress, the same for a seed each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

fn add(store: &mut Store, name: &str, bytes: &[u8], references: &BTreeSet<StorePath>) -> StorePath {
    let mut text = bytes.to_vec();
    for path in references {
        text.extend_from_slice(path.to_absolute(&store.store_dir).as_bytes());
    }
    store
        .add_tree(name, references, |out| {
            let write = || -> std::io::Result<()> {
                let mut nar = NarWriter::new(out)?;
                nar.file::<std::io::Error>(b"", false, text.len() as u64, |out| out.write_all(&text))?;
                nar.finish().map(drop)
            };
            write().map_err(|e| Error::new(Kind::Io, "write").caused_by(e))
        })
        .unwrap()
}

/// The host: a store, and the agent's state beside it.
struct Host {
    store: Scratch,
    state: Scratch,
    children: Vec<Child>,
}

/// Lets `limit` bytes through, then nothing: a connection that is cut.
struct Cut<W> {
    inner: Option<W>,
    left: u64,
    count: Arc<AtomicU64>,
}

impl<W: Write> Write for Cut<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = (bytes.len() as u64).min(self.left) as usize;
        let Some(inner) = self.inner.as_mut().filter(|_| n > 0) else {
            self.inner = None;
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        inner.write_all(&bytes[..n])?;
        self.left -= n as u64;
        self.count.fetch_add(n as u64, Ordering::SeqCst);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Host {
    fn new() -> Host {
        Host { store: Scratch::new(), state: Scratch::new(), children: Vec::new() }
    }

    fn kept(&self) -> PathBuf {
        self.state.join("incoming")
    }

    fn channel(&mut self, limit: u64, count: &Arc<AtomicU64>) -> Channel {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stillframe-agent"))
            .arg("--state")
            .arg(self.state.path())
            .arg("receive")
            .env("NIX_REMOTE", self.store.remote())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = Cut { inner: child.stdin.take(), left: limit, count: count.clone() };
        let input = child.stdout.take().unwrap();
        self.children.push(child);
        Channel { input: Box::new(BufReader::new(input)), output: Box::new(output), host: "alpha".into() }
    }

    /// All of it: plan, send, end.
    fn transfer(
        &mut self,
        from: &Scratch,
        closure: &Closure,
        streams: usize,
        limit: u64,
    ) -> (Missing, Result<Sent>, u64) {
        let count = Arc::new(AtomicU64::new(0));
        let mut channels: Vec<Channel> = (0..streams).map(|_| self.channel(limit, &count)).collect();
        let lacking = missing(&mut channels[0], "/nix/store", closure).unwrap();
        let sent = send(&config(from), closure, &lacking, &mut channels, &Silent, &|| Ok(()));
        drop(channels);
        for mut child in self.children.drain(..) {
            child.wait().unwrap();
        }
        (lacking, sent, count.load(Ordering::SeqCst))
    }

    /// Nix itself reads every file again and compares it with what is registered.
    fn check(&self, closure: &Closure) {
        let paths = closure.keys().map(|p| format!("/nix/store/{p}"));
        let checked =
            outcome(&mut self.store.nix("nix-store", ["--verify-path".to_string()].into_iter().chain(paths)));
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let mut store = Store::connect(&config(&self.store)).unwrap();
        for (path, info) in closure {
            let here = store.info(path).unwrap().unwrap();
            assert_eq!(
                (&here.nar_hash, here.nar_size, &here.references, &here.ca),
                (&info.nar_hash, info.nar_size, &info.references, &info.ca)
            );
        }
    }
}

const ALL: u64 = u64::MAX;

/// A hundred paths, each referring to some before it, and a top that needs all.
fn web(from: &Scratch) -> Closure {
    let mut store = Store::connect(&config(from)).unwrap();
    let mut all: Vec<StorePath> = Vec::new();
    for number in 0..100u64 {
        let wanted = noise(number + 7, 24);
        let references = wanted.chunks(8).filter_map(|b| {
            let at = u64::from_le_bytes(b.try_into().unwrap()) % 140;
            all.get(at as usize).cloned()
        });
        let references = references.collect();
        let bytes = noise(number, 1000 + (number as usize * 7919) % 90_000);
        all.push(add(&mut store, &format!("part-{number}"), &bytes, &references));
    }
    let top = add(&mut store, "top", b"", &all.into_iter().collect());
    store.closure(&[top]).unwrap()
}

#[test]
fn a_closure_arrives_whole_over_any_number_of_streams() {
    let from = Scratch::new();
    let closure = web(&from);
    for streams in [1, 2, 5] {
        let mut host = Host::new();
        let (lacking, sent, _) = host.transfer(&from, &closure, streams, ALL);
        assert_eq!(lacking.paths.len(), closure.len());
        let sent = sent.unwrap();
        let bytes: u64 = closure.values().map(|i| i.nar_size).sum();
        assert_eq!((sent.paths, sent.nar_bytes, sent.resumed_bytes), (101, bytes, 0));
        host.check(&closure);
        // Again: nothing.
        let (lacking, sent, wire) = host.transfer(&from, &closure, streams, ALL);
        assert_eq!((lacking.paths.len(), sent.unwrap().nar_bytes), (0, 0));
        // The question alone: a name and a hash for each path.
        assert!(wire < 20_000, "{wire}");
    }
}

#[test]
fn only_what_is_missing_is_sent() {
    let from = Scratch::new();
    let mut store = Store::connect(&config(&from)).unwrap();
    let base = add(&mut store, "base", &noise(1, 3_000_000), &BTreeSet::new());
    let one = add(&mut store, "one", b"1", &BTreeSet::from([base.clone()]));
    let two = add(&mut store, "two", b"2", &BTreeSet::from([base]));
    let mut host = Host::new();
    let closure = store.closure(&[one]).unwrap();
    host.transfer(&from, &closure, 2, ALL).1.unwrap();
    let closure = store.closure(std::slice::from_ref(&two)).unwrap();
    let (lacking, sent, wire) = host.transfer(&from, &closure, 2, ALL);
    assert_eq!(lacking.paths, [two]);
    assert_eq!(sent.unwrap().paths, 1);
    assert!(wire < 2000, "{wire}");
    host.check(&closure);
}

#[test]
fn a_cut_transfer_goes_on_behind_the_last_whole_chunk() {
    let from = Scratch::new();
    let mut store = Store::connect(&config(&from)).unwrap();
    let path = add(&mut store, "large", &noise(3, 50 << 20), &BTreeSet::new());
    let closure = store.closure(std::slice::from_ref(&path)).unwrap();
    let mut host = Host::new();
    let (_, sent, _) = host.transfer(&from, &closure, 1, 30 << 20);
    let error = sent.unwrap_err();
    assert_eq!(error.to_string(), "alpha: the connection ended during the transfer");
    assert_eq!(
        error.hint.unwrap(),
        "what arrived stays on the host: run the command again and it goes on from there"
    );
    // Seven chunks of 4 MiB went through, and a part of the eighth.
    let (lacking, sent, wire) = host.transfer(&from, &closure, 1, 10 << 20);
    assert_eq!(lacking.partial, HashMap::from([(path.clone(), 28 << 20)]));
    sent.unwrap_err();
    assert!(wire <= 10 << 20);
    let (lacking, sent, wire) = host.transfer(&from, &closure, 1, ALL);
    assert_eq!(lacking.partial[&path], 36 << 20);
    let sent = sent.unwrap();
    assert_eq!((sent.paths, sent.resumed_bytes), (1, 36 << 20));
    assert!(wire < 15 << 20, "{wire}");
    host.check(&closure);
    assert_eq!(std::fs::read_dir(host.kept()).unwrap().count(), 0);
}

#[test]
fn what_was_kept_and_damaged_is_refused_once_and_then_sent_anew() {
    let from = Scratch::new();
    let mut store = Store::connect(&config(&from)).unwrap();
    let path = add(&mut store, "large", &vec![b'a'; 40 << 20], &BTreeSet::new());
    let other = add(&mut store, "other", &vec![b'b'; 40 << 20], &BTreeSet::new());
    let closure = store.closure(std::slice::from_ref(&path)).unwrap();
    let mut host = Host::new();
    // Another path's chunks under this one's name: each is sound, together they are not this path.
    let (_, sent, _) = host.transfer(&from, &store.closure(std::slice::from_ref(&other)).unwrap(), 1, 1000);
    sent.unwrap_err();
    let kept = |path: &StorePath| host.kept().join(format!("{path}.nar"));
    std::fs::rename(kept(&other), kept(&path)).unwrap();
    let (lacking, sent, _) = host.transfer(&from, &closure, 1, ALL);
    assert!(lacking.partial[&path] > 0);
    let error = sent.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("alpha: {path}: hash mismatch importing path '/nix/store/{path}'")),
        "{error}"
    );
    let (lacking, sent, _) = host.transfer(&from, &closure, 1, ALL);
    assert_eq!(lacking.partial, HashMap::new());
    sent.unwrap();
    host.check(&closure);
}

#[test]
fn who_answers_something_else_is_told_of() {
    let from = Scratch::new();
    let closure = web(&from);
    let mut child = Command::new("sh")
        .args(["-c", "echo Welcome to alpha; cat >/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut channel = Channel {
        input: Box::new(BufReader::new(child.stdout.take().unwrap())),
        output: Box::new(child.stdin.take().unwrap()),
        host: "alpha".into(),
    };
    let error = missing(&mut channel, "/nix/store", &closure).unwrap_err();
    assert_eq!(error.to_string(), "alpha: the agent answered something else than was asked");
    assert_eq!(
        error.hint.unwrap(),
        "what is on that host's standard output at login must go: its shell prints to it"
    );
    drop(channel);
    child.wait().unwrap();
}

#[test]
fn another_version_and_another_store_are_refused() {
    let mut host = Host::new();
    let from = Scratch::new();
    let closure = web(&from);
    let count = Arc::new(AtomicU64::new(0));
    let mut channel = host.channel(ALL, &count);
    let error = missing(&mut channel, "/opt/store", &closure).unwrap_err();
    assert_eq!(
        error.to_string(),
        "alpha: the snapshot is for the store /opt/store, this host's is /nix/store"
    );
    let plan = "{\"type\":\"plan\",\"version\":99,\"store_dir\":\"/nix/store\",\"paths\":[]}\n";
    channel.output.write_all(plan.as_bytes()).unwrap();
    channel.output.flush().unwrap();
    let mut answer = String::new();
    channel.input.read_line(&mut answer).unwrap();
    assert!(answer.contains("the workstation speaks transfer version 99, this host 2"), "{answer}");
    drop(channel);
    host.children.remove(0).wait().unwrap();
}
