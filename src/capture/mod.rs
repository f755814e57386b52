//! environment -> inventory -> lock: read, pin, classify, audit. Never changes the environment and
//! never runs anything of it (the probe, asked for by name, aside).
pub mod inventory;
pub mod tree;
//! environment -> inventory -> lock: read, pin, classify, audit.
pub mod audit;
pub mod interpreter;
