//! What our programs say to each other, and the state that two of them share: plain data, no I/O.
pub mod callers;
pub mod control;
pub mod deliveries;
pub mod instance_id;
pub mod integrity;
pub mod jobs;
pub mod launch;
pub mod maintenance;
pub mod messages;
pub mod overview;
pub mod removal;
pub mod retention;
pub mod scaling;
pub mod spec;
pub mod version;
pub mod web_address;
pub mod wire;
