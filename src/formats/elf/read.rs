//! Reading an object as the dynamic linker does, a few kilobytes at a time: a library of a gigabyte
//! costs no more than a small one.
use std::io::{Cursor, Read, Seek, SeekFrom};

use super::object::{
    DF_1_PIE, DT_FLAGS_1, DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRTAB, DT_VERDEF,
    DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM, DYN_SIZE, EHDR_SIZE, ET_DYN, ET_EXEC, ElfError, PHDR_SIZE,
    PT_DYNAMIC, PT_INTERP, Segment, offset_of, u16_at, u32_at, u64_at,
};

// A damaged or hostile file must not make us allocate or loop without end. Real objects stay far
// below these.
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_STRING: usize = 64 << 10;
const MAX_RECORDS: usize = 1 << 16;

/// What a dynamic linker would know about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ElfInfo {
    /// A 64-bit little-endian object; of any other only `machine` is read.
    pub class64: bool,
    /// `e_machine`, for example [`super::EM_X86_64`].
    pub machine: u16,
    pub interp: Option<String>,
    pub soname: Option<String>,
    pub needed: Vec<String>,
    /// The entries of DT_RPATH, inherited by the libraries this object loads.
    pub rpath: Vec<String>,
    /// The entries of DT_RUNPATH, for this object's own needs only.
    pub runpath: Vec<String>,
    /// The highest `GLIBC_x.y` symbol version the object asks for.
    pub glibc_floor: Option<(u32, u32)>,
    /// The highest `GLIBC_x.y` the object itself defines: the version of a libc.so.6.
    pub glibc_provided: Option<(u32, u32)>,
    pub is_executable: bool,
    /// An executable that can be loaded at any address.
    pub pie: bool,
    /// Has a dynamic section: a shared library or a dynamically linked program.
    pub dynamic: bool,
}

pub fn looks_like_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

/// Reads an object that is in memory.
pub fn parse(data: &[u8]) -> Result<ElfInfo, ElfError> {
    read(&mut Cursor::new(data))
}

/// Reads an object through its headers; nothing but they is loaded.
pub fn read<R: Read + Seek>(source: &mut R) -> Result<ElfInfo, ElfError> {
    let header = at(source, 0, EHDR_SIZE)?;
    if !looks_like_elf(&header) {
        return Err(ElfError::NotElf);
    }
    let mut info = ElfInfo::default();
    if header.get(5) != Some(&1) {
        let machine = header.get(18..20).and_then(|b| b.try_into().ok());
        info.machine = machine.map(u16::from_be_bytes).unwrap_or_default();
        return Ok(info);
    }
    info.machine = u16_at(&header, 18).ok_or(ElfError::Damaged("the header is cut off"))?;
    if header.get(4) != Some(&2) {
        return Ok(info);
    }
    info.class64 = true;
    let cut_off = || ElfError::Damaged("the header is cut off");
    let kind = u16_at(&header, 16).ok_or_else(cut_off)?;
    let table = u64_at(&header, 32).ok_or_else(cut_off)?;
    let entry_size = usize::from(u16_at(&header, 54).ok_or_else(cut_off)?);
    let count = usize::from(u16_at(&header, 56).ok_or_else(cut_off)?);
    info.is_executable = kind == ET_EXEC;
    if count == 0 {
        return Ok(info);
    }
    if entry_size != PHDR_SIZE {
        return Err(ElfError::Damaged("program headers of an unknown size"));
    }
    let table = at(source, table, count * PHDR_SIZE)?;
    let segments: Vec<Segment> = (0..count)
        .map(|i| Segment::read(&table, i * PHDR_SIZE))
        .collect::<Option<_>>()
        .ok_or(ElfError::Damaged("the program headers are cut off"))?;

    if let Some(interp) = segments.iter().find(|s| s.kind == PT_INTERP) {
        info.interp = Some(string_at(source, interp.offset)?);
    }
    // A file of debug information keeps the header but not the content.
    if let Some(dynamic) = segments.iter().find(|s| s.kind == PT_DYNAMIC && s.file_size > 0) {
        info.dynamic = true;
        read_dynamic(source, &segments, dynamic, &mut info)?;
    }
    if kind == ET_DYN {
        // libc.so.6 and ld.so are libraries one can run: a SONAME tells them from programs.
        info.pie |= info.interp.is_some() && info.soname.is_none();
        info.is_executable = info.pie;
    }
    Ok(info)
}

fn read_dynamic<R: Read + Seek>(
    source: &mut R,
    segments: &[Segment],
    dynamic: &Segment,
    info: &mut ElfInfo,
) -> Result<(), ElfError> {
    let size = dynamic.file_size.min(MAX_DYNAMIC) as usize;
    let table = at(source, dynamic.offset, size)?;
    let entries: Vec<(u64, u64)> = (0..table.len() / DYN_SIZE)
        .map_while(|i| Some((u64_at(&table, i * DYN_SIZE)?, u64_at(&table, i * DYN_SIZE + 8)?)))
        .take_while(|(tag, _)| *tag != DT_NULL)
        .collect();
    let value = |tag| entries.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
    let strings = value(DT_STRTAB)
        .and_then(|vaddr| offset_of(segments, vaddr))
        .ok_or(ElfError::Damaged("the dynamic section has no string table"))?;
    for &(tag, value) in &entries {
        match tag {
            DT_NEEDED => info.needed.push(string_in(source, strings, value)?),
            DT_SONAME => info.soname = Some(string_in(source, strings, value)?),
            DT_RPATH => info.rpath = split(&string_in(source, strings, value)?),
            DT_RUNPATH => info.runpath = split(&string_in(source, strings, value)?),
            DT_FLAGS_1 => info.pie = value & DF_1_PIE != 0,
            _ => {}
        }
    }
    if let (Some(at), Some(count)) = (value(DT_VERNEED), value(DT_VERNEEDNUM)) {
        let at = offset_of(segments, at).ok_or(ElfError::Damaged("version needs unmapped"))?;
        info.glibc_floor = versions(source, at, count, strings, &NEEDS)?;
    }
    if let (Some(at), Some(count)) = (value(DT_VERDEF), value(DT_VERDEFNUM)) {
        let at = offset_of(segments, at).ok_or(ElfError::Damaged("versions unmapped"))?;
        info.glibc_provided = versions(source, at, count, strings, &DEFINITIONS)?;
    }
    Ok(())
}

/// Where the fields of a version record and of its auxiliary records lie.
struct VersionLayout {
    size: usize,
    count: usize,
    aux: usize,
    next: usize,
    aux_size: usize,
    aux_name: usize,
    aux_next: usize,
}

const NEEDS: VersionLayout =
    VersionLayout { size: 16, count: 2, aux: 8, next: 12, aux_size: 16, aux_name: 8, aux_next: 12 };
const DEFINITIONS: VersionLayout =
    VersionLayout { size: 20, count: 6, aux: 12, next: 16, aux_size: 8, aux_name: 0, aux_next: 4 };

fn versions<R: Read + Seek>(
    source: &mut R,
    mut record: u64,
    count: u64,
    strings: u64,
    layout: &VersionLayout,
) -> Result<Option<(u32, u32)>, ElfError> {
    const CUT: ElfError = ElfError::Damaged("the version records are cut off");
    let mut highest = None;
    let mut seen = 0;
    for _ in 0..count.min(MAX_RECORDS as u64) {
        let head = at(source, record, layout.size)?;
        let names = u16_at(&head, layout.count).ok_or(CUT)?;
        let mut aux = record + u64::from(u32_at(&head, layout.aux).ok_or(CUT)?);
        for _ in 0..names {
            seen += 1;
            if seen > MAX_RECORDS {
                return Err(ElfError::Damaged("too many version records"));
            }
            let entry = at(source, aux, layout.aux_size)?;
            let name = u32_at(&entry, layout.aux_name).ok_or(CUT)?;
            highest = highest.max(glibc_version(&string_in(source, strings, u64::from(name))?));
            let next = u32_at(&entry, layout.aux_next).ok_or(CUT)?;
            if next == 0 {
                break;
            }
            aux = aux.checked_add(u64::from(next)).ok_or(CUT)?;
        }
        let next = u32_at(&head, layout.next).ok_or(CUT)?;
        if next == 0 {
            break;
        }
        record = record.checked_add(u64::from(next)).ok_or(CUT)?;
    }
    Ok(highest)
}

fn glibc_version(name: &str) -> Option<(u32, u32)> {
    let version = name.strip_prefix("GLIBC_")?;
    if version == "ABI_DT_RELR" {
        // Relative relocations: the loader that knows them came with 2.36.
        return Some((2, 36));
    }
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn split(path: &str) -> Vec<String> {
    path.split(':').filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// Exactly `size` bytes at `offset`. Grows as it reads, so a false size costs nothing.
fn at<R: Read + Seek>(source: &mut R, offset: u64, size: usize) -> Result<Vec<u8>, ElfError> {
    let bytes = up_to(source, offset, size)?;
    if bytes.len() < size {
        let what = if offset == 0 { ElfError::NotElf } else { ElfError::Damaged("cut off") };
        return Err(what);
    }
    Ok(bytes)
}

fn up_to<R: Read + Seek>(source: &mut R, offset: u64, size: usize) -> Result<Vec<u8>, ElfError> {
    // Offsets that do not fit a file are damage, not an I/O error.
    if offset > i64::MAX as u64 {
        return Err(ElfError::Damaged("an offset is out of range"));
    }
    source.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    source.by_ref().take(size as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn string_in<R: Read + Seek>(source: &mut R, table: u64, index: u64) -> Result<String, ElfError> {
    string_at(source, table.checked_add(index).ok_or(ElfError::Damaged("a name is out of range"))?)
}

fn string_at<R: Read + Seek>(source: &mut R, offset: u64) -> Result<String, ElfError> {
    let mut size = 256;
    loop {
        let bytes = up_to(source, offset, size)?;
        if let Some(end) = bytes.iter().position(|b| *b == 0) {
            return Ok(String::from_utf8_lossy(&bytes[..end]).into_owned());
        }
        if bytes.len() < size || size >= MAX_STRING {
            return Err(ElfError::Damaged("a name has no end"));
        }
        size = MAX_STRING;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_program() -> Vec<u8> {
        std::fs::read("/bin/sh")
            .unwrap_or_else(|_| std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes"))
    }

    #[test]
    fn reads_its_own_test_program() {
        let mut file = std::fs::File::open(std::env::current_exe().expect("own path")).expect("open");
        let info = read(&mut file).expect("an ELF file");
        assert!(info.class64 && info.is_executable && info.dynamic);
        assert!(info.needed.iter().any(|n| n == "libc.so.6"));
        assert!(info.interp.is_some() && info.soname.is_none());
        assert!(info.glibc_floor >= Some((2, 2)));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(glibc_version("GLIBC_2.34") > glibc_version("GLIBC_2.4"));
        assert_eq!(glibc_version("GLIBC_2.2.5"), Some((2, 2)));
        assert_eq!(glibc_version("GLIBC_PRIVATE"), None);
        assert_eq!(glibc_version("CXXABI_1.3"), None);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(parse(b""), Err(ElfError::NotElf)));
        assert!(matches!(
            parse(b"#!/bin/sh\necho a script long enough to hold a whole header, yes\n"),
            Err(ElfError::NotElf)
        ));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let mut data = b"\x7fELF\x02\x01\x01".to_vec();
            data.extend(tail);
            let _ = parse(&data);
        }

        #[test]
        fn cut_or_changed_programs_never_panic(
            keep in 0.0..1.0f64,
            changes in proptest::collection::vec((0usize..4096, any::<u8>()), 0..16),
        ) {
            let mut data = a_program();
            data.truncate((data.len() as f64 * keep) as usize);
            for (at, byte) in changes {
                if let Some(slot) = data.get_mut(at) {
                    *slot = byte;
                }
            }
            let _ = parse(&data);
        }
    }
}
