//! environment -> inventory -> lock: read, pin, classify, audit. Never changes the environment and
//! never runs anything of it (the probe, asked for by name, aside).
pub mod ask;
pub mod audit;
pub mod cache;
pub mod collect;
pub mod digest;
pub mod environment;
pub mod git;
pub mod git_compare;
pub mod index;
pub mod installed;
pub mod intent;
pub mod interpreter;
pub mod inventory;
pub mod left_out;
pub mod lock;
pub mod main_program;
pub mod materialise;
pub mod memo;
pub mod nar;
pub mod outside;
pub mod outside_source;
pub mod packs;
pub mod paths;
pub mod pin;
pub mod prefix;
pub mod probe_result;
pub mod promise;
pub mod provenance;
pub mod pth;
pub mod pylock;
pub mod python;
pub mod reach;
pub mod rules;
pub mod runtime;
pub mod scan;
pub mod schemes;
pub mod secrets;
pub mod tree;
pub mod trees;
pub mod unowned;
pub mod walk;
pub mod whole;

/// Raised when the same files would give other trees than before: the metadata index starts anew.
pub const CAPTURE_REVISION: u32 = 5;
