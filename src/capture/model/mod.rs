//! What a capture knows and hands on: plain data, the inventory, the lock and what a probe found.
pub mod change;
pub mod inventory;
pub mod lock;
pub mod probe;
pub mod pylock;
pub mod report;
pub mod used;
