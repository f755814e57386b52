//! stillframe publishes a ComfyUI environment as an immutable Nix store closure, and serves it.
//!
//! ```text
//! environment ─▶ capture ─▶ inventory, lock ─▶ closure ─▶ derivations, realised closure, snapshot
//!     ─▶ ship ─▶ paths on the host ─▶ host ─▶ generation, instances, history
//!                                     gateway ─▶ the traffic
//! ```
//!
//! `snapshot` drives `capture` and `closure` on the workstation, `deploy` drives `ship` and the host over one conversation. `protocol` holds
//! what the programs say to each other. Below them are `store`, the one client of a Nix store; `sys`, side
//! effects; `formats`, other people's formats; `jobs`, what the gateway is asked to run; `scaling`, how many instances that takes; and `words`. `cli` is the command line of the workstation's
//! program, `agent` that of the host's, and `bin` starts them. `capture`, `closure`, `host` and `gateway` are
//! the stages themselves.
//!
//! Layer rule: data flows one way, and no room imports one after it. The list, checked together with import
//! circles, is in `tests/layers.rs`; ARCHITECTURE.md shows it as a table.
//!
//! The host's program is built without the feature `workstation`, so that none of what only a workstation needs
//! is linked into it.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod agent;
#[cfg(feature = "workstation")]
pub mod capture;
#[cfg(feature = "workstation")]
pub mod cli;
#[cfg(feature = "workstation")]
pub mod closure;
#[cfg(feature = "workstation")]
pub mod deploy;
pub mod formats;
pub mod gateway;
pub mod host;
pub mod jobs;
pub mod protocol;
pub mod scaling;
#[cfg(feature = "workstation")]
pub mod ship;
#[cfg(feature = "workstation")]
pub mod snapshot;
pub mod store;
pub mod sys;
pub mod words;
