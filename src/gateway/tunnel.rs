//! A WebSocket, or any other upgraded connection: bytes both ways until both sides have ended. A quiet one
//! stays as long as TCP keepalive says that the other side lives.
use crate::gateway::access::Access;
use crate::gateway::client::ClientIo;
use crate::gateway::instance::Instance;
use crate::gateway::key::Key;
use crate::gateway::link::Link;
use crate::gateway::router::Claim;
use bytes::{Buf, Bytes};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::net::Shutdown;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// How long a new connection of the same client waits until the old one is closed.
const YIELD: Duration = Duration::from_secs(2);

/// A masked Close frame of RFC 6455 (5.5.1), status 1001: the other side goes away.
const CLOSE: [u8; 8] = {
    let mask = [0x5f, 0x1c, 0xe2, 0x84];
    [0x88, 0x82, mask[0], mask[1], mask[2], mask[3], 0x03 ^ mask[0], 0xe9 ^ mask[1]]
};

thread_local! {
    /// Bytes pass through here; only what cannot go on at once is kept by the tunnel.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into());
}

/// What a tunnel was told to do; each is more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
enum Order {
    GoOn,
    /// Ask the instance to close: the same client comes again.
    Leave,
    /// Close our half.
    Hurry,
    End,
}

pub struct Tunnel {
    pub instance: Arc<Instance>,
    order: AtomicU8,
    waker: Mutex<Option<Waker>>,
    is_over: AtomicBool,
    over: Notify,
}

impl Tunnel {
    pub fn new(instance: &Arc<Instance>) -> Tunnel {
        Tunnel {
            instance: instance.clone(),
            order: AtomicU8::new(Order::GoOn as u8),
            waker: Mutex::new(None),
            is_over: AtomicBool::new(false),
            over: Notify::new(),
        }
    }

    fn order(&self) -> Order {
        match self.order.load(Ordering::SeqCst) {
            0 => Order::GoOn,
            1 => Order::Leave,
            2 => Order::Hurry,
            _ => Order::End,
        }
    }

    fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::SeqCst);
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    pub fn end(&self) {
        self.tell(Order::End);
    }

    /// Closes the instance's side and waits until it is closed there.
    ///
    /// ComfyUI (0.33) forgets a client when any of its sockets closes: with the old one closed after the new
    /// one was opened, the new one is deaf. It takes the client off its list before it closes the
    /// connection, so the end of the connection is the sign to wait for.
    pub async fn make_way(&self) {
        for (order, wait) in [(Order::Leave, YIELD / 2), (Order::Hurry, YIELD / 2), (Order::End, YIELD / 20)]
        {
            let over = self.over.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            self.tell(order);
            // In the last round it ends by itself; time out or not, the new one is opened.
            let _ = tokio::time::timeout(wait, over).await;
        }
    }
}

/// All of them.
#[derive(Default)]
pub struct Tunnels {
    all: Mutex<(u64, HashMap<u64, Arc<Tunnel>>)>,
    pub fewer: Notify,
}

impl Tunnels {
    fn enter(&self, tunnel: &Arc<Tunnel>) -> u64 {
        let mut all = self.all.lock();
        all.0 += 1;
        let number = all.0;
        all.1.insert(number, tunnel.clone());
        number
    }

    fn leave(&self, number: u64) {
        self.all.lock().1.remove(&number);
        self.fewer.notify_waiters();
    }

    pub fn count(&self) -> usize {
        self.all.lock().1.len()
    }

    /// Ends those that `which` names.
    pub fn end(&self, which: impl Fn(&Tunnel) -> bool) {
        let all = self.all.lock();
        all.1.values().filter(|tunnel| which(tunnel)).for_each(|tunnel| tunnel.end());
    }
}

/// What a tunnel is made of.
pub struct Opening {
    pub tunnel: Arc<Tunnel>,
    pub link: Link,
    pub client: OnUpgrade,
    pub claim: Claim,
    pub access: Access,
    pub client_key: Option<Key>,
}

/// Runs a tunnel in a task of its own: the client's connection task ends with its 101.
pub fn open(opening: Opening) {
    let Opening { tunnel, link, client, claim, mut access, client_key } = opening;
    let gateway = access.gateway.clone();
    let number = gateway.tunnels.enter(&tunnel);
    if let Some(key) = client_key {
        // Before the client can know that it is connected.
        gateway.affinity.learn_socket(key, &tunnel);
    }
    tokio::spawn(async move {
        if let Some((upstream, early)) = link.into_stream().await
            && let Ok(upgraded) = client.await
            && let Ok(parts) = upgraded.downcast::<TokioIo<ClientIo>>()
        {
            let idle = gateway.active().settings.limits.idle_ms;
            keep_alive(&upstream, Duration::from_millis(idle));
            let (up, down) = (Flow::new(&parts.read_buf), Flow::new(&early));
            drop((parts.read_buf, early));
            let client = parts.io.into_inner().stream;
            let mut pump = Pump {
                tunnel: &tunnel,
                up,
                down,
                client,
                upstream,
                left: false,
                half_open: Duration::from_millis(idle),
                timer: None,
            };
            poll_fn(|cx| pump.poll(cx)).await;
            access.bytes = pump.down.bytes;
            access.received = pump.up.bytes;
        }
        tunnel.is_over.store(true, Ordering::SeqCst);
        tunnel.over.notify_waiters();
        drop(claim);
        drop(access);
        gateway.tunnels.leave(number);
    });
}

/// A peer that is gone without a word is found out within about `idle`.
pub fn keep_alive(socket: impl std::os::fd::AsFd, idle: Duration) {
    let step = (idle / 6).max(Duration::from_secs(1));
    let set = || -> rustix::io::Result<()> {
        rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&socket, step * 3)?;
        rustix::net::sockopt::set_tcp_keepintvl(&socket, step)?;
        rustix::net::sockopt::set_tcp_keepcnt(&socket, 3)?;
        // Keepalive is silent while something sent is not acknowledged: then this counts.
        let most = u32::try_from((step * 6).as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&socket, most)
    };
    // Without it a half-dead connection stays longer; nothing else is lost.
    let _ = set();
}

/// One direction.
struct Flow {
    /// Read, and not written yet.
    waiting: Bytes,
    /// The reading side has ended.
    ended: bool,
    /// So has the writing side.
    done: bool,
    bytes: u64,
}

impl Flow {
    fn new(early: &[u8]) -> Flow {
        // A copy: even an empty part of hyper's buffer keeps the whole of it.
        Flow { waiting: Bytes::copy_from_slice(early), ended: false, done: false, bytes: 0 }
    }

    fn poll(&mut self, from: &TcpStream, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

struct Pump<'a> {
    tunnel: &'a Tunnel,
    client: TcpStream,
    upstream: TcpStream,
    up: Flow,
    down: Flow,
    /// The instance was asked to close.
    left: bool,
    /// So long may one direction go on alone without a byte.
    half_open: Duration,
    timer: Option<(Pin<Box<Sleep>>, u64)>,
}

impl Pump<'_> {
    /// Ready when it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut waker = self.tunnel.waker.lock();
            if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        let order = self.tunnel.order();
        if order == Order::End {
            return Poll::Ready(());
        }
        if order >= Order::Leave && !self.left {
            self.left = true;
            // In the middle of a frame of the client it is not understood; then `Hurry` follows.
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
        if !(self.up.done || self.down.done) {
            return Poll::Pending;
        }
        // Half open: a side that neither sends nor ends is not waited for without end.
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
    use crate::gateway::instance::FirstHealth;
    use crate::protocol::control::Target;

    #[test]
    fn the_close_frame_is_one() {
        let mask = &CLOSE[2..6];
        let code = [CLOSE[6] ^ mask[0], CLOSE[7] ^ mask[1]];
        assert_eq!((CLOSE[0], CLOSE[1] & 0x7f, u16::from_be_bytes(code)), (0x88, 2, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_is_not_waited_for_long() {
        let address = "127.0.0.1:1".parse().unwrap();
        let target = Target { id: "s0-g1".into(), address, slot: 0, generation: 1 };
        let tunnel = Tunnel::new(&Arc::new(Instance::new(target, FirstHealth::Well)));
        let before = Instant::now();
        tunnel.make_way().await;
        assert!(before.elapsed() <= YIELD + YIELD / 10);
        assert_eq!(tunnel.order(), Order::End);
        tunnel.is_over.store(true, Ordering::SeqCst);
        let before = Instant::now();
        tunnel.make_way().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
