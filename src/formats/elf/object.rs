//! The structures of an ELF file that reading and patching both look at (elf(5)).

/// Why an object could not be read or patched.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("not an ELF file")]
    NotElf,
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
    #[error("cannot patch this ELF file: {0}")]
    Unsupported(&'static str),
    #[error("reading the ELF file failed")]
    Io(#[from] std::io::Error),
}

pub const EM_X86_64: u16 = 62;
pub const EM_AARCH64: u16 = 183;

pub(crate) const ET_EXEC: u16 = 2;
pub(crate) const ET_DYN: u16 = 3;

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_DYNAMIC: u32 = 2;
pub(crate) const PT_INTERP: u32 = 3;
pub(crate) const PT_PHDR: u32 = 6;

pub(crate) const DT_NULL: u64 = 0;
pub(crate) const DT_NEEDED: u64 = 1;
pub(crate) const DT_STRTAB: u64 = 5;
pub(crate) const DT_STRSZ: u64 = 10;
pub(crate) const DT_SONAME: u64 = 14;
pub(crate) const DT_RPATH: u64 = 15;
pub(crate) const DT_RUNPATH: u64 = 29;
pub(crate) const DT_VERDEF: u64 = 0x6fff_fffc;
pub(crate) const DT_VERDEFNUM: u64 = 0x6fff_fffd;
pub(crate) const DT_VERNEED: u64 = 0x6fff_fffe;
pub(crate) const DT_VERNEEDNUM: u64 = 0x6fff_ffff;
pub(crate) const DT_FLAGS_1: u64 = 0x6fff_fffb;
pub(crate) const DF_1_PIE: u64 = 0x0800_0000;

pub(crate) const EHDR_SIZE: usize = 64;
pub(crate) const PHDR_SIZE: usize = 56;
pub(crate) const SHDR_SIZE: usize = 64;
pub(crate) const DYN_SIZE: usize = 16;

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// One program header of a 64-bit little-endian object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub paddr: u64,
    pub file_size: u64,
    pub mem_size: u64,
    pub align: u64,
}

impl Segment {
    pub fn read(data: &[u8], at: usize) -> Option<Segment> {
        Some(Segment {
            kind: u32_at(data, at)?,
            flags: u32_at(data, at.checked_add(4)?)?,
            offset: u64_at(data, at.checked_add(8)?)?,
            vaddr: u64_at(data, at.checked_add(16)?)?,
            paddr: u64_at(data, at.checked_add(24)?)?,
            file_size: u64_at(data, at.checked_add(32)?)?,
            mem_size: u64_at(data, at.checked_add(40)?)?,
            align: u64_at(data, at.checked_add(48)?)?,
        })
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        for word in [self.offset, self.vaddr, self.paddr, self.file_size, self.mem_size, self.align] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// The file offset that is mapped at `vaddr`.
pub(crate) fn offset_of(segments: &[Segment], vaddr: u64) -> Option<u64> {
    segments
        .iter()
        .filter(|s| s.kind == PT_LOAD && vaddr >= s.vaddr)
        .find(|s| vaddr - s.vaddr < s.file_size)
        .and_then(|s| s.offset.checked_add(vaddr - s.vaddr))
}
