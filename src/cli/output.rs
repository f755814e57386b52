//! Standard output. A write that fails is remembered: what was begun goes on to its end, nothing more is printed, and the
//! exit status says it, unless the reader has closed a pipe because it has enough (`| head`).
//!
//! Text for people is made harmless here once more, whatever was forgotten where it was put together: only line breaks and
//! our own colours reach the terminal.
use super::exit;
use crate::sys::error::{Error, Kind};
use crate::words::harmless;
use parking_lot::Mutex;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

#[derive(Default)]
pub struct Output {
    failed: Mutex<Option<io::Error>>,
}

impl Output {
    /// A line for people.
    pub fn line(&self, text: &str) {
        self.raw(&format!("{}\n", harmless(text)));
    }

    /// A document, as it is.
    pub fn raw(&self, text: &str) {
        self.write_to(&mut io::stdout().lock(), text.as_bytes());
    }

    fn write_to(&self, out: &mut dyn Write, bytes: &[u8]) {
        let mut failed = self.failed.lock();
        if failed.is_none() {
            *failed = out.write_all(bytes).and_then(|()| out.flush()).err();
        }
    }

    /// Nobody gets what is printed: what does nothing but print may end.
    pub fn is_gone(&self) -> bool {
        self.failed.lock().is_some()
    }

    /// What went wrong with it, where that is worth an error.
    pub fn error(&self) -> Option<Error> {
        let failed = self.failed.lock();
        let e = failed.as_ref().filter(|e| e.kind() != ErrorKind::BrokenPipe)?;
        let error = Error::new(Kind::Io, "cannot write to standard output").caused_by(e.to_string());
        Some(error.hint("the work itself went on as usual; only what it printed is incomplete"))
    }

    /// The exit status of a command that came to `code`.
    pub fn verdict(&self, code: ExitCode) -> ExitCode {
        if code == ExitCode::SUCCESS && self.error().is_some() { exit::of(Kind::Io) } else { code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind, Vec<u8>);

    impl Write for Fails {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend(bytes);
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_closed_pipe_is_none() {
        for (kind, code) in
            [(ErrorKind::StorageFull, ExitCode::from(1)), (ErrorKind::BrokenPipe, ExitCode::SUCCESS)]
        {
            let (output, mut out) = (Output::default(), Fails(kind, Vec::new()));
            assert_eq!(output.verdict(ExitCode::SUCCESS), ExitCode::SUCCESS);
            output.write_to(&mut out, b"one");
            output.write_to(&mut out, b"two");
            assert!(output.is_gone() && out.1 == b"one");
            assert_eq!(output.verdict(ExitCode::SUCCESS), code);
            // What came of the work itself counts more.
            assert_eq!(output.verdict(ExitCode::from(3)), ExitCode::from(3));
        }
    }
}
