//! The gateway owns the jobs: what it has accepted will run, once, whatever dies.
//!
//! ```text
//! POST /prompt ─▶ accept ─▶ ledger (on disk) ─▶ queue ─▶ engine.dispatch ─▶ seat, one for each instance
//!                                                                            │ sending ─▶ the instance's /prompt
//!                                                                            │ listening ◀─ its WebSocket
//!                                                                            │ reconcile ◀─ its queue and history
//!                                                                            └ ending ─▶ ledger, hub (clients)
//!                                                                                telling ─▶ deliveries (others)
//! GET /queue, /history, /api/jobs ─▶ answers        the agent's questions ─▶ operator        start, table ─▶ owner
//! ```
//!
//! Rules that keep the promise:
//!
//! 1. A job is on disk before its client hears 200, and so is the instance that it is given to before that hears
//!    of it. So whoever comes after a crash knows whom to ask.
//! 2. A job is given to a second instance only when the first one says that it does not have it, or when the
//!    first one's process is gone.
//! 3. What an instance says of a job goes to the client in its order, and the end only when it is on disk, with the
//!    files that the job put out.
pub mod accept;
pub mod answers;
pub mod call;
pub mod door;
pub mod ending;
pub mod engine;
pub mod files;
pub mod inputs;
pub mod listening;
pub mod made;
pub mod messages;
pub mod operator;
pub mod outputs;
pub mod owner;
pub mod place;
pub mod process;
pub mod reconcile;
pub mod relay;
pub mod seat;
pub mod sending;
pub mod service;
pub mod telling;
pub mod v2;
