//! Host configs, SSH, preflight; a snapshot's missing paths -> hosts.
pub mod agent;
pub mod ask;
pub mod config;
pub mod conversation;
pub mod copy;
pub mod gate;
pub mod hosts;
pub mod master;
pub mod nix_settings;
pub mod ports;
pub mod preflight;
pub mod quantity;
pub mod send;
#[cfg(test)]
pub mod simulated;
pub mod ssh;
pub mod way;
