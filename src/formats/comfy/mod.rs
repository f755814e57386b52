//! Formats of ComfyUI and ComfyUI-Manager.
