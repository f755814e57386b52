//! What systemd and a service tell each other: the sockets that systemd passes (sd_listen_fds(3)) and the
//! service's state (sd_notify(3)).
use crate::sys::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

/// The name under which a gateway passes its successor a stream to talk over (LISTEN_FDNAMES).
pub const HANDOVER: &str = "stillframe-handover";

/// What was passed in.
#[derive(Default)]
pub struct Passed {
    pub listener: Option<TcpListener>,
    /// From the process that this one takes over from.
    pub handover: Option<UnixStream>,
}

pub fn passed() -> Result<Passed> {
    let bad = |text: &str| Error::new(Kind::Input, text.to_string());
    let fds = sd_listen_fds::get().map_err(|e| bad("cannot read LISTEN_FDS").caused_by(e))?;
    let mut passed = Passed::default();
    for (name, fd) in fds {
        let fd: OwnedFd = fd.into_std();
        // It comes open for programs that this one starts, too. The successor is passed it on purpose, no
        // other is.
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| bad("a socket that LISTEN_FDS announces is not there").caused_by(e))?;
        if name.as_deref() == Some(HANDOVER) {
            passed.handover = Some(UnixStream::from(fd));
        } else if passed.listener.is_some() {
            return Err(bad("LISTEN_FDS passes more than one socket to listen on"));
        } else {
            passed.listener = Some(TcpListener::from(fd));
        }
    }
    Ok(passed)
}

/// Tells systemd, if it listens.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // A service manager that does not hear us falls back on its own time limits.
    let _ = send(&path, state);
}

fn send(path: &OsString, state: &str) -> std::io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("stillframe-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_address).unwrap();
        let mut buffer = [0; 64];
        for (socket, address) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            send(&address, "READY=1").unwrap();
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1");
        }
    }
}
