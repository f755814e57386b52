//! Formats of Nix: hashes, store paths, derivations, NAR, worker protocol messages.
pub mod aterm;
pub mod base32;
pub mod derivation;
pub mod hash;
pub mod nar;
pub mod store_path;
pub mod worker;
