//! Pipes and sockets to a program that may be silent for minutes, while it builds or while its network is gone; a
//! Ctrl-C must not wait for it. Closing the connection then makes the program stop what it does for us.
use crate::sys::progress::check_interrupt;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::io::{ErrorKind, Read, Result, Write};
use std::os::fd::AsFd;

/// How often a wait for the other end looks up.
const LOOK_UP: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Once the user has interrupted, nothing is waited for any more.
pub struct Patient<T>(pub T);

fn wait(on: &impl AsFd, for_what: PollFlags) -> Result<()> {
    loop {
        match rustix::event::poll(&mut [PollFd::new(on, for_what)], Some(&LOOK_UP)) {
            Ok(0) => {
                if check_interrupt().is_err() {
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

impl<T: Read + AsFd> Read for Patient<T> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        wait(&self.0, PollFlags::IN)?;
        self.0.read(buffer)
    }
}

impl<T: AsFd> Patient<T> {
    /// A pipe that takes some of a write takes all of it, however long that lasts, unless it is told not to wait.
    pub fn writer(to: T) -> Result<Patient<T>> {
        rustix::io::ioctl_fionbio(&to, true)?;
        Ok(Patient(to))
    }
}

impl<T: Write + AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => wait(&self.0, PollFlags::OUT)?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_gets_all_of_it() {
        let (mut input, output) = std::io::pipe().unwrap();
        let mut output = Patient::writer(output).unwrap();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut all = Vec::new();
            input.read_to_end(&mut all).map(|_| all)
        });
        let bytes = vec![7; 1 << 20];
        output.write_all(&bytes).unwrap();
        drop(output);
        assert_eq!(reader.join().unwrap().unwrap(), bytes);
    }
}
