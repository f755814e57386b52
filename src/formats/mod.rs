//! Other people's formats, pure: parse and print, no I/O, nothing of ours imported.
pub mod comfy;
#[cfg(feature = "workstation")]
pub mod credentials;
#[cfg(feature = "workstation")]
pub mod elf;
pub mod hex;
pub mod nix;
#[cfg(feature = "workstation")]
pub mod python;
#[cfg(feature = "workstation")]
pub mod redact;
pub mod sigv4;
pub mod webhook;
