//! NAR, Nix's archive: a canonical serialisation of a tree (names in byte order, no times, no owners,
//! one executable bit), each token a 64-bit little-endian length, the bytes, and zeros up to 8. Written
//! and read as a stream, with no file held in memory. The reader refuses what Nix refuses: wrong
//! order, `.` and `..`, slashes, bytes in the padding.
use super::hash::Sha256;
use sha2::Digest;
use std::io::{self, Read, Write};

const MAGIC: &[u8] = b"nix-archive-1";
/// Longest token that is not file content: names and link targets, as PATH_MAX.
const MAX_TOKEN: u64 = 4096;
const MAX_DEPTH: usize = 512;

/// Prints one archive. The caller gives entries depth first, names of a directory in byte order.
pub struct NarWriter<W: Write> {
    out: W,
    /// The last name of each open directory.
    open: Vec<Option<Vec<u8>>>,
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl<W: Write> NarWriter<W> {
    pub fn new(mut out: W) -> io::Result<Self> {
        token(&mut out, MAGIC)?;
        Ok(NarWriter { out, open: Vec::new() })
    }

    fn tokens(&mut self, all: &[&[u8]]) -> io::Result<()> {
        all.iter().try_for_each(|t| token(&mut self.out, t))
    }

    /// Starts the entry `name` of the open directory; the root of the archive has no name.
    fn begin(&mut self, name: &[u8]) -> io::Result<()> {
        if let Some(last) = self.open.last_mut() {
            if !valid_name(name) || last.as_deref().is_some_and(|l| l >= name) {
                return Err(invalid(format!("NAR names out of order: {:?}", String::from_utf8_lossy(name))));
            }
            *last = Some(name.to_vec());
            self.tokens(&[b"entry", b"(", b"name", name, b"node"])?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.open.is_empty() { Ok(()) } else { token(&mut self.out, b")") }
    }

    pub fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.begin(name)?;
        self.open.push(None);
        self.tokens(&[b"(", b"type", b"directory"])
    }

    pub fn end_directory(&mut self) -> io::Result<()> {
        self.open.pop();
        token(&mut self.out, b")")?;
        self.end()
    }

    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.begin(name)?;
        self.tokens(&[b"(", b"type", b"symlink", b"target", target, b")"])?;
        self.end()
    }

    /// A file of `size` bytes; `content` must write exactly so many.
    pub fn file<E: From<io::Error>>(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
        content: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin(name)?;
        self.tokens(&[b"(", b"type", b"regular"])?;
        if executable {
            self.tokens(&[b"executable", b""])?;
        }
        token(&mut self.out, b"contents")?;
        self.out.write_all(&size.to_le_bytes())?;
        let mut counted = Counted { inner: &mut self.out, left: size };
        content(&mut counted)?;
        if counted.left != 0 {
            return Err(invalid("a file ended before its size").into());
        }
        self.out.write_all(&[0; 8][..padding(size)])?;
        token(&mut self.out, b")")?;
        Ok(self.end()?)
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

struct Counted<'a, W: Write> {
    inner: &'a mut W,
    left: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(invalid("a file is longer than its size"));
        }
        let n = self.inner.write(bytes)?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn padding(len: u64) -> usize {
    ((8 - len % 8) % 8) as usize
}

const fn token_size(len: u64) -> u64 {
    8 + len.next_multiple_of(8)
}

/// How many bytes an archive has besides its one node.
pub const MAGIC_SIZE: u64 = token_size(MAGIC.len() as u64);
/// A node's `(`, `type` and `)`.
const NODE: u64 = token_size(1) + token_size(4) + token_size(1);
/// An empty directory.
pub const DIRECTORY_SIZE: u64 = NODE + token_size(9);

/// What a directory has for an entry, besides the entry's own node.
pub const fn entry_size(name: u64) -> u64 {
    token_size(5) + token_size(1) + token_size(4) + token_size(name) + token_size(4) + token_size(1)
}

pub const fn symlink_size(target: u64) -> u64 {
    NODE + token_size(7) + token_size(6) + token_size(target)
}

pub const fn file_size(executable: bool, content: u64) -> u64 {
    let tag = if executable { token_size(10) + token_size(0) } else { 0 };
    NODE + token_size(7) + tag + token_size(8) + token_size(content)
}

fn token(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)?;
    out.write_all(&[0; 8][..padding(bytes.len() as u64)])
}

fn valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// Hashes and counts what is written through it.
pub struct Hashing {
    sha: sha2::Sha256,
    size: u64,
}

impl Default for Hashing {
    fn default() -> Self {
        Hashing { sha: sha2::Sha256::new(), size: 0 }
    }
}

impl Hashing {
    pub fn finish(self) -> (Sha256, u64) {
        (Sha256(self.sha.finalize().into()), self.size)
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sha.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a reader tells of an archive, in the archive's order.
pub trait Visitor {
    type Error: From<io::Error>;
    /// `path`: components from the root.
    fn directory(&mut self, path: &[Vec<u8>]) -> Result<(), Self::Error>;
    fn symlink(&mut self, path: &[Vec<u8>], target: &[u8]) -> Result<(), Self::Error>;
    /// Must read `content` to its end or not at all; what is left is skipped.
    fn file(
        &mut self,
        path: &[Vec<u8>],
        executable: bool,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), Self::Error>;
}

/// Reads one archive to its last byte and no further.
pub fn read<R: Read, V: Visitor>(source: &mut R, visitor: &mut V) -> Result<(), V::Error> {
    let mut reader = Reader { source, path: Vec::new() };
    reader.expect(MAGIC)?;
    reader.expect(b"(")?;
    reader.node(visitor)
}

struct Reader<'a, R: Read> {
    source: &'a mut R,
    path: Vec<Vec<u8>>,
}

impl<R: Read> Reader<'_, R> {
    fn length(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.source.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn pad(&mut self, len: u64) -> io::Result<()> {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..padding(len)];
        self.source.read_exact(bytes)?;
        if bytes.iter().any(|b| *b != 0) {
            return Err(invalid("NAR padding is not zero"));
        }
        Ok(())
    }

    fn token(&mut self) -> io::Result<Vec<u8>> {
        let len = self.length()?;
        if len > MAX_TOKEN {
            return Err(invalid(format!("NAR token of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        self.source.read_exact(&mut bytes)?;
        self.pad(len)?;
        Ok(bytes)
    }

    fn expect(&mut self, wanted: &[u8]) -> io::Result<()> {
        let found = self.token()?;
        if found == wanted {
            return Ok(());
        }
        let show = String::from_utf8_lossy;
        Err(invalid(format!("NAR: expected {:?}, found {:?}", show(wanted), show(&found))))
    }

    fn node<V: Visitor>(&mut self, visitor: &mut V) -> Result<(), V::Error> {
        if self.path.len() > MAX_DEPTH {
            return Err(invalid("NAR nested too deeply").into());
        }
        self.expect(b"type")?;
        match self.token()?.as_slice() {
            b"regular" => {
                let mut tag = self.token()?;
                let executable = tag == b"executable";
                if executable {
                    self.expect(b"")?;
                    tag = self.token()?;
                }
                if tag != b"contents" {
                    return Err(invalid("NAR: a regular file without contents").into());
                }
                let size = self.length()?;
                let mut content = (&mut *self.source).take(size);
                visitor.file(&self.path, executable, size, &mut content)?;
                io::copy(&mut content, &mut io::sink())?;
                if content.limit() != 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                self.pad(size)?;
                Ok(self.expect(b")")?)
            }
            b"symlink" => {
                self.expect(b"target")?;
                let target = self.token()?;
                visitor.symlink(&self.path, &target)?;
                Ok(self.expect(b")")?)
            }
            b"directory" => {
                visitor.directory(&self.path)?;
                let mut last: Option<Vec<u8>> = None;
                loop {
                    match self.token()?.as_slice() {
                        b")" => return Ok(()),
                        b"entry" => {}
                        _ => return Err(invalid("NAR: expected an entry of a directory").into()),
                    }
                    self.expect(b"(")?;
                    self.expect(b"name")?;
                    let name = self.token()?;
                    if !valid_name(&name) || last.as_ref().is_some_and(|l| *l >= name) {
                        return Err(invalid(format!(
                            "NAR: the name {:?} is invalid or out of order",
                            String::from_utf8_lossy(&name)
                        ))
                        .into());
                    }
                    last = Some(name.clone());
                    self.expect(b"node")?;
                    self.expect(b"(")?;
                    self.path.push(name);
                    self.node(visitor)?;
                    self.path.pop();
                    self.expect(b")")?;
                }
            }
            other => Err(invalid(format!("NAR: unknown type {:?}", String::from_utf8_lossy(other))).into()),
        }
    }
}
