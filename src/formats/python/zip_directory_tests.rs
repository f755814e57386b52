use super::*;
use std::io::Write;
use zip::write::{SimpleFileOptions, ZipWriter};

fn archive(files: &[(&str, u32)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, mode) in files {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        zip.start_file(*name, options).unwrap();
        zip.write_all(format!("content of {name} {name} {name}").as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn read(bytes: &[u8]) -> Result<Vec<ZipEntry>, ZipError> {
    let location = locate(bytes, bytes.len() as u64)?;
    let from = location.offset as usize;
    parse(&bytes[from..from + location.size as usize], &location)
}

/// Replaces every occurrence of a name by one of the same length.
fn renamed(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from.as_bytes())).collect();
    for i in at {
        bytes[i..i + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

#[test]
fn lists_and_unpacks() {
    let bytes = archive(&[("a/b.py", 0o644), ("a/run", 0o755), ("é.py", 0o644)]);
    let entries = read(&bytes).unwrap();
    assert_eq!(entries.len(), 3);
    assert!(!entries[0].is_executable() && entries[1].is_executable());
    let from = entries[1].offset as usize;
    let data = unpack(&entries[1], &bytes[from..], 1 << 20).unwrap();
    assert_eq!(data, b"content of a/run a/run a/run");
    assert_eq!(
        unpack(&entries[1], &bytes[from..], 3).unwrap_err().to_string(),
        "has data for \"a/run\" that does not unpack to what its directory says"
    );
    assert_eq!(
        unpack(&entries[0], &bytes[from..], 1 << 20).unwrap_err().to_string(),
        "has a malformed local header for \"a/b.py\""
    );
}

#[test]
fn tail_alone_is_enough() {
    let bytes = archive(&[("a", 0o644)]);
    let whole = locate(&bytes, bytes.len() as u64).unwrap();
    assert_eq!(locate(&bytes[bytes.len() - 22..], bytes.len() as u64).unwrap(), whole);
}

#[test]
fn zip64_end_record() {
    let bytes = archive(&[("a", 0o644)]);
    let end = bytes.len() - 22;
    let plain = locate(&bytes, bytes.len() as u64).unwrap();
    let mut wide = bytes[..end].to_vec();
    wide.extend(b"PK\x06\x06");
    wide.extend(44u64.to_le_bytes());
    wide.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for value in [1, 1, plain.size, plain.offset] {
        wide.extend(value.to_le_bytes());
    }
    wide.extend(b"PK\x06\x07\0\0\0\0");
    wide.extend((end as u64).to_le_bytes());
    wide.extend(1u32.to_le_bytes());
    wide.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
    assert_eq!(locate(&wide, wide.len() as u64).unwrap(), plain);
    wide[end + 4] = 45;
    let text = locate(&wide, wide.len() as u64).unwrap_err().to_string();
    assert_eq!(text, "has a malformed zip64 end record");
}

#[test]
fn errors() {
    let text = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    let good = archive(&[("aa/bb", 0o644), ("aa/cc", 0o644)]);
    assert_eq!(text(b"nothing"), "is no zip archive (no end record)");
    assert_eq!(
        text(&renamed(good.clone(), "aa/bb", "../bb")),
        "names \"../bb\", which holds a \"..\" component"
    );
    assert_eq!(text(&renamed(good.clone(), "aa/bb", "/a/bb")), "names \"/a/bb\", which is absolute");
    assert_eq!(text(&renamed(good.clone(), "aa/bb", "a\0/bb")), "names \"a\\0/bb\", which holds a NUL byte");
    assert_eq!(text(&renamed(good.clone(), "aa/bb", "aa/cc")), "names \"aa/cc\" twice");
    let mut long = good.clone();
    long.push(0);
    assert_eq!(text(&long), "has an ambiguous end record");
    let mut shifted = vec![0];
    shifted.extend(&good);
    assert_eq!(text(&shifted), "has its central directory out of place");
    let central = |bytes: &[u8]| bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let mut locked = good.clone();
    let at = central(&locked);
    locked[at + 8] |= 1;
    assert_eq!(text(&locked), "has the encrypted entry \"aa/bb\"");
    let mut packed = good.clone();
    packed[at + 10] = 14;
    assert_eq!(text(&packed), "has \"aa/bb\" packed by method 14");
    let mut link = good.clone();
    link[at + 41] = 0o240_u8;
    assert_eq!(text(&link), "has \"aa/bb\", which is neither a file nor a directory");
    let mut more = good.clone();
    let end = more.len() - 22;
    more[end + 8] = 3;
    more[end + 10] = 3;
    assert_eq!(text(&more), "has a truncated or malformed central directory");
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0usize..200, flip in 0usize..400) {
        let _ = read(&bytes);
        let mut damaged = archive(&[("a/b", 0o644), ("c", 0o755)]);
        let at = flip % damaged.len();
        damaged[at] ^= 0x55;
        if let Ok(entries) = read(&damaged) {
            for entry in entries {
                let from = (entry.offset as usize).min(damaged.len());
                let _ = unpack(&entry, &damaged[from..], 1 << 16);
            }
        }
        let _ = read(&damaged[cut.min(damaged.len())..]);
    }
}
