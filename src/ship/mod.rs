//! A snapshot's missing paths -> hosts, over SSH. The host needs the messages alone: of the
//! transfer (`wire`), of a deployment (`orders`), and what is to be served (`spec`).
#[cfg(feature = "workstation")]
pub mod agent;
#[cfg(feature = "workstation")]
pub mod ask;
#[cfg(feature = "workstation")]
pub mod config;
#[cfg(feature = "workstation")]
pub mod conversation;
#[cfg(feature = "workstation")]
pub mod copy;
#[cfg(feature = "workstation")]
pub mod hosts;
pub mod orders;
#[cfg(feature = "workstation")]
pub mod preflight;
#[cfg(feature = "workstation")]
pub mod quantity;
#[cfg(feature = "workstation")]
pub mod rollout;
#[cfg(feature = "workstation")]
pub mod send;
pub mod spec;
#[cfg(feature = "workstation")]
pub mod ssh;
pub mod wire;
