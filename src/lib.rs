//! stillframe publishes a ComfyUI environment as an immutable Nix store closure.
//!
//! ```text
//! environment ─▶ capture ─▶ inventory, lock ─▶ build ─▶ derivations, closure, snapshot
//! ```
//!
//! Layer rule (checked by `tests/layers.rs`): `formats` imports nothing of ours; `sys` and `store`
//! import `formats`; `capture` and `build` import `formats`, `store`, `sys` and the data types of the
//! room before them, never a room after them; only `cli` and `bin` see everything.

pub mod build;
#[cfg(feature = "workstation")]
pub mod capture;
pub mod cli;
pub mod formats;
pub mod gateway;
pub mod run;
pub mod ship;
pub mod store;
pub mod sys;
