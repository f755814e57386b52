//! lock -> derivations -> realised closure -> snapshot.
pub mod runtime;
