//! What an environment is: read, never run.
pub mod index;
pub mod provenance;
