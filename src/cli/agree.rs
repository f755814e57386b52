//! Whether the user agrees to what was shown.
use super::printer::Printer;
use crate::sys::error::{Error, Kind, Result};
use std::io::{IsTerminal, Write};

/// `command`: how to say yes beforehand.
pub fn ask(command: &str, printer: &Printer) -> Result<()> {
    if printer.json || !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Input, "nothing was done: nobody can be asked here")
            .hint(format!("say yes beforehand: {command}")));
    }
    // What is not seen is not agreed to.
    std::io::stderr().write_all(b"Do this? [y/N] ").map_err(|e| Error::io("ask on", "standard error", e))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| Error::io("read", "the answer", e))?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Error::new(Kind::Interrupted, "nothing was done").hint("run it again and answer y, or give --yes"))
}
