//! Side effects: errors with a kind and a hint, files, locks, clock, progress.
pub mod clock;
pub mod error;
pub mod files;
pub mod progress;
pub mod words;
