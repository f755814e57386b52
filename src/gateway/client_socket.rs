//! A client's socket, which tells its connection's `Client` when bytes move, and lingers at the end.
use crate::gateway::client::{Client, Phase};
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub struct ClientSocket {
    pub stream: TcpStream,
    client: Arc<Client>,
    /// Read before the connection rested, and not yet read again.
    ahead: Bytes,
    shut: bool,
}

impl ClientSocket {
    pub fn new(stream: TcpStream, client: Arc<Client>) -> ClientSocket {
        ClientSocket { stream, client, ahead: Bytes::new(), shut: false }
    }

    /// Puts back what was read too far: the start of a request whose rest is not here yet.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.ahead = Bytes::copy_from_slice(bytes);
    }

    /// Ready when there is something to read, be it only the end.
    pub fn poll_more(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() { self.stream.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
    }

    fn wrote(&self, offered: usize, done: &Poll<io::Result<usize>>) {
        let n = if let Poll::Ready(Ok(n)) = done { *n } else { 0 };
        self.client.set_written(n == offered);
        if n > 0 && matches!(self.client.phase(), Phase::Stream | Phase::Idle) {
            self.client.touch();
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = if self.ahead.is_empty() {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        } else {
            let n = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(n));
            Poll::Ready(Ok(()))
        };
        if buffer.filled().len() > before && self.client.phase() == Phase::Idle {
            self.client.enter(Phase::Head);
        }
        done
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(bytes.len(), &done);
        done
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(slices.iter().map(|slice| slice.len()).sum(), &done);
        done
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closing while the client still sends makes the kernel answer with a reset, on which the client may
    /// discard our answer (413, 401) unread. So what it still sends is read for a while (RFC 9112, 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.shut = true;
            self.client.enter(Phase::Linger);
        }
        if !self.client.is_unread() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 8192];
        let mut left = 64;
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            left -= 1;
            if left == 0 {
                // A fast sender must not keep others waiting. Its time is up after `deadlines::LINGER` in any
                // case.
                cx.waker().wake_by_ref();
                return if self.client.is_expired() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }
}
