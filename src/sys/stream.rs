//! A connection to an HTTP server of this host, over TCP or over a Unix socket: one type, so that nobody who
//! reads or writes it cares which.
use crate::sys::address::Address;
use rustix::fs::{FileType, Mode, OFlags};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Between two attempts to get into a full backlog.
const FULL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The same call on whichever it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
        }
    };
}

/// Whether an error says that nothing listens: a refused connection, or a socket that is not there (yet).
pub fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

impl Stream {
    /// Waits for as long as the other side's backlog is full: the caller has a limit of time.
    pub async fn connect(address: &Address) -> io::Result<Stream> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                // Small writes go out at once: a WebSocket's messages, the end of a body.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => loop {
                let socket = Socket::open(path)?;
                match UnixStream::connect(socket.path()).await {
                    // The backlog is full. Over TCP the kernel would try again by itself (connect(2), EAGAIN).
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL).await,
                    other => return other.map(Stream::Unix),
                }
            },
        }
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_read_ready(cx))
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_write_ready(cx))
    }

    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, inner => inner.try_read(buffer))
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, inner => inner.try_write(bytes))
    }
}

/// A socket in a folder that somebody else may write: a link that lies there in its place is not followed.
struct Socket(OwnedFd);

impl Socket {
    fn open(path: &Path) -> io::Result<Socket> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind == FileType::Socket { Ok(Socket(file)) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Its name in this process, which leads to nothing else.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, inner => inner.as_fd())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_in_the_place_of_a_socket_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("http.sock"), dir.path().join("control.sock"));
        let _listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
        assert!(Stream::connect(&Address::Unix(other.clone())).await.is_ok());
        std::os::unix::fs::symlink(&other, &own).unwrap();
        let refused = Stream::connect(&Address::Unix(own)).await.unwrap_err();
        assert!(is_refused(&refused), "{refused}");
    }
}
