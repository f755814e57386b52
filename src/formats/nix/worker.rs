//! Messages of the Nix worker protocol (`worker-protocol.hh`): 64-bit little-endian numbers, strings as
//! a length, the bytes and zeros up to 8, lists as a count and the items. Only framing and numbers live
//! here; the conversation is in `store`.
use std::io::{self, Read, Write};

pub const MAGIC_CLIENT: u64 = 0x6e69_7863;
pub const MAGIC_DAEMON: u64 = 0x6478_696f;
/// What we speak: 1.35. The lower of both sides counts.
pub const VERSION: u64 = 0x123;
/// Framed uploads (1.25), structured errors (1.26) and `addMultipleToStore` are older than this; Nix 2.8
/// speaks 1.34, and nothing older is tested.
pub const MIN_VERSION: u64 = 0x122;

pub mod op {
    pub const QUERY_REFERRERS: u64 = 6;
    pub const ADD_TO_STORE: u64 = 7;
    /// Older than `ADD_TO_STORE` of a text, and every daemon has it still. It answers with the path alone, where the
    /// other looks up all of what it has just registered: an eighth of what a `.drv` file costs.
    pub const ADD_TEXT_TO_STORE: u64 = 8;
    pub const BUILD_PATHS: u64 = 9;
    pub const ADD_TEMP_ROOT: u64 = 11;
    pub const ADD_INDIRECT_ROOT: u64 = 12;
    pub const SET_OPTIONS: u64 = 19;
    pub const COLLECT_GARBAGE: u64 = 20;
    pub const QUERY_ALL_VALID_PATHS: u64 = 23;
    pub const QUERY_PATH_INFO: u64 = 26;
    pub const QUERY_VALID_PATHS: u64 = 31;
    pub const ADD_TO_STORE_NAR: u64 = 39;
    pub const NAR_FROM_PATH: u64 = 38;
}

pub mod stderr {
    pub const NEXT: u64 = 0x6f6c_6d67;
    pub const READ: u64 = 0x6461_7461;
    pub const WRITE: u64 = 0x6461_7416;
    pub const LAST: u64 = 0x616c_7473;
    pub const ERROR: u64 = 0x6378_7470;
    pub const START_ACTIVITY: u64 = 0x5354_5254;
    pub const STOP_ACTIVITY: u64 = 0x5354_4f50;
    pub const RESULT: u64 = 0x5253_4c54;
}

/// Longest string taken from a daemon: a closure's manifest is far below it.
const MAX_STRING: u64 = 64 << 20;

pub fn version_text(version: u64) -> String {
    format!("{}.{}", version >> 8, version & 0xff)
}

pub trait ReadWire: Read {
    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn string(&mut self) -> io::Result<String>;

    fn strings(&mut self) -> io::Result<Vec<String>> {
        let count = self.number()?;
        (0..count).map(|_| self.string()).collect()
    }
}

impl<R: Read + ?Sized> ReadWire for R {
    fn string(&mut self) -> io::Result<String> {
        let len = self.number()?;
        if len > MAX_STRING {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a string of {len} bytes")));
        }
        let mut bytes = Vec::new();
        (&mut *self).take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut pad = [0; 8];
        self.read_exact(&mut pad[..((8 - len % 8) % 8) as usize])?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

pub trait WriteWire: Write {
    fn put_number(&mut self, value: u64) -> io::Result<()> {
        self.write_all(&value.to_le_bytes())
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put_number(bytes.len() as u64)?;
        self.write_all(bytes)?;
        self.write_all(&[0; 8][..(8 - bytes.len() % 8) % 8])
    }

    fn put_strings<S: AsRef<str>>(&mut self, all: &[S]) -> io::Result<()> {
        self.put_number(all.len() as u64)?;
        all.iter().try_for_each(|s| self.put_bytes(s.as_ref().as_bytes()))
    }
}

impl<W: Write + ?Sized> WriteWire for W {}

/// Data of unknown length: chunks, each after its length, then a zero.
pub struct Framed<'a, W: Write> {
    out: &'a mut W,
    buffer: Vec<u8>,
}

const FRAME: usize = 64 * 1024;

impl<'a, W: Write> Framed<'a, W> {
    pub fn new(out: &'a mut W) -> Self {
        Framed { out, buffer: Vec::with_capacity(FRAME) }
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.out.put_number(self.buffer.len() as u64)?;
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.send()?;
        self.out.put_number(0)
    }
}

impl<W: Write> Write for Framed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > FRAME {
            self.send()?;
        }
        if bytes.len() >= FRAME {
            self.out.put_number(bytes.len() as u64)?;
            self.out.write_all(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
