//! Comfy API v2, for the clients that Comfy's own SDKs make. It is another view of the same jobs: what is submitted here is
//! accepted as `/prompt` is, and what `/prompt` accepted is seen here.
//!
//! ```text
//! door ─▶ submit ─▶ accept            events ◀─ hub (lives)
//!    ├──▶ jobs ─▶ view ─▶ outputs        content ─▶ an instance's /view, or
//!    └──▶ assets ───────▶ files          └──────▶ files
//! ```
pub mod assets;
pub mod content;
pub mod door;
pub mod events;
pub mod jobs;
pub mod outputs;
pub mod reply;
pub mod submit;
pub mod view;
