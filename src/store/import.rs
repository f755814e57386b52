//! Adding paths that are known already: with their references, hash and deriver, from another store.
use super::client::{PathInfo, Store};
use crate::formats::nix::store_path::StorePath;
use crate::formats::nix::worker::{WriteWire, op};
use crate::sys::error::Result;
use std::io::Write;

impl Store {
    /// Adds a path with its NAR, which `write` streams. The daemon checks the hash. What is not
    /// content-addressed needs a daemon that trusts its user. With `repair` also a path that the store
    /// believes to have.
    pub fn add_nar(
        &mut self,
        path: &StorePath,
        info: &PathInfo,
        repair: bool,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let text = self.absolute(path);
        let deriver = info.deriver.as_ref().map(|d| self.absolute(d)).unwrap_or_default();
        let references: Vec<String> = info.references.iter().map(|p| self.absolute(p)).collect();
        self.ask_with_archive(
            |out| {
                out.put_number(op::ADD_TO_STORE_NAR)?;
                out.put_bytes(text.as_bytes())?;
                out.put_bytes(deriver.as_bytes())?;
                out.put_bytes(info.nar_hash.to_hex().as_bytes())?;
                out.put_strings(&references)?;
                // Registered now; its size; not "ultimate" (it was not built here); no signatures.
                out.put_number(0)?;
                out.put_number(info.nar_size)?;
                out.put_number(0)?;
                out.put_number(0)?;
                out.put_bytes(info.ca.as_bytes())?;
                out.put_number(u64::from(repair))?;
                // Signatures are not asked for: whoever may run a trusted daemon answers for it.
                out.put_number(1)
            },
            write,
            |_| Ok(()),
        )
    }
}
