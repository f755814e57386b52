//! Running instances of a snapshot. Here: one instance in the foreground, on this machine, with no
//! host and no systemd.
pub mod foreground;
pub mod slot;
