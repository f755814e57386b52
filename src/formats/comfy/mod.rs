//! Formats of ComfyUI, of ComfyUI-Manager, and of tools that describe environments.
pub mod api;
#[cfg(feature = "workstation")]
pub mod description;
pub mod log;
#[cfg(feature = "workstation")]
pub mod manager_snapshot;
pub mod socket;
pub mod workflow;
