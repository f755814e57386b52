//! environment -> inventory -> lock: read, pin, classify, audit.
pub mod audit;
pub mod interpreter;
