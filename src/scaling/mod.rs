//! How many instances are to run: a pure function of figures and of the time, without a host, a gateway or a clock.
//!
//! ```text
//! policy, order, time ─▶ schedule::bounds ─▶ policy::decide ◀─ figures, memory of the last minutes
//! ```
//!
//! The gateway collects the figures and carries decisions out; the agent asks for the bounds alone.
pub mod estimate;
pub mod policy;
pub mod schedule;
