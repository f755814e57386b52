//! The way to a host: what runs a command there. There is one, ssh's master connection (`master`); a simulated fleet
//! has another (`simulated`), so that what is above it is tried on more hosts than a machine can boot.
use crate::sys::process::{Failure, Output};
use std::io::Read;
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::Duration;

/// A command under way on a host.
pub struct Client {
    pub input: ChildStdin,
    pub output: ChildStdout,
    /// Its standard error.
    pub errors: Box<dyn Read + Send>,
    /// The process here that carries it, to be waited for.
    pub child: Option<Child>,
}

pub trait Way: Send + Sync {
    /// Runs a command, whose words arrive as they are, to its end. `shown` is what messages call it.
    fn attempt(
        &self,
        words: &[&str],
        shown: &str,
        input: &[u8],
        limit: Duration,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Output, Failure>;

    /// Starts a command that is talked to.
    fn start(&self, words: &[&str]) -> std::io::Result<Client>;
}
