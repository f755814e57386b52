//! Package indexes: which one the environment uses, and what it says about a wheel.
pub mod cache;
pub mod client;
pub mod listing;
pub mod settings;

pub use client::{ClientOptions, IndexClient, Stats};
pub use listing::WheelListing;
pub use settings::{IndexSettings, IndexUrl, SettingsInput};
