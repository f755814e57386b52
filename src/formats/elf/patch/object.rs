//! The object to patch: its program headers, and where one more segment has room.
use crate::formats::elf::object::{
    EHDR_SIZE, EM_AARCH64, ET_DYN, ET_EXEC, ElfError, PHDR_SIZE, PT_DYNAMIC, PT_INTERP, PT_LOAD, Segment,
    u16_at, u64_at,
};
use crate::formats::elf::read::looks_like_elf;

const PF_READ_WRITE: u32 = 6;
/// A padding larger than this means an object with an enormous zero-filled area; we never patch one.
const MAX_PADDING: u64 = 64 << 20;

pub(super) const CUT: ElfError = ElfError::Damaged("the file is cut off");
pub(super) const NO_LOAD: ElfError = ElfError::Damaged("nothing in it is loaded");

/// What to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// The program interpreter; the object must have one already.
    pub interp: Option<String>,
    /// Written as DT_RPATH; an existing DT_RPATH and DT_RUNPATH are removed.
    pub rpath: Option<String>,
    /// Added behind the existing DT_NEEDED entries, unless already among them.
    pub add_needed: Vec<String>,
}

pub(super) struct Object<'a> {
    pub(super) data: &'a [u8],
    pub(super) segments: Vec<Segment>,
    pub(super) dynamic: Segment,
    pub(super) interp: Option<Segment>,
}

/// Where the new segment goes.
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) vaddr: u64,
    pub(super) page: u64,
}

impl Place {
    pub(super) fn segment(&self, at: u64, size: u64, align: u64) -> Segment {
        let vaddr = self.vaddr + at;
        Segment {
            kind: PT_LOAD,
            // ld.so writes into the dynamic section.
            flags: PF_READ_WRITE,
            offset: self.offset + at,
            vaddr,
            paddr: vaddr,
            file_size: size,
            mem_size: size,
            align,
        }
    }
}

impl<'a> Object<'a> {
    pub(super) fn read(data: &'a [u8]) -> Result<Object<'a>, ElfError> {
        if !looks_like_elf(data) {
            return Err(ElfError::NotElf);
        }
        if data.len() < EHDR_SIZE {
            return Err(CUT);
        }
        if data.get(4..6) != Some(&[2, 1]) {
            return Err(ElfError::Unsupported("it is not a 64-bit little-endian object"));
        }
        if !matches!(u16_at(data, 16), Some(ET_EXEC | ET_DYN)) {
            return Err(ElfError::Unsupported("it is neither a program nor a shared library"));
        }
        let table = usize::try_from(u64_at(data, 32).ok_or(CUT)?).map_err(|_| CUT)?;
        if u16_at(data, 54).map(usize::from) != Some(PHDR_SIZE) {
            return Err(ElfError::Damaged("program headers of an unknown size"));
        }
        let count = usize::from(u16_at(data, 56).ok_or(CUT)?);
        let segments: Vec<Segment> = (0..count)
            .map(|i| Segment::read(data, table.checked_add(i * PHDR_SIZE)?))
            .collect::<Option<_>>()
            .ok_or(CUT)?;
        let find = |kind| segments.iter().find(|s| s.kind == kind).copied();
        let dynamic = find(PT_DYNAMIC)
            .filter(|s| s.file_size > 0)
            .ok_or(ElfError::Unsupported("it is statically linked"))?;
        let interp = find(PT_INTERP);
        Ok(Object { data, segments, dynamic, interp })
    }

    /// Behind everything in the file and in memory, at the first segment's own distance between the
    /// two: that keeps offset and address congruent, and the program headers where the kernel looks.
    pub(super) fn free_place(&self, file_size: u64) -> Result<Place, ElfError> {
        const RANGE: ElfError = ElfError::Damaged("an address is out of range");
        let loads = || self.segments.iter().filter(|s| s.kind == PT_LOAD);
        let first = loads().next().ok_or(NO_LOAD)?;
        let page = if u16_at(self.data, 18) == Some(EM_AARCH64) { 0x10000 } else { 0x1000 };
        let distance = first.vaddr.checked_sub(first.offset).ok_or(RANGE)?;
        if distance % page != 0 {
            return Err(ElfError::Unsupported("its segments are not aligned to pages"));
        }
        let mut end = 0;
        for load in loads() {
            end = end.max(load.vaddr.checked_add(load.mem_size).ok_or(RANGE)?);
        }
        let offset =
            end.saturating_sub(distance).max(file_size).checked_next_multiple_of(page).ok_or(RANGE)?;
        if offset - file_size > MAX_PADDING {
            return Err(ElfError::Unsupported("it has too large a zero-filled area"));
        }
        let vaddr = offset.checked_add(distance).filter(|v| v.leading_zeros() > 0).ok_or(RANGE)?;
        Ok(Place { offset, vaddr, page })
    }
}

pub(super) fn slice(data: &[u8], offset: u64, size: u64) -> Result<&[u8], ElfError> {
    let start = usize::try_from(offset).map_err(|_| CUT)?;
    let end = usize::try_from(offset.checked_add(size).ok_or(CUT)?).map_err(|_| CUT)?;
    data.get(start..end).ok_or(CUT)
}
