//! ComfyUI's HTTP API as a client sees it: its paths, and of its bodies what we read.
//!
//! What is said here was recorded from ComfyUI 0.33.0 (`tests/golden/comfyui-wire`) and read in the source of
//! later versions, 0.38.1 the last: `server.py` (paths, prompts), `execution.py` (history), and
//! `comfy_execution/jobs.py` (jobs). Where an answer lacks a field, or has another shape
//! there, it is read as if it said nothing.
pub mod classes;
pub mod extensions;
pub mod history;
pub mod ids;
pub mod invalid;
pub mod paths;
pub mod prompt;
pub mod python_json;
pub mod query;
pub mod route;
pub mod shapes;
pub mod submission;
pub mod v2;
