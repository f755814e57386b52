//! Webhooks and uploads: what others are told of a job, or sent of it. Nothing of a job waits for them.
//!
//! ```text
//! jobs::ending ─▶ events (which deliveries?) ─▶ ledger, in the transaction of the job's end
//!                                                   │
//!                       worker ◀── due, by place ───┘      a thread of its own: names that are looked up slowly,
//!                         │ gates (who rests)               handshakes and large files cost no request anything
//!                         ├─▶ webhook ─┐
//!                         └─▶ upload ──┴─▶ outbound ─▶ public (may this address be reached?), TLS, HTTP
//! ```
//!
//! What is not delivered is tried again (`backoff`), at its first try or its tenth under the same id: delivered at least
//! once, whatever dies. A place that fails rests, and keeps no other one waiting.
pub mod attempt;
pub mod backoff;
pub mod events;
pub mod gates;
pub mod handle;
pub mod outbound;
pub mod public;
pub mod told;
pub mod upload;
pub mod view;
pub mod webhook;
pub mod worker;
