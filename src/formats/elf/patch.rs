//! Patching by appending: one new segment at the end of the file holds the program headers, the
//! interpreter's name, the string table and the dynamic section. Everything else keeps its file
//! offset and its address, so nothing that points at anything has to be found and changed.
mod dynamic;
mod object;

use dynamic::Dynamic;
pub use object::Patch;
use object::{CUT, NO_LOAD, Object};

use super::object::{
    ElfError, PHDR_SIZE, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_PHDR, SHDR_SIZE, Segment, u16_at, u32_at, u64_at,
};

const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_DYNAMIC: u32 = 6;
/// The patched object. The same input gives the same bytes.
pub fn patch(data: &[u8], patch: &Patch) -> Result<Vec<u8>, ElfError> {
    let texts = patch.interp.iter().chain(&patch.rpath).chain(&patch.add_needed);
    if texts.into_iter().any(|text| text.is_empty() || text.contains('\0')) {
        return Err(ElfError::Unsupported("a new name or path is empty or has a NUL in it"));
    }
    let object = Object::read(data)?;
    let changed = Dynamic::of(&object)?.apply(patch)?;

    let place = object.free_place(data.len() as u64)?;
    let mut segments = object.segments.clone();
    // Loadable segments must be in ascending order of address, and ours is the last.
    let last = segments.iter().rposition(|s| s.kind == PT_LOAD).ok_or(NO_LOAD)?;
    let ours = last + 1;
    segments.insert(ours, Segment { kind: PT_LOAD, ..place.segment(0, 0, place.page) });

    // The table of program headers comes first, so it is at the segment's own address: the kernel
    // hands its address to ld.so, and before Linux 5.18 computed it from the file offset alone.
    let table_size = (segments.len() * PHDR_SIZE) as u64;
    let mut body = vec![0; table_size as usize];
    let dynamic_at = append(&mut body, &changed.table);
    let strings_at = append(&mut body, &changed.strings);
    let interp_at = patch.interp.as_ref().map(|interp| {
        let mut bytes = interp.clone().into_bytes();
        bytes.push(0);
        (append(&mut body, &bytes), bytes.len() as u64)
    });
    put(&mut body, dynamic_at as usize + changed.strtab_slot, place.vaddr + strings_at)?;

    let size = body.len() as u64;
    let mut had_interp = false;
    for segment in &mut segments {
        let (kind, flags, align) = (segment.kind, segment.flags, segment.align);
        let moved = match kind {
            PT_PHDR => Some((0, table_size)),
            PT_DYNAMIC => Some((dynamic_at, changed.table.len() as u64)),
            PT_INTERP => {
                had_interp = true;
                interp_at
            }
            _ => None,
        };
        if let Some((at, size)) = moved {
            *segment = Segment { kind, flags, ..place.segment(at, size, align) };
        }
    }
    if patch.interp.is_some() && !had_interp {
        return Err(ElfError::Unsupported("it has no program interpreter to replace"));
    }
    if let Some(ours) = segments.get_mut(ours) {
        (ours.file_size, ours.mem_size) = (size, size);
    }
    let mut table = Vec::with_capacity(table_size as usize);
    segments.iter().for_each(|s| s.write(&mut table));
    body.get_mut(..table.len()).ok_or(CUT)?.copy_from_slice(&table);

    let mut out = data.to_vec();
    put(&mut out, 32, place.offset)?;
    let count = u16::try_from(segments.len()).ok().filter(|n| *n < 0xffff).ok_or(TOO_MANY)?;
    out.get_mut(56..58).ok_or(CUT)?.copy_from_slice(&count.to_le_bytes());
    let sections = [
        (SHT_DYNAMIC, object.dynamic.vaddr, Some((dynamic_at, changed.table.len() as u64))),
        (SHT_STRTAB, changed.old_strings, Some((strings_at, changed.strings.len() as u64))),
        (SHT_PROGBITS, object.interp.map_or(0, |s| s.vaddr), interp_at),
    ];
    for (kind, old, new) in sections {
        if let Some((at, size)) = new {
            move_section(&mut out, kind, old, place.vaddr + at, place.offset + at, size)?;
        }
    }
    out.resize(place.offset as usize, 0);
    out.extend_from_slice(&body);
    Ok(out)
}

const TOO_MANY: ElfError = ElfError::Unsupported("too many program headers");

fn append(body: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    body.resize(body.len().next_multiple_of(16), 0);
    let at = body.len() as u64;
    body.extend_from_slice(bytes);
    at
}

fn put(data: &mut [u8], at: usize, value: u64) -> Result<(), ElfError> {
    data.get_mut(at..at + 8).ok_or(CUT)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Section headers do not matter to ld.so, but debuggers and later patching read them. A table that
/// is missing or damaged is left as it is.
fn move_section(
    data: &mut [u8],
    kind: u32,
    old: u64,
    vaddr: u64,
    offset: u64,
    size: u64,
) -> Result<(), ElfError> {
    let table = u64_at(data, 40).ok_or(CUT)?;
    let count = usize::from(u16_at(data, 60).ok_or(CUT)?);
    let Ok(table) = usize::try_from(table) else {
        return Ok(());
    };
    if table == 0 || u16_at(data, 58).map(usize::from) != Some(SHDR_SIZE) {
        return Ok(());
    }
    for i in 0..count {
        let Some(at) = table.checked_add(i * SHDR_SIZE) else {
            return Ok(());
        };
        let (Some(found), Some(address)) =
            (u32_at(data, at.saturating_add(4)), u64_at(data, at.saturating_add(16)))
        else {
            return Ok(());
        };
        if found == kind && address == old && old != 0 {
            if at.checked_add(SHDR_SIZE).is_none_or(|end| end > data.len()) {
                return Ok(());
            }
            put(data, at + 16, vaddr)?;
            put(data, at + 24, offset)?;
            put(data, at + 32, size)?;
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
