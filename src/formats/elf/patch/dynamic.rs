//! The dynamic section and its strings, changed as a patch asks.
use super::object::{CUT, Object, Patch, slice};
use crate::formats::elf::object::{
    DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, DYN_SIZE, ElfError, offset_of, u64_at,
};

pub(super) struct Dynamic<'a> {
    entries: Vec<(u64, u64)>,
    strings: &'a [u8],
    strings_vaddr: u64,
}

pub(super) struct Changed {
    pub table: Vec<u8>,
    pub strings: Vec<u8>,
    pub old_strings: u64,
    /// Where in `table` the new address of the string table belongs.
    pub strtab_slot: usize,
}

impl<'a> Dynamic<'a> {
    pub fn of(object: &Object<'a>) -> Result<Dynamic<'a>, ElfError> {
        let table = slice(object.data, object.dynamic.offset, object.dynamic.file_size)?;
        let entries: Vec<(u64, u64)> = (0..table.len() / DYN_SIZE)
            .map_while(|i| Some((u64_at(table, i * DYN_SIZE)?, u64_at(table, i * DYN_SIZE + 8)?)))
            .take_while(|(tag, _)| *tag != DT_NULL)
            .collect();
        let value = |tag| entries.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
        let none = || ElfError::Damaged("the dynamic section has no string table");
        let strings_vaddr = value(DT_STRTAB).ok_or_else(none)?;
        let size = value(DT_STRSZ).ok_or_else(none)?;
        let offset = offset_of(&object.segments, strings_vaddr).ok_or_else(none)?;
        let strings = slice(object.data, offset, size)?;
        Ok(Dynamic { entries, strings, strings_vaddr })
    }

    pub fn apply(self, patch: &Patch) -> Result<Changed, ElfError> {
        let mut strings = self.strings.to_vec();
        let mut entries = self.entries;
        let present: Vec<&[u8]> = entries
            .iter()
            .filter(|(tag, _)| *tag == DT_NEEDED)
            .filter_map(|(_, at)| self.strings.get(usize::try_from(*at).ok()?..))
            .filter_map(|rest| rest.split(|b| *b == 0).next())
            .collect();
        let mut behind = entries.iter().rposition(|(t, _)| *t == DT_NEEDED).map_or(0, |i| i + 1);
        for (i, library) in patch.add_needed.iter().enumerate() {
            if present.contains(&library.as_bytes()) || patch.add_needed[..i].contains(library) {
                continue;
            }
            entries.insert(behind, (DT_NEEDED, add_string(&mut strings, library)));
            behind += 1;
        }
        if let Some(rpath) = &patch.rpath {
            entries.retain(|(tag, _)| !matches!(*tag, DT_RPATH | DT_RUNPATH));
            entries.insert(behind, (DT_RPATH, add_string(&mut strings, rpath)));
        }
        let mut strtab_slot = None;
        let mut table = Vec::new();
        for (tag, value) in &entries {
            let value = match *tag {
                DT_STRSZ => strings.len() as u64,
                DT_STRTAB => {
                    strtab_slot = Some(table.len() + 8);
                    *value
                }
                _ => *value,
            };
            table.extend_from_slice(&tag.to_le_bytes());
            table.extend_from_slice(&value.to_le_bytes());
        }
        table.extend_from_slice(&[0; DYN_SIZE]);
        Ok(Changed { table, strings, old_strings: self.strings_vaddr, strtab_slot: strtab_slot.ok_or(CUT)? })
    }
}

fn add_string(strings: &mut Vec<u8>, text: &str) -> u64 {
    let at = strings.len() as u64;
    strings.extend_from_slice(text.as_bytes());
    strings.push(0);
    at
}
