//! On the host: activation, units, instances, history. And, on the workstation, one instance in the
//! foreground.
pub mod activation;
pub mod control;
#[cfg(feature = "workstation")]
pub mod foreground;
pub mod health;
pub mod receive;
pub mod slot;
pub mod spec;
pub mod state;
pub mod world;
