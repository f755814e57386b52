//! Paths: added, asked for, read back, kept and collected.
use crate::common::{Deaf, line, lines, stdout};
use crate::host::{Host, add_text, on_both, told};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use stillframe::capture::trees::nar::write_tree;
use stillframe::capture::trees::tree::{Entry, Source, Tree};
use stillframe::formats::nix::hash::Sha256;
use stillframe::formats::nix::nar;
use stillframe::formats::nix::store_path::{StoreDir, StorePath, source_path, text_path};
use stillframe::store::{PathInfo, Store, Text};
use stillframe::sys::error::{Error, Kind};

on_both! {
    what_goes_in_comes_out
    the_daemon_writes_while_it_reads
    texts_go_ahead_of_their_answers
    roots_hold_and_the_rest_goes
    roots_of_what_does_not_exist
    paths_are_deleted_one_by_one
    refused_uploads
    an_upload_that_we_break_off
    an_archive_that_we_do_not_read
    a_path_whose_files_are_gone
}

fn nar_of(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_tree(tree, &mut bytes).unwrap();
    bytes
}

fn file(text: &str) -> Tree {
    Tree::single_file(Source::Bytes(text.as_bytes().into()), false)
}

fn set<const N: usize>(paths: [&StorePath; N]) -> BTreeSet<StorePath> {
    paths.into_iter().cloned().collect()
}

fn add(store: &mut Store, name: &str, tree: &Tree, references: [&StorePath; 0]) -> StorePath {
    store.add_tree(name, &set(references), |out| write_tree(tree, out)).unwrap()
}

/// A path that no store has.
fn nowhere() -> StorePath {
    StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-nowhere").unwrap()
}

fn not_there(path: &StorePath) -> String {
    let path = path.to_absolute(&StoreDir::default());
    format!("Store: {path} is not in the store (hint: it was deleted since: take the snapshot again)")
}

fn read_all(store: &mut Store, path: &StorePath, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    store
        .nar(path, |input| {
            input.take(size).read_to_end(&mut bytes).unwrap();
            Ok(())
        })
        .unwrap();
    bytes
}

/// With its own settings it holds an archive of up to 32 MiB in memory first.
fn the_daemon_writes_while_it_reads(host: &Host) {
    const MIB: usize = 1 << 20;
    let mut store = host.store();
    let mut tree = Tree::default();
    (0..96).for_each(|i| tree.bytes(format!("{i}"), vec![7; MIB / 4], false));
    add(&mut store, "small", &file("x"), []);
    let before = host.peak_memory();
    add(&mut store, "big", &tree, []);
    let grown = host.peak_memory() - before;
    assert!(grown < 8 * MIB, "{} MiB more for an archive of 24", grown / MIB);
}

fn what_goes_in_comes_out(host: &Host) {
    let mut store = host.store();
    let dir = StoreDir::default();
    let said = line(&mut host.nix(&["nix-store", "--version"]));
    assert_eq!(said.rsplit(' ').next(), Some(store.version.as_str()));

    let mut tree = Tree::default();
    // Larger than a frame, a buffer and a pipe.
    tree.bytes("big", vec![7; 1_500_000], true);
    tree.bytes("caf\u{e9}\n", &b"x"[..], false);
    tree.insert(&b"\xff"[..], Entry::Symlink(b"../\xfe".to_vec()));
    tree.insert("empty", Entry::Directory);
    let bytes = nar_of(&tree);
    let hash = Sha256::of(&bytes);
    let one = add(&mut store, "one", &tree, []);
    assert_eq!(Ok(&one), source_path(&dir, "one", &hash, &BTreeSet::new()).as_ref());
    // All in one write, and again: it is there already.
    let again = store.add_tree("one", &BTreeSet::new(), |out| {
        out.write_all(&bytes).unwrap();
        Ok(())
    });
    assert_eq!(again.unwrap(), one);
    let info = store.info(&one).unwrap().unwrap();
    assert_eq!((info.nar_hash, info.nar_size), (hash, bytes.len() as u64));
    assert_eq!((info.references, info.deriver), (BTreeSet::new(), None));
    assert_eq!(info.ca, format!("fixed:r:sha256:{}", hash.to_base32()));
    assert!(read_all(&mut store, &one, bytes.len() as u64) == bytes);

    // What refers to it, as a tree and as a text.
    let text = format!("see {}\n", one.to_absolute(&dir));
    let two = add_text(&mut store, "two.txt", &set([&one]), text.as_bytes()).unwrap();
    assert_eq!(Ok(&two), text_path(&dir, "two.txt", text.as_bytes(), &set([&one])).as_ref());
    let info = store.info(&two).unwrap().unwrap();
    assert_eq!(info.references, set([&one]));
    assert_eq!(info.ca, format!("text:sha256:{}", Sha256::of(&text).to_base32()));
    let three = store.add_tree("three", &set([&one, &two]), |out| write_tree(&file(&text), out)).unwrap();
    let hash = Sha256::of(nar_of(&file(&text)));
    assert_eq!(Ok(&three), source_path(&dir, "three", &hash, &set([&one, &two])).as_ref());
    let all = set([&one, &two, &three]);

    // Questions about many, some of which are nowhere.
    let mut asked = all.clone();
    asked.insert(nowhere());
    assert_eq!(store.valid(&asked).unwrap(), all);
    assert_eq!(store.valid(&BTreeSet::new()).unwrap(), BTreeSet::new());
    assert_eq!(store.info(&nowhere()).unwrap(), None);
    let closure = store.closure(&[three.clone(), two.clone()]).unwrap();
    assert_eq!(closure.keys().cloned().collect::<BTreeSet<_>>(), all);
    assert_eq!(closure[&three].references, set([&one, &two]));
    assert_eq!(store.infos(&asked).unwrap(), closure);
    // What is known is not asked for.
    let known = BTreeMap::from([(three.clone(), PathInfo { nar_size: 7, ..closure[&three].clone() })]);
    let closure = store.closure_knowing(std::slice::from_ref(&three), known).unwrap();
    assert_eq!((closure.len(), closure[&three].nar_size), (3, 7));
    // What a text says of itself is what the store has on record.
    let said = Text { name: "two.txt", references: std::slice::from_ref(&one), bytes: text.as_bytes() }
        .info()
        .unwrap();
    let on_record = &closure[&two];
    assert_eq!(
        (said.nar_hash, said.nar_size, &said.references),
        (on_record.nar_hash, on_record.nar_size, &on_record.references)
    );
    assert_eq!(store.closure(&[]).unwrap().len(), 0);
    let error = store.closure(&[three.clone(), nowhere()]).unwrap_err();
    assert_eq!(told(&error), not_there(&nowhere()));
    assert_eq!(store.referrers(&one).unwrap(), set([&two, &three]));
    assert_eq!(store.all().unwrap(), all);
    drop(store);

    // Nix agrees, and finds every file as it was hashed.
    let absolute = |path: &StorePath| path.to_absolute(&dir);
    let mut found = lines(&mut host.nix(&["nix-store", "--query", "--requisites", &absolute(&three)]));
    found.sort();
    assert_eq!(found, all.iter().map(absolute).collect::<Vec<_>>());
    stdout(&mut host.nix(&["nix-store", "--verify", "--check-contents"]));
}

/// More than what a pipe holds, of questions and of answers.
fn texts_go_ahead_of_their_answers(host: &Host) {
    let mut store = host.store();
    let dir = StoreDir::default();
    let bodies: Vec<String> = (0..600).map(|n| format!("{n} {}", "x".repeat(n % 7 * 900))).collect();
    let big = "y".repeat(400_000);
    let mut references = Vec::new();
    let mut expected = Vec::new();
    for body in &bodies {
        // As many as the Python environment has, now and then.
        let last = if expected.len() % 150 == 149 { 140 } else { expected.len().min(3) };
        let those: Vec<StorePath> = expected[expected.len() - last..].to_vec();
        let path = text_path(&dir, "t", body.as_bytes(), &those.iter().cloned().collect()).unwrap();
        references.push(those);
        expected.push(path);
    }
    let texts = bodies.iter().zip(&references).map(|(body, references)| Text {
        name: "t",
        references,
        bytes: body.as_bytes(),
    });
    let large = Text { name: "large", references: &[], bytes: big.as_bytes() };
    let mut found = Vec::new();
    store
        .add_texts(texts.chain([large]), |at| {
            found.push(at);
            Ok(())
        })
        .unwrap();
    expected.push(text_path(&dir, "large", big.as_bytes(), &BTreeSet::new()).unwrap());
    assert_eq!(found, expected);
    let all: BTreeSet<StorePath> = expected.iter().cloned().collect();
    store.add_temp_roots(&all).unwrap();
    assert_eq!(store.valid(&all).unwrap(), all);
    assert_eq!(store.info(&expected[149]).unwrap().unwrap().references.len(), 140);
    drop(store);
    stdout(&mut host.nix(&["nix-store", "--verify", "--check-contents"]));

    // One that cannot be: those before it are there, and its connection is of no more use.
    let mut store = host.store();
    let missing = [nowhere()];
    let text = |name, references| Text { name, references, bytes: b"z" };
    let good = || text("good", &[][..]);
    let bad = text("bad", &missing);
    let mut heard = 0;
    let error = store
        .add_texts([good(), bad, good(), good()], |_| {
            heard += 1;
            Ok(())
        })
        .unwrap_err();
    let absent = missing[0].to_absolute(&dir);
    assert_eq!(told(&error), format!("Store: path '{absent}' is not valid (hint: none)"));
    assert_eq!(heard, 1);
    assert!(store.valid(&all).is_err());
    let there = text_path(&dir, "good", b"z", &BTreeSet::new()).unwrap();
    assert_eq!(host.store().valid(&[there.clone()].into()).unwrap(), [there].into());

    // What hears of them may refuse.
    let mut store = host.store();
    let error = store.add_texts([good(), good()], |_| Err(Error::new(Kind::Store, "no"))).unwrap_err();
    assert_eq!(told(&error), "Store: no (hint: none)");
}

fn roots_hold_and_the_rest_goes(host: &Host) {
    let mut store = host.store();
    let dir = StoreDir::default();
    let [below, loose, held, odd] =
        ["below", "loose", "held", "odd"].map(|n| add(&mut store, n, &file(n), []));
    let rooted = add_text(&mut store, "rooted", &set([&below]), below.to_string().as_bytes()).unwrap();
    // What a connection adds it holds, so another one asks.
    drop(store);
    let mut store = host.store();
    let link = host.scratch.join("link");
    symlink(rooted.to_absolute(&dir), &link).unwrap();
    store.add_indirect_root(&link).unwrap();
    // A path is bytes, whatever they mean.
    let odd_link = host.scratch.join(OsStr::from_bytes(b"caf\xe9"));
    symlink(odd.to_absolute(&dir), &odd_link).unwrap();
    store.add_indirect_root(&odd_link).unwrap();
    store.add_temp_roots([&held]).unwrap();
    let all = set([&below, &loose, &held, &odd, &rooted]);
    assert_eq!(store.valid(&all).unwrap(), all);

    host.collect();
    // A daemon remembers what it said was valid: another one is asked.
    assert_eq!(host.store().valid(&all).unwrap(), set([&below, &held, &odd, &rooted]));
    // A temporary root ends with its connection.
    drop(store);
    host.collect();
    let mut store = host.store();
    assert_eq!(store.valid(&all).unwrap(), set([&below, &odd, &rooted]));
    drop(store);
    for link in [link, odd_link] {
        std::fs::remove_file(link).unwrap();
    }
    host.collect();
    assert_eq!(host.store().valid(&all).unwrap(), BTreeSet::new());
}

/// Nix takes both, keeps nothing for them, and does not stumble.
fn roots_of_what_does_not_exist(host: &Host) {
    let mut store = host.store();
    let dir = StoreDir::default();
    let loose = add(&mut store, "loose", &file("loose"), []);
    drop(store);
    let mut store = host.store();
    store.add_indirect_root(&host.scratch.join("no-link")).unwrap();
    let link = host.scratch.join("link");
    symlink(nowhere().to_absolute(&dir), &link).unwrap();
    store.add_indirect_root(&link).unwrap();
    store.add_temp_roots([&nowhere()]).unwrap();
    host.collect();
    assert_eq!(host.store().valid(&set([&loose, &nowhere()])).unwrap(), BTreeSet::new());
    assert!(link.is_symlink());
}

fn paths_are_deleted_one_by_one(host: &Host) {
    let mut store = host.store();
    let dir = StoreDir::default();
    let [below, loose] = ["below", "loose"].map(|n| add(&mut store, n, &file(n), []));
    let above = add_text(&mut store, "above", &set([&below]), below.to_string().as_bytes()).unwrap();
    drop(store);

    // Another connection: the one that adds holds what it added.
    let mut store = host.store();
    assert!(store.delete(std::slice::from_ref(&loose)).unwrap() > 0);
    assert_eq!(store.valid(&set([&below, &loose, &above])).unwrap(), set([&below, &above]));
    let link = host.scratch.join("link");
    symlink(above.to_absolute(&dir), &link).unwrap();
    store.add_indirect_root(&link).unwrap();
    for path in [&above, &below] {
        let error = store.delete(std::slice::from_ref(path)).unwrap_err();
        assert_eq!(error.kind, Kind::Store);
        assert!(error.message.contains("still alive"), "{}", error.message);
    }
    assert_eq!(store.valid(&set([&below, &above])).unwrap(), set([&below, &above]));
}

/// The daemon says why, and goes on.
fn refused_uploads(host: &Host) {
    let mut store = host.store();
    let good = nar_of(&file("x"));
    let bytes = |bytes: Vec<u8>| {
        move |out: &mut dyn Write| {
            out.write_all(&bytes).unwrap();
            Ok(())
        }
    };
    let none = BTreeSet::new();
    for (name, references, nar, why) in [
        ("x", &none, b"this is no archive, it is a text".to_vec(), "bad archive"),
        ("x", &none, good[..good.len() - 16].to_vec(), "end of string reached"),
        ("a b", &none, good.clone(), "illegal character"),
        ("x", &set([&nowhere()]), good.clone(), "is not valid"),
    ] {
        let error = store.add_tree(name, references, bytes(nar)).unwrap_err();
        assert_eq!(error.kind, Kind::Store);
        assert!(error.message.contains(why), "{why}: {}", error.message);
    }
    let error = store.nar(&nowhere(), |_| Ok(())).unwrap_err();
    assert_eq!(told(&error), not_there(&nowhere()));
    let path = store.add_tree("x", &none, bytes(good)).unwrap();
    assert_eq!(store.valid(&set([&path, &nowhere()])).unwrap(), set([&path]));
}

fn an_upload_that_we_break_off(host: &Host) {
    let mut store = host.store();
    let bytes = nar_of(&file(&"x".repeat(600_000)));
    let error = store
        .add_tree("x", &BTreeSet::new(), |out| {
            out.write_all(&bytes[..500_000]).unwrap();
            Err(Error::new(Kind::Environment, "the file changed"))
        })
        .unwrap_err();
    assert_eq!(told(&error), "Environment: the file changed (hint: none)");
    // The daemon has refused the half it got, and the connection goes on.
    let path = source_path(&StoreDir::default(), "x", &Sha256::of(&bytes), &BTreeSet::new()).unwrap();
    assert_eq!(store.info(&path).unwrap(), None);
    drop(store);
    // Nix 2.26 leaves half a tree for the collector.
    host.collect();
    let left = std::fs::read_dir(host.scratch.physical("/nix/store")).unwrap();
    let left: Vec<_> = left.map(|e| e.unwrap().file_name()).filter(|n| n != ".links").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(add(&mut host.store(), "x", &file(&"x".repeat(600_000)), []), path);
}

fn an_archive_that_we_do_not_read(host: &Host) {
    let mut store = host.store();
    let path = add(&mut store, "x", &file(&"x".repeat(600_000)), []);
    let error = store
        .nar(&path, |input| -> Result<(), Error> {
            input.read_exact(&mut [0; 100]).unwrap();
            Err(Error::new(Kind::Io, "no space"))
        })
        .unwrap_err();
    assert_eq!(told(&error), "Io: no space (hint: none)");
    // The rest of the archive is no answer to the next question.
    let ended = format!("the Nix daemon at {} ended the connection", host.at());
    assert_eq!(store.valid(&set([&path])).unwrap_err().message, ended);
}

/// The store's own record says that it is there.
fn a_path_whose_files_are_gone(host: &Host) {
    let mut store = host.store();
    let path = add(&mut store, "x", &file("x"), []);
    let physical = host.scratch.physical(&path.to_absolute(&StoreDir::default()));
    std::fs::remove_file(&physical).unwrap();
    let read = |store: &mut Store| {
        store.nar(&path, |mut input| {
            nar::read(&mut input, &mut Deaf)
                .map_err(|e| Error::new(Kind::Store, "this is no archive").caused_by(e))
        })
    };
    let error = read(&mut store).unwrap_err();
    // In the words of either Nix.
    let physical = physical.display();
    let texts = [
        format!("getting status of '{physical}': No such file or directory"),
        format!("path '/{physical}' does not exist"),
    ];
    assert!(texts.contains(&error.message), "{error}");
}
