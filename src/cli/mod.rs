//! The command lines: one file per subcommand, settings resolved once, one printer.
pub mod agent;
#[cfg(feature = "workstation")]
mod capture;
#[cfg(feature = "workstation")]
mod deploy;
#[cfg(feature = "workstation")]
mod deploy_host;
#[cfg(feature = "workstation")]
mod deployments;
#[cfg(feature = "workstation")]
mod detach;
#[cfg(feature = "workstation")]
mod doctor;
#[cfg(feature = "workstation")]
mod explain;
#[cfg(feature = "workstation")]
mod export;
#[cfg(feature = "workstation")]
mod fleet;
#[cfg(feature = "workstation")]
mod history;
#[cfg(feature = "workstation")]
mod host;
#[cfg(feature = "workstation")]
mod import;
#[cfg(feature = "workstation")]
mod import_check;
#[cfg(feature = "workstation")]
mod init;
#[cfg(feature = "workstation")]
mod inspect;
#[cfg(feature = "workstation")]
mod lock;
#[cfg(feature = "workstation")]
mod man;
#[cfg(feature = "workstation")]
mod mending;
#[cfg(feature = "workstation")]
mod prepare;
#[cfg(feature = "workstation")]
pub mod printer;
#[cfg(feature = "workstation")]
mod probe;
#[cfg(feature = "workstation")]
mod rollback;
#[cfg(feature = "workstation")]
mod rollout_run;
#[cfg(feature = "workstation")]
mod run;
#[cfg(feature = "workstation")]
mod schema;
#[cfg(feature = "workstation")]
pub mod settings;
#[cfg(feature = "workstation")]
mod snapshot;
#[cfg(feature = "workstation")]
mod snapshots;
#[cfg(feature = "workstation")]
mod values;
#[cfg(feature = "workstation")]
mod watch;
#[cfg(feature = "workstation")]
mod watching;
#[cfg(feature = "workstation")]
mod workstation;

#[cfg(feature = "workstation")]
pub use workstation::main;
