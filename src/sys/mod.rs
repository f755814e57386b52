//! Side effects: errors with a kind and a hint, files, processes, clock.
pub mod error;
