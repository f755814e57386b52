//! What is on a host already, but is not what the workstation has.
use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use stillframe::formats::nix::hash::Sha256;
use stillframe::formats::nix::nar::Hashing;
use stillframe::store::PathInfo;

impl Host {
    fn file(&self, path: &StorePath) -> PathBuf {
        self.store.physical(&format!("/nix/store/{path}"))
    }

    /// What a plan finds wrong.
    fn wrong(&mut self, closure: &Closure) -> BTreeSet<StorePath> {
        let mut channel = self.channel(ALL, &Arc::new(AtomicU64::new(0)));
        missing(&mut channel, "/nix/store", closure).unwrap().wrong
    }

    fn marks(&self) -> String {
        fs::read_to_string(self.state.join("verified.json")).unwrap_or_default()
    }

    fn damage(&self, path: &StorePath, text: &[u8]) {
        damage(&self.file(path), text);
    }
}

/// As something that goes past the daemon writes.
fn damage(file: &Path, text: &[u8]) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o444)).unwrap();
}

/// The workstation's own store was written to, before the transfer or while it goes on: shorter, longer, or other bytes.
#[test]
fn a_path_that_was_written_to_is_named_and_not_sent() {
    let other = noise(2, 100_000);
    for text in [&b"short"[..], &noise(1, 200_000), &other] {
        for meanwhile in [false, true] {
            let from = Scratch::new();
            let (closure, all) = three(&from);
            let file = from.physical(&format!("/nix/store/{}", all[0]));
            let done = std::sync::Once::new();
            if !meanwhile {
                done.call_once(|| damage(&file, text));
            }
            let check = || {
                done.call_once(|| damage(&file, text));
                Ok(())
            };
            let mut host = Host::new();
            let count = Arc::new(AtomicU64::new(0));
            let mut channels = [host.channel(ALL, &count)];
            let lacking = missing(&mut channels[0], "/nix/store", &closure).unwrap();
            let asked = count.load(Ordering::SeqCst);
            let error = send(&config(&from), &closure, &lacking, &mut channels, &Silent, &check).unwrap_err();
            let sent = count.load(Ordering::SeqCst) - asked;
            drop(channels);
            host.children.drain(..).for_each(|mut child| {
                child.wait().unwrap();
            });
            let path = format!("/nix/store/{}", all[0]);
            assert_eq!(
                (error.kind, error.message),
                (
                    Kind::Store,
                    format!(
                        "{path} was written to after Nix had registered it: the first file that differs is {}",
                        file.display()
                    )
                )
            );
            assert!(error.hint.unwrap().contains("`stillframe snapshot`"));
            assert!(meanwhile || sent == 0, "{sent} bytes");
            let mut store = Store::connect(&config(&host.store)).unwrap();
            assert_eq!(store.valid(&closure.keys().cloned().collect()).unwrap(), BTreeSet::new());
        }
    }
}

fn three(from: &Scratch) -> (Closure, Vec<StorePath>) {
    let mut store = Store::connect(&config(from)).unwrap();
    let base = add(&mut store, "base", &noise(1, 100_000), &BTreeSet::new());
    let part = add(&mut store, "part", b"part", &BTreeSet::from([base.clone()]));
    let top = add(&mut store, "top", b"top", &BTreeSet::from([base.clone(), part.clone()]));
    (store.closure(std::slice::from_ref(&top)).unwrap(), vec![base, part, top])
}

fn nar(text: &[u8], out: &mut dyn Write) -> std::io::Result<()> {
    let mut nar = NarWriter::new(out)?;
    nar.file::<std::io::Error>(b"", false, text.len() as u64, |out| out.write_all(text))?;
    nar.finish().map(drop)
}

/// A path that is not content-addressed: only a word from elsewhere says what it must be.
fn input_addressed(to: &Scratch, name: &str, text: &[u8], references: &BTreeSet<StorePath>) -> StorePath {
    let path = StorePath::from_base_name(&format!("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-{name}")).unwrap();
    let mut hashing = Hashing::default();
    nar(text, &mut hashing).unwrap();
    let (nar_hash, nar_size): (Sha256, u64) = hashing.finish();
    let info =
        PathInfo { nar_hash, nar_size, references: references.clone(), deriver: None, ca: String::new() };
    let mut store = Store::connect(&config(to)).unwrap();
    let write = |out: &mut dyn Write| nar(text, out).map_err(|e| Error::new(Kind::Io, "write").caused_by(e));
    store.add_nar(&path, &info, false, write).unwrap();
    path
}

/// A power cut leaves empty files that the database calls valid.
#[test]
fn what_never_reached_the_disk_is_found_and_mended() {
    let from = Scratch::new();
    let (closure, paths) = three(&from);
    let mut host = Host::new();
    host.transfer(&from, &closure, 2, ALL).1.unwrap();
    host.damage(&paths[0], b"");
    host.damage(&paths[2], b"tip");
    fs::remove_file(host.file(&paths[1])).unwrap();
    // Whatever was remembered of them is of other files.
    let (lacking, sent, _) = host.transfer(&from, &closure, 2, ALL);
    assert_eq!(lacking.wrong, paths.iter().cloned().collect());
    assert_eq!(sent.unwrap().paths, 3);
    host.check(&closure);
    assert_eq!(host.wrong(&closure), BTreeSet::new());
}

#[test]
fn a_path_is_compared_once() {
    let from = Scratch::new();
    let (closure, paths) = three(&from);
    let mut host = Host::new();
    let count = Arc::new(AtomicU64::new(0));
    let mut channels = vec![host.channel(ALL, &count)];
    let lacking = missing(&mut channels[0], "/nix/store", &closure).unwrap();
    send(&config(&from), &closure, &lacking, &mut channels, &Silent, &|| Ok(())).unwrap();
    assert_eq!(host.marks(), "", "nothing is remembered before it is on disk");
    settle(&mut channels[0], &lacking.paths).unwrap();
    let marks = host.marks();
    assert!(marks.starts_with("{\"version\":1,"), "{marks}");
    assert!(paths.iter().all(|path| marks.contains(&path.to_string())), "{marks}");
    assert_eq!(host.wrong(&closure), BTreeSet::new());
    assert_eq!(host.marks(), marks);
    // The same name with other files is another thing.
    host.damage(&paths[0], b"other");
    assert_eq!(host.wrong(&closure), BTreeSet::from([paths[0].clone()]));
    // A record that cannot be read costs time alone.
    for text in ["", "{", "{\"version\":99,\"paths\":{}}"] {
        fs::write(host.state.join("verified.json"), text).unwrap();
        assert_eq!(host.wrong(&closure), BTreeSet::from([paths[0].clone()]), "{text}");
    }
    assert!(!host.marks().contains(&paths[0].to_string()));
    assert!(host.marks().contains(&paths[1].to_string()));
}

/// What a cache gave that nobody's key speaks for: Nix has hashed it, and believes the cache.
#[test]
fn what_came_from_elsewhere_is_what_the_workstation_has_or_is_replaced() {
    let from = Scratch::new();
    let base = add(&mut Store::connect(&config(&from)).unwrap(), "base", b"base", &BTreeSet::new());
    let references = BTreeSet::from([base.clone()]);
    let path = input_addressed(&from, "environment", b"right", &references);
    let closure = Store::connect(&config(&from)).unwrap().closure(std::slice::from_ref(&path)).unwrap();
    let lies: [(&[u8], &BTreeSet<StorePath>); 2] = [(b"wrong", &references), (b"right", &BTreeSet::new())];
    for (text, said) in lies {
        let mut host = Host::new();
        add(&mut Store::connect(&config(&host.store)).unwrap(), "base", b"base", &BTreeSet::new());
        input_addressed(&host.store, "environment", text, said);
        let (lacking, sent, _) = host.transfer(&from, &closure, 1, ALL);
        assert_eq!((lacking.paths, lacking.wrong), (vec![path.clone()], BTreeSet::from([path.clone()])));
        sent.unwrap();
        assert_eq!(fs::read(host.file(&path)).unwrap(), b"right");
        host.check(&closure);
    }
}

/// Two deployments found it at once; the second must not write what runs by now.
#[test]
fn what_somebody_else_mended_is_not_written_again() {
    let from = Scratch::new();
    let (closure, paths) = three(&from);
    let mut host = Host::new();
    host.transfer(&from, &closure, 1, ALL).1.unwrap();
    host.damage(&paths[0], b"");
    let count = Arc::new(AtomicU64::new(0));
    let mut channels = vec![host.channel(ALL, &count)];
    let lacking = missing(&mut channels[0], "/nix/store", &closure).unwrap();
    assert_eq!(lacking.wrong, BTreeSet::from([paths[0].clone()]));
    let mut other = vec![host.channel(ALL, &count)];
    let seen = missing(&mut other[0], "/nix/store", &closure).unwrap();
    send(&config(&from), &closure, &seen, &mut other, &Silent, &|| Ok(())).unwrap();
    let inode = fs::metadata(host.file(&paths[0])).unwrap().ino();
    send(&config(&from), &closure, &lacking, &mut channels, &Silent, &|| Ok(())).unwrap();
    settle(&mut channels[0], &lacking.paths).unwrap();
    assert_eq!(fs::metadata(host.file(&paths[0])).unwrap().ino(), inode);
    host.check(&closure);
}

/// Its files went between the last byte and the end.
#[test]
fn what_did_not_arrive_is_not_settled() {
    let from = Scratch::new();
    let (closure, paths) = three(&from);
    let mut host = Host::new();
    let count = Arc::new(AtomicU64::new(0));
    let mut channel = host.channel(ALL, &count);
    missing(&mut channel, "/nix/store", &closure).unwrap();
    let error = settle(&mut channel, &paths).unwrap_err().to_string();
    assert!(
        error.starts_with("alpha: ")
            && error.contains(" and 2 more did not arrive as the workstation has it")
    );
    assert!(!host.marks().contains("base"));
}
