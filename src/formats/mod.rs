//! Other people's formats, pure: parse and print, no I/O, nothing of ours imported.
pub mod comfy;
pub mod elf;
pub mod nix;
pub mod python;
