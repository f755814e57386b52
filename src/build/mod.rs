//! lock -> derivations -> realised closure -> snapshot; diff, verify. The host needs the launch file alone.
#[cfg(feature = "workstation")]
pub mod compare;
#[cfg(feature = "workstation")]
pub mod diff;
#[cfg(feature = "workstation")]
pub mod graph;
pub mod launch;
#[cfg(feature = "workstation")]
mod nodes;
#[cfg(feature = "workstation")]
pub mod realise;
#[cfg(feature = "workstation")]
pub mod recipe;
#[cfg(feature = "workstation")]
pub mod registry;
#[cfg(feature = "workstation")]
pub mod sbom;
#[cfg(feature = "workstation")]
pub mod scratch;
#[cfg(feature = "workstation")]
pub mod verify;
