//! Carries the bytes of a tunnel both ways.
use crate::gateway::tunnel::{Order, Tunnel};
use crate::sys::stream::Stream;
use bytes::{Buf, Bytes};
use rustix::net::Shutdown;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A masked Close frame of RFC 6455 (5.5.1), status 1001: the other side goes away.
const CLOSE: [u8; 8] = {
    let mask = [0x5f, 0x1c, 0xe2, 0x84];
    [0x88, 0x82, mask[0], mask[1], mask[2], mask[3], 0x03 ^ mask[0], 0xe9 ^ mask[1]]
};

thread_local! {
    /// Bytes pass through here; a tunnel keeps only those that cannot go on at once.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into());
}

/// One direction.
pub struct Flow {
    /// Read, and not written yet.
    waiting: Bytes,
    /// The reading side has ended.
    ended: bool,
    /// So has the writing side.
    done: bool,
    pub bytes: u64,
}

impl Flow {
    fn new(early: &[u8]) -> Flow {
        // A copy, because even an empty part of hyper's buffer keeps all of it alive.
        Flow { waiting: Bytes::copy_from_slice(early), ended: false, done: false, bytes: 0 }
    }

    fn poll(&mut self, from: &Stream, to: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.waiting.is_empty() {
                ready!(to.poll_write_ready(cx))?;
                match to.try_write(&self.waiting) {
                    Ok(n) => {
                        self.bytes += n as u64;
                        self.waiting.advance(n);
                        if self.waiting.is_empty() {
                            self.waiting = Bytes::new();
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
            if self.ended {
                if !self.done {
                    self.done = true;
                    // It may be gone already.
                    let _ = rustix::net::shutdown(to, Shutdown::Write);
                }
                return Poll::Ready(Ok(()));
            }
            ready!(from.poll_read_ready(cx))?;
            SCRATCH.with_borrow_mut(|scratch| {
                let n = match from.try_read(scratch) {
                    Ok(0) => {
                        self.ended = true;
                        return Ok(());
                    }
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) => return Err(e),
                };
                let written = match to.try_write(&scratch[..n]) {
                    Ok(written) => written,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(e) => return Err(e),
                };
                self.bytes += written as u64;
                if written < n {
                    self.waiting = Bytes::copy_from_slice(&scratch[written..n]);
                }
                Ok(())
            })?;
        }
    }
}

pub struct Pump<'a> {
    tunnel: &'a Tunnel,
    client: Stream,
    upstream: Stream,
    pub up: Flow,
    pub down: Flow,
    /// The instance was asked to close.
    left: bool,
    /// How long one direction may go on alone without a byte.
    half_open: Duration,
    timer: Option<(Pin<Box<Sleep>>, u64)>,
}

impl<'a> Pump<'a> {
    /// Each side comes with what was read of it before: a client may send behind its request, an instance
    /// behind its 101.
    pub fn new(
        tunnel: &'a Tunnel,
        (client, from_client): (Stream, &[u8]),
        (upstream, from_instance): (Stream, &[u8]),
        half_open: Duration,
    ) -> Pump<'a> {
        let (up, down) = (Flow::new(from_client), Flow::new(from_instance));
        Pump { tunnel, client, upstream, up, down, left: false, half_open, timer: None }
    }

    /// Ready when it is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.tunnel.register(cx);
        let order = self.tunnel.order();
        if order == Order::End {
            return Poll::Ready(());
        }
        if order >= Order::Leave && !self.left {
            self.left = true;
            // In the middle of a frame from the client it is not understood; then `Hurry` follows.
            let _ = self.upstream.try_write(&CLOSE);
        }
        if order >= Order::Hurry {
            let _ = rustix::net::shutdown(&self.upstream, Shutdown::Write);
        }
        if !self.left && matches!(self.up.poll(&self.client, &self.upstream, cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        match self.down.poll(&self.upstream, &self.client, cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(())) if self.left || self.up.ended => return Poll::Ready(()),
            _ => {}
        }
        if self.up.done || self.down.done { self.poll_half_open(cx) } else { Poll::Pending }
    }

    /// A side that neither sends nor ends is not waited for without end.
    fn poll_half_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let moved = self.up.bytes + self.down.bytes;
        let fresh = |after: Duration| Instant::now() + after;
        let (timer, seen) = self
            .timer
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep_until(fresh(self.half_open))), moved));
        if *seen != moved {
            *seen = moved;
            timer.as_mut().reset(fresh(self.half_open));
        }
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_close_frame_is_one() {
        let mask = &CLOSE[2..6];
        let code = [CLOSE[6] ^ mask[0], CLOSE[7] ^ mask[1]];
        assert_eq!((CLOSE[0], CLOSE[1] & 0x7f, u16::from_be_bytes(code)), (0x88, 2, 1001));
    }
}
