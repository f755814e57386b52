//! lock -> derivations -> realised closure -> snapshot; diff, verify.
pub mod between;
pub mod compare;
pub mod diff;
pub mod graph;
pub mod licences;
pub mod manager_snapshot;
mod needed;
mod nodes;
pub mod realise;
pub mod recipe;
pub mod registry;
pub mod sbom;
pub mod scratch;
mod system;
pub mod verify;
