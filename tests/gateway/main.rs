//! The gateway as it runs: the real program, stand-in instances that answer in ComfyUI's shapes, and clients
//! that behave and that do not.
mod affinity;
mod client;
mod control;
mod failures;
mod harness;
mod limits;
mod load;
mod origins;
mod pages;
mod process;
mod requests;
mod rotation;
mod shares;
mod standin;
mod tickets;
mod websockets;
