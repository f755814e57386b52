//! ComfyUI's HTTP API as a client sees it: its paths, and of its bodies what we read.
//!
//! What is said here was recorded from ComfyUI 0.33.0 (`tests/golden/comfyui-wire`) and read in the source up to
//! 0.38.1: `server.py` (the paths), `execution.py` (the history), `comfy_execution/jobs.py` (jobs). What an
//! older or a newer version says otherwise is read as if it were not there.
pub mod classes;
pub mod history;
pub mod ids;
pub mod paths;
pub mod prompt;
pub mod route;
