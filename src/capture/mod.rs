//! environment -> inventory -> lock: read, pin, classify, audit. Never changes the environment and
//! never runs anything of it (the probe, asked for by name, aside).
pub mod cache;
pub mod collect;
pub mod environment;
pub mod git;
pub mod git_compare;
pub mod inventory;
pub mod main_program;
pub mod outside;
pub mod packs;
pub mod paths;
pub mod rules;
pub mod scan;
pub mod secrets;
pub mod tree;
//! environment -> inventory -> lock: read, pin, classify, audit.
pub mod audit;
pub mod interpreter;
pub mod walk;
//! What an environment is: read, never run.
pub mod index;
pub mod provenance;
