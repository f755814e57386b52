//! Reftables: the binary files in which newer git keeps refs (gitformat "reftable", versions 1 and 2). A file is blocks; a ref
//! block (`r`) holds names in order, each given by what differs from the one before it, and the first follows the file's header.
//! What else a file has (an index of blocks, objects, the log) is for speed and history, and is not read.
use crate::formats::hex::hex;

/// What a table says of a ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// It is gone, whatever older tables say.
    Deleted,
    Id(String),
    /// It names another ref.
    Symbolic(String),
}

/// Where a field is read from; every length is checked against what is there.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self, count: usize) -> Option<usize> {
        self.take(count)?
            .iter()
            .try_fold(0usize, |all, byte| all.checked_mul(256)?.checked_add(*byte as usize))
    }

    /// As in packs' offsets: each further byte counts from one on.
    fn varint(&mut self) -> Option<usize> {
        let mut byte = self.number(1)?;
        let mut value = byte & 0x7f;
        while byte & 0x80 != 0 {
            byte = self.number(1)?;
            value = value.checked_add(1)?.checked_mul(128)? | (byte & 0x7f);
        }
        Some(value)
    }
}

/// What the table says of the ref `name`: nothing, or its value. `Err`: no table.
pub fn look(table: &[u8], name: &str) -> Result<Option<Value>, Malformed> {
    scan(table, name.as_bytes()).ok_or(Malformed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The outer `Option` is `None` where the bytes are no table.
#[allow(clippy::option_option)]
fn scan(table: &[u8], name: &[u8]) -> Option<Option<Value>> {
    let mut header = Reader { bytes: table, at: 0 };
    if header.take(4)? != b"REFT" {
        return None;
    }
    let version = header.number(1)?;
    let block_size = header.number(3)?;
    header.take(16)?;
    let id_size = match version {
        1 => 20,
        2 => match header.take(4)? {
            b"sha1" => 20,
            b"s256" => 32,
            _ => return None,
        },
        _ => return None,
    };
    let (mut start, mut records) = (0, header.at);
    loop {
        let mut block = Reader { bytes: table, at: records };
        // Ref blocks come first.
        if block.take(1) != Some(b"r") {
            return Some(None);
        }
        // The first block counts from the file's beginning, with the header.
        let end = start + block.number(3)?;
        // Its type and its length are part of it: a shorter one would never end.
        if end < block.at + 2 {
            return None;
        }
        let bytes = table.get(..end)?;
        let restarts = Reader { bytes, at: end.checked_sub(2)? }.number(2)?;
        let end_of_records = end.checked_sub(2 + 3 * restarts)?;
        let mut reader = Reader { bytes: table.get(..end_of_records)?, at: block.at };
        let mut last: Vec<u8> = Vec::new();
        while reader.at < end_of_records {
            let value = record(&mut reader, &mut last, id_size)?;
            if last == name {
                return Some(Some(value));
            }
        }
        start = if block_size == 0 { end } else { start + block_size };
        records = start;
        if block_size != 0 && end > start {
            return None;
        }
    }
}

/// One ref: its name into `last`, which is the one before it, and its value.
fn record(reader: &mut Reader<'_>, last: &mut Vec<u8>, id_size: usize) -> Option<Value> {
    let prefix = reader.varint()?;
    let suffix = reader.varint()?;
    if prefix > last.len() {
        return None;
    }
    last.truncate(prefix);
    last.extend(reader.take(suffix >> 3)?);
    reader.varint()?;
    match suffix & 7 {
        0 => Some(Value::Deleted),
        1 => Some(Value::Id(hex(reader.take(id_size)?))),
        2 => {
            let id = hex(reader.take(id_size)?);
            // What an annotated tag is of.
            reader.take(id_size)?;
            Some(Value::Id(id))
        }
        3 => {
            let length = reader.varint()?;
            Some(Value::Symbolic(String::from_utf8(reader.take(length)?.to_vec()).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Written by git 2.47: HEAD, refs/heads/main, an annotated tag; and 300 branches in blocks of 4 KiB.
    const FEW: &[u8] = include_bytes!("../../../tests/golden/reftable/few.ref");
    const MANY: &[u8] = include_bytes!("../../../tests/golden/reftable/many.ref");
    const SHA256: &[u8] = include_bytes!("../../../tests/golden/reftable/sha256.ref");
    /// A branch that was deleted.
    const DELETED: &[u8] = include_bytes!("../../../tests/golden/reftable/deleted.ref");

    fn id(table: &[u8], name: &str) -> Option<String> {
        match look(table, name).unwrap()? {
            Value::Id(id) => Some(id),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_git_wrote_is_read() {
        assert_eq!(look(FEW, "HEAD"), Ok(Some(Value::Symbolic("refs/heads/main".into()))));
        let main = id(FEW, "refs/heads/main").unwrap();
        assert_eq!(main.len(), 40);
        assert_ne!(id(FEW, "refs/tags/v1"), Some(main.clone()), "a tag is an object of its own");
        assert_eq!((id(FEW, "refs/heads/mai"), id(FEW, "refs/heads/main2")), (None, None));
        for at in 0..300 {
            assert_eq!(id(MANY, &format!("refs/heads/branch-{at:03}")), Some(main.clone()), "{at}");
        }
        assert_eq!(id(SHA256, "refs/heads/main").unwrap().len(), 64);
        assert_eq!(look(DELETED, "refs/heads/gone"), Ok(Some(Value::Deleted)));
    }

    #[test]
    fn a_block_without_a_length_is_no_table() {
        let mut table = b"REFT\x01\0\0\0".to_vec();
        table.extend([0; 16]);
        // Both are unaligned: one with no record in it, and one that would lead to itself.
        table.extend(b"r\0\0\x1e\0\0r\0\0\0");
        assert_eq!(look(&table, "HEAD"), Err(Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn nothing_that_is_spoilt_does_harm(at in 0..FEW.len(), byte: u8, cut in 0..FEW.len()) {
            let mut spoilt = FEW.to_vec();
            spoilt[at] = byte;
            let _ = look(&spoilt, "refs/heads/main");
            let _ = look(&spoilt[..cut], "refs/heads/nothing");
        }
    }
}
