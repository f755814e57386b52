//! environment -> inventory -> lock: read, pin, classify, audit. Never changes the environment and
//! never runs anything of it (the probe, asked for by name, aside).
//!
//! ```text
//! pipeline ─▶ comfy (main program, packs, cache) ─┐
//!     │  └──▶ python (distributions) ─▶ index      ├─▶ trees ─▶ model (inventory, lock)
//!     └─────▶ runtime (interpreter) ─▶ audit ──────┘     └─ files, git
//!         └─▶ system (programs, files of the system) ─▶ trees
//! ```
pub mod audit;
pub mod comfy;
pub mod files;
pub mod git;
pub mod index;
pub mod intent;
pub mod model;
pub mod pipeline;
pub mod python;
pub mod runtime;
pub mod system;
pub mod trees;
