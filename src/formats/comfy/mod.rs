//! Formats of ComfyUI and ComfyUI-Manager.
pub mod manager_snapshot;
pub mod workflow;
