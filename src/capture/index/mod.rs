//! Package indexes: which one the environment uses, and what it says about a wheel.
pub mod cache;
pub mod client;
pub mod listing;
pub mod lookup;
pub mod no_wheel;
mod pip_default;
pub mod provenance;
pub mod settings;
pub mod sources;
pub mod url;
mod uv_settings;
pub mod wheel;
