//! lock -> derivations -> realised closure -> snapshot; diff, verify.
pub mod diff;
pub mod graph;
pub mod launch;
pub mod realise;
pub mod registry;
pub mod verify;
