//! The jobs of one service, owned by its gateway: what is accepted is on disk before its client hears so, and
//! it runs, whatever dies in between.
//!
//! ```text
//! accept ─▶ ledger (one writer thread, one fsync for all that waits) ─▶ sqlite
//!    └─▶ queue (priority, fairness, order) ─▶ the gateway's dispatch
//! ```
//!
//! `model` says what a job is and which state follows which. Nothing here knows HTTP, ComfyUI or instances.
pub mod asset;
#[cfg(test)]
mod bench_tests;
pub mod delivery;
#[cfg(test)]
mod fixture;
pub mod ledger;
pub mod model;
pub mod queue;
pub mod sqlite;
pub mod store;
pub mod writer;
