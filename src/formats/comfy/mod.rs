//! Formats of ComfyUI, of ComfyUI-Manager, and of tools that describe environments.
#[cfg(feature = "workstation")]
pub mod description;
pub mod manager_snapshot;
pub mod workflow;
