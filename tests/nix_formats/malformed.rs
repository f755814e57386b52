//! What is no archive, no hash, no store path; and that real Nix refuses the same archives.
use crate::common::Deaf;
use crate::{Nix, on_both, restores};
use std::io;
use stillframe::formats::nix::base32;
use stillframe::formats::nix::hash::Sha256;
use stillframe::formats::nix::nar::{self, NarWriter};
use stillframe::formats::nix::store_path::{StoreDir, StorePath, StorePathName};

/// An archive of these tokens.
fn archive(tokens: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for token in [b"nix-archive-1"].into_iter().map(|t| &t[..]).chain(tokens.iter().copied()) {
        out.extend((token.len() as u64).to_le_bytes());
        out.extend(token);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// One folder, its entries given as name and link target.
fn folder(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut tokens: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
    for (name, target) in entries {
        let entry: [&[u8]; 12] = [
            b"entry", b"(", b"name", name, b"node", b"(", b"type", b"symlink", b"target", target, b")", b")",
        ];
        tokens.extend(entry);
    }
    tokens.push(b")");
    archive(&tokens)
}

fn read(bytes: &[u8]) -> io::Result<()> {
    nar::read(&mut &bytes[..], &mut Deaf)
}

on_both! {
    archives_that_nobody_reads
}

fn archives_that_nobody_reads(nix: &Nix) {
    let mut padded = archive(&[b"(", b"type", b"regular", b"contents", b"x", b")"]);
    let at = padded.iter().rposition(|b| *b == b'x').unwrap();
    padded[at + 3] = 1;
    let mut magic = archive(&[]);
    magic[22] = 1;
    let mut huge = archive(&[b"("]);
    huge.extend(u64::MAX.to_le_bytes());
    let long = [b'n'; 4097];
    let two = |a: &'static [u8], b: &'static [u8]| folder(&[(a, b"t"), (b, b"t")]);
    let bad = |name: &str| format!("NAR: the name {name:?} is invalid or out of order");
    let cases: Vec<(Vec<u8>, String)> = vec![
        (padded, "NAR padding is not zero".into()),
        (magic, "NAR padding is not zero".into()),
        (huge, format!("NAR token of {} bytes", u64::MAX)),
        (archive(&[])[8..].to_vec(), format!("NAR token of {} bytes", u64::from_le_bytes(*b"nix-arch"))),
        (archive(&[b"["]), r#"NAR: expected "(", found "[""#.into()),
        (archive(&[b"(", b"kind"]), r#"NAR: expected "type", found "kind""#.into()),
        (archive(&[b"(", b"type", b"socket", b")"]), r#"NAR: unknown type "socket""#.into()),
        (archive(&[b"(", b"type", b"caf\xe9", b")"]), "NAR: unknown type \"caf\u{fffd}\"".into()),
        (
            archive(&[b"(", b"type", b"regular", b"executable", b"1", b"contents", b"", b")"]),
            r#"NAR: expected "", found "1""#.into(),
        ),
        (
            archive(&[b"(", b"type", b"regular", b"target", b"x", b")"]),
            "NAR: a regular file without contents".into(),
        ),
        (
            archive(&[b"(", b"type", b"regular", b"contents", b"", b"]"]),
            r#"NAR: expected ")", found "]""#.into(),
        ),
        (
            archive(&[b"(", b"type", b"symlink", b"contents", b"x", b")"]),
            r#"NAR: expected "target", found "contents""#.into(),
        ),
        (
            archive(&[b"(", b"type", b"directory", b"file", b")"]),
            "NAR: expected an entry of a directory".into(),
        ),
        (
            archive(&[b"(", b"type", b"directory", b"entry", b"(", b"node", b"("]),
            r#"NAR: expected "name", found "node""#.into(),
        ),
        (folder(&[(&long, b"t")]), "NAR token of 4097 bytes".into()),
        (two(b"a", b"a"), bad("a")),
        (folder(&[(b"", b"t")]), bad("")),
        (folder(&[(b".", b"t")]), bad(".")),
        (folder(&[(b"..", b"t")]), bad("..")),
        (folder(&[(b"a/b", b"t")]), bad("a/b")),
        (folder(&[(b"a\0b", b"t")]), bad("a\0b")),
    ];
    for (bytes, text) in cases {
        let error = read(&bytes).expect_err(&text);
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::InvalidData, text.clone()));
        assert!(!restores(nix, &bytes), "Nix reads what we refuse with {text:?}");
    }
    // Nix 2.8 forgets the name before; later ones refuse these too.
    for (a, b) in [(&b"b"[..], "a"), (b"a.b", "a-b"), (b"a", "A"), (b"\xff", "a")] {
        let bytes = folder(&[(a, b"t"), (b.as_bytes(), b"t")]);
        assert_eq!(read(&bytes).unwrap_err().to_string(), bad(b));
    }
    let good = folder(&[(b"...", b"t"), (b"a-b", b"t"), (b"a.b", b"t")]);
    read(&good).expect("an archive");
    assert!(restores(nix, &good));
}

/// A reader that recurses must not run out of stack on what a stranger sends.
#[test]
fn folders_nested_without_end() {
    let mut tokens: Vec<&[u8]> = Vec::new();
    for _ in 0..20_000 {
        tokens.extend([&b"("[..], b"type", b"directory", b"entry", b"(", b"name", b"d", b"node"]);
    }
    assert_eq!(read(&archive(&tokens)).unwrap_err().to_string(), "NAR nested too deeply");
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let open = || {
        let mut nar = NarWriter::new(Vec::new()).unwrap();
        nar.directory(b"").unwrap();
        nar.symlink(b"m", b"t").unwrap();
        nar
    };
    let text = |e: io::Error| e.to_string();
    for name in [&b"m"[..], b"a", b"", b".", b"..", b"x/y", b"x\0"] {
        let error = open().symlink(name, b"t").unwrap_err();
        assert_eq!(text(error), format!("NAR names out of order: {:?}", String::from_utf8_lossy(name)));
    }
    let file = |size: u64, bytes: &[u8]| {
        open().file::<io::Error>(b"n", false, size, |out| out.write_all(bytes)).map_err(text)
    };
    assert_eq!(file(3, b"abc"), Ok(()));
    assert_eq!(file(3, b"abcd"), Err("a file is longer than its size".into()));
    assert_eq!(file(3, b"ab"), Err("a file ended before its size".into()));
}

#[test]
fn texts_that_are_no_hash() {
    let hash = Sha256::of("");
    let (hex, base32, sri) = (hash.to_hex(), hash.to_base32(), hash.to_string());
    let sri64 = sri.strip_prefix("sha256-").unwrap();
    let cases = [
        String::new(),
        "sha256:".into(),
        "sha256-".into(),
        // One too few, one too many, a letter that is none.
        hex[1..].into(),
        format!("{hex}0"),
        format!("g{}", &hex[1..]),
        format!("+{}", &hex[1..]),
        format!("{} {}", &hex[..31], &hex[32..]),
        format!("é{}", &hex[2..]),
        base32[1..].into(),
        format!("{base32}0"),
        base32.replace('0', "e"),
        base32.to_uppercase(),
        // The first digit of base-32 holds one bit.
        format!("2{}", &base32[1..]),
        format!("sha1:{hex}"),
        format!("sha256-{hex}"),
        format!("sha512-{sri64}"),
        sri.replace('+', "-"),
        format!("sha256-{}", &sri64[1..]),
        format!("{sri}="),
        format!("{sri}=="),
        // Bits beyond the hash.
        sri.replace("U=", "V="),
        format!("{hex}\n"),
    ];
    for text in cases {
        let error = Sha256::parse(&text).expect_err(&text);
        let wanted = format!("{text:?} is not a sha256 hash (SRI, base-16 or Nix base-32)");
        assert_eq!(error.to_string(), wanted);
    }
    assert_eq!(base32::decode("", 0), Some(vec![]));
    assert_eq!(base32::decode("zz", 1), None);
    assert_eq!(base32::decode("7z", 1), Some(vec![255]));
}

#[test]
fn texts_that_are_no_store_path() {
    let store = StoreDir("/nix/store".into());
    let digest = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr";
    let name = |text: &str| format!("{text:?} is not a valid store path name");
    let hash = |text: &str| format!("{text:?} does not start with a store path hash");
    let outside = |text: &str| format!("{text:?} is not below the store directory /nix/store");
    let base = |text: &str| StorePath::from_base_name(text).unwrap_err().to_string();
    for text in [
        "",
        "x",
        digest,
        &format!("{digest}_x"),
        &format!("{}-x", &digest[1..]),
        &format!("{digest}0-x"),
        &format!("{}-x", digest.replace('0', "e")),
        &format!("{}-x", digest.to_uppercase()),
        // The 32nd byte is inside a letter.
        &format!("{}é-x", &digest[1..]),
    ] {
        assert_eq!(base(text), hash(text));
    }
    for part in ["", ".hidden", "..", "a b", "a/b", "a\n", "a~b", "é", &"x".repeat(212)] {
        assert_eq!(base(&format!("{digest}-{part}")), name(part));
    }
    for text in [
        "",
        "/nix/store",
        "nix/store/x",
        "/nix/storex/y",
        &format!("/nix/var/nix/{digest}-x"),
        "//nix/store/x",
    ] {
        assert_eq!(StorePath::from_absolute(&store, text).unwrap_err().to_string(), outside(text));
    }
    let inside = format!("/nix/store/{digest}-x/bin");
    assert_eq!(StorePath::from_absolute(&store, &inside).unwrap_err().to_string(), name("x/bin"));
    let longest = format!("{digest}-{}", "x".repeat(211));
    assert_eq!(StorePath::from_base_name(&longest).unwrap().to_string(), longest);
    // What the sanitiser makes is a name, whatever it is given.
    for text in ["", ".", "..", "...", ". .", "é", "a\0b", &".".repeat(300), &"ä".repeat(300), ".\u{1}"] {
        let made = StorePathName::sanitize(text).to_string();
        assert_eq!(StorePathName::new(&made).map(|n| n.to_string()), Ok(made));
    }
}
