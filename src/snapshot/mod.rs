//! Snapshots on this workstation: an environment becomes one, and one is looked at again. It drives `capture` and `closure`,
//! and runs the environment's own code only where that is asked for. It prints nothing: whoever calls it is told by typed
//! events (`events`), and gives what it needs as values (`subject`).
//!
//! ```text
//! subject ─▶ reading (capture) ─▶ take ─▶ registry
//!                                  ├─▶ import_check (from the snapshot)
//!                                  └─▶ probe (the environment's own server)
//!                 places (whose files are whose) ─▶ both, and serve, are observed ─▶ observed (what a host may lack)
//! ```
pub mod config;
pub mod doctor;
pub mod events;
pub mod found;
mod import_check;
mod importer;
mod known_good;
mod left_behind;
pub mod make;
mod mend;
mod observed;
pub mod packages;
mod places;
mod probe;
pub mod reading;
pub mod remembered;
pub mod report;
pub mod serve;
pub mod subject;
pub mod take;
pub mod verify;
