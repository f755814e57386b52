//! The store client against real daemons, over the worker protocol: the machine's Nix (2.8 on Debian
//! 12) and Nix 2.26. What goes in comes out, roots hold, builds build, and each failure says what it is.
mod builds;
#[path = "../common/mod.rs"]
mod common;
mod fakes;
mod host;
mod paths;
