//! A snapshot's missing paths -> hosts, over SSH. The host needs the transfer's messages alone.
#[cfg(feature = "workstation")]
pub mod agent;
#[cfg(feature = "workstation")]
pub mod copy;
#[cfg(feature = "workstation")]
pub mod hosts;
#[cfg(feature = "workstation")]
pub mod preflight;
#[cfg(feature = "workstation")]
pub mod send;
#[cfg(feature = "workstation")]
pub mod ssh;
pub mod wire;
