//! The one client of a Nix store: the worker protocol over any byte stream. And what lies on disk of a store of this machine.
pub mod ahead;
pub mod client;
pub mod connect;
pub mod damage;
pub mod import;
mod operations;
pub mod tree_hash;
pub use ahead::Text;
pub use client::{Event, PathInfo, Store};
pub use connect::StoreConfig;
