//! stillframe publishes a ComfyUI environment as an immutable Nix store closure.
//!
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
pub mod protocol;
#[cfg(feature = "workstation")]
pub mod ship;
pub mod store;
pub mod sys;
pub mod words;
