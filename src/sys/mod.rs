//! Side effects: errors with a kind and a hint, files, locks, clock, progress, programs,
//! systemd, signals, descriptors, lines for people, small HTTP questions, what a program uses of its machine.
pub mod address;
pub mod clock;
mod cover;
pub mod descriptors;
pub mod error;
pub mod fault;
pub mod files;
pub mod http;
pub mod observe;
pub mod parallel;
pub mod patient;
pub mod places;
pub mod process;
pub mod programs;
pub mod progress;
pub mod random;
pub mod say;
pub mod seal;
pub mod signals;
pub mod stream;
pub mod systemd;
pub mod who;
