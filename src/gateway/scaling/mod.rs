//! The number of instances, where it changes: figures are collected, `scaling::policy` decides, and the root program of the
//! host is asked to carry that out. This process starts and stops nothing itself.
//!
//! ```text
//! run ─▶ figures (jobs, requests, instances) ─▶ policy::decide ─▶ ask ─▶ the root program ─▶ orders::set
//!  └─▶ state (what is shown: status, metrics, pages) ◀─ jobs that have ended
//! ```
pub mod ask;
pub mod figures;
pub mod run;
pub mod state;
