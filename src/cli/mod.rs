//! The command lines: one file per subcommand, settings resolved once, one printer.
pub mod agent;
#[cfg(feature = "workstation")]
mod capture;
#[cfg(feature = "workstation")]
mod host;
#[cfg(feature = "workstation")]
mod inspect;
#[cfg(feature = "workstation")]
mod lock;
#[cfg(feature = "workstation")]
pub mod printer;
#[cfg(feature = "workstation")]
mod probe;
#[cfg(feature = "workstation")]
mod run;
#[cfg(feature = "workstation")]
pub mod settings;
#[cfg(feature = "workstation")]
mod snapshot;
#[cfg(feature = "workstation")]
mod snapshots;
#[cfg(feature = "workstation")]
mod workstation;

#[cfg(feature = "workstation")]
pub use workstation::main;
