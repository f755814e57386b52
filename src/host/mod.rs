//! On the host: activation, units, instances, history. And, on the workstation, one instance in the
//! foreground.
pub mod activating;
pub mod activation;
pub mod cancel;
pub mod change;
pub mod driver;
pub mod effects;
pub mod foreground;
pub mod gateway_units;
pub mod goal;
pub mod health;
pub mod instance;
pub mod journal;
pub mod layout;
pub mod lease;
pub mod lookup;
pub mod overview;
pub mod prepare;
pub mod receive;
pub mod reserve;
pub mod retention;
pub mod secrets;
pub mod session;
pub mod slot;
pub mod state;
pub mod units;
pub mod world;
