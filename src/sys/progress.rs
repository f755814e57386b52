//! What long work says of itself, for any printer: a bar, plain lines, JSON.
use std::sync::atomic::{AtomicBool, Ordering};

/// How much there is to do in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    Bytes(u64),
    Items(u64),
    Unknown,
}

impl Amount {
    pub fn total(self) -> Option<u64> {
        match self {
            Amount::Bytes(total) | Amount::Items(total) => Some(total),
            Amount::Unknown => None,
        }
    }
}

pub trait Progress: Send + Sync {
    fn stage(&self, name: &str, of: Amount);
    /// So much more of the stage is done, in bytes or items.
    fn advance(&self, amount: u64);
    /// A line worth keeping.
    fn note(&self, text: &str);
    /// Work beside other work, one host's among several, that counts bytes: shown on a line of its own, as long as it lives.
    fn beside(&self, name: &str, bytes: u64) -> Box<dyn Progress>;
    /// Prints a line of the result, with whatever is drawn out of its way.
    fn aside(&self, print: &mut dyn FnMut()) {
        print();
    }
}

/// Says nothing: tests, and callers that print by themselves.
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &str, _: Amount) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn beside(&self, _: &str, _: u64) -> Box<dyn Progress> {
        Box::new(Silent)
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Set by the signal handler of the command line; long loops ask `check_interrupt`.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

pub fn check_interrupt() -> crate::sys::error::Result<()> {
    use crate::sys::error::{Error, Kind};
    if INTERRUPTED.load(Ordering::SeqCst) {
        return Err(Error::new(Kind::Interrupted, "interrupted")
            .hint("run the same command again: it goes on from what is done"));
    }
    Ok(())
}
