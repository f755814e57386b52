//! What workstation and `stillframe-agent receive` say to each other: one JSON document a line, and after
//! each `path` its NAR in chunks.
//!
//! A chunk is two little-endian 32-bit numbers (bytes on the wire, bytes of NAR in it) and a zstd frame of
//! its own, so that a transfer that was cut goes on behind the last whole chunk, whoever continues it.
//! Two zeros end a NAR; `ABORT` and a zero say that the sender cannot go on with it.
//!
//! ```text
//! plan ─▶ missing ─▶ path, chunks … ─▶ done … ─▶ settle ─▶ settled
//! ```
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

pub const TRANSFER_VERSION: u32 = 2;

/// NAR bytes in a chunk. Each is compressed alone: larger ones compress little better at level 1, and both
/// sides hold one of them in memory for each stream.
pub const CHUNK: usize = 4 << 20;

/// From this size on, a NAR is kept on the host while it arrives.
pub const KEEP_FROM: u64 = 32 << 20;

pub const ABORT: u32 = u32::MAX;

/// Longest line taken from the other side: a plan names every path of a closure.
pub const LONGEST_LINE: u64 = 256 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToHost {
    /// The closure: what of it is missing? Everything of it is rooted until the connection ends.
    Plan { version: u32, store_dir: String, paths: Vec<Named> },
    /// A path, whose chunks follow.
    Path(PathHeader),
    /// These of the missing have been sent, over whichever connection: make them durable, and remember that they are right.
    Settle { paths: Vec<String> },
}

/// A path of a closure, and what it must be: the workstation's word, whatever way the path came to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub path: String,
    /// SHA-256 of the NAR, in Nix's base-32: a plan has one for each path.
    pub nar_hash: String,
    pub nar_size: u64,
    /// Places in the plan's list.
    pub references: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathHeader {
    pub path: String,
    /// SHA-256 of the NAR, hexadecimal.
    pub nar_hash: String,
    pub nar_size: u64,
    pub references: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<String>,
    pub ca: String,
    /// NAR bytes that the host has from an earlier attempt.
    pub skip: u64,
    /// The host said that what it has under this name is something else.
    #[serde(default)]
    pub replace: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromHost {
    /// The answer to a plan. `partial`: NAR bytes kept of a path from an earlier attempt. `wrong`: those of the missing
    /// that the host's store believes to have, but their files are gone or are something else.
    Missing {
        version: u32,
        missing: Vec<String>,
        partial: BTreeMap<String, u64>,
        #[serde(default)]
        wrong: Vec<String>,
    },
    Done {
        path: String,
    },
    Settled,
    /// The host can do no more; `hint` as in our errors.
    Failed {
        path: Option<String>,
        message: String,
        hint: Option<String>,
    },
}

pub fn write_line(out: &mut dyn Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// The next message; `None` at the end.
pub fn read_line<T: for<'a> Deserialize<'a>>(
    input: &mut (impl io::BufRead + ?Sized),
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    io::BufRead::read_until(&mut io::Read::take(&mut *input, LONGEST_LINE), b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

pub fn put_chunk(out: &mut dyn Write, frame: &[u8], raw: usize) -> io::Result<()> {
    out.write_all(&(frame.len() as u32).to_le_bytes())?;
    out.write_all(&(raw as u32).to_le_bytes())?;
    out.write_all(frame)
}

/// The head of the next chunk: bytes on the wire, bytes of NAR.
pub fn chunk_head(input: &mut dyn Read) -> io::Result<(u32, u32)> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok((number(0), number(4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_chunks_follow_each_other() {
        let mut wire = Vec::new();
        let header = PathHeader {
            path: "h-a".into(),
            nar_hash: "00".into(),
            nar_size: 3,
            references: vec![],
            deriver: None,
            ca: String::new(),
            skip: 0,
            replace: false,
        };
        write_line(&mut wire, &ToHost::Path(header.clone())).unwrap();
        put_chunk(&mut wire, b"xyz", 9).unwrap();
        put_chunk(&mut wire, b"", 0).unwrap();
        let mut input = io::Cursor::new(wire);
        assert_eq!(read_line::<ToHost>(&mut input).unwrap(), Some(ToHost::Path(header)));
        assert_eq!(chunk_head(&mut input).unwrap(), (3, 9));
        input.set_position(input.position() + 3);
        assert_eq!(chunk_head(&mut input).unwrap(), (0, 0));
        assert_eq!(read_line::<ToHost>(&mut input).unwrap(), None);
    }

    #[test]
    fn a_cut_line_is_no_message() {
        let mut input = io::Cursor::new(b"{\"type\":".to_vec());
        let error = read_line::<ToHost>(&mut input).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
