//! The one client of a Nix store: the worker protocol over any byte stream.
pub mod ahead;
pub mod client;
pub mod connect;
pub mod import;
mod operations;
pub use ahead::Text;
pub use client::{Event, PathInfo, Store};
pub use connect::StoreConfig;
