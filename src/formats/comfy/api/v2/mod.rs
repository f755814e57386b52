//! Comfy API v2, `/api/v2`, as Comfy's own SDKs speak it: bodies, answers and events, without any I/O. The shapes are
//! those of the description that `comfy-sdk` 0.5.0 comes with (`spec/openapi.yaml`, version 2.0.0), and what that SDK
//! sends and reads beyond it: `metadata`, the list of jobs.
//!
//! ```text
//! route ─▶ submission (core/ASSET) ─▶ … ─▶ job, output, progress ─▶ event
//!      └─▶ multipart, range ─▶ … ─▶ asset                    refusal: whatever is no answer
//! ```
pub mod asset;
pub mod event;
pub mod graph;
pub mod job;
pub mod listing;
pub mod multipart;
pub mod output;
pub mod progress;
pub mod range;
pub mod refusal;
pub mod route;
pub mod submission;
