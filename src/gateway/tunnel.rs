//! A WebSocket, or any other upgraded connection: bytes both ways until both sides have ended. A quiet one
//! stays as long as TCP keepalive says that the other side lives.
use crate::gateway::instance::Instance;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a new connection of the same client waits until the old one is closed.
const YIELD: Duration = Duration::from_secs(2);

/// What a tunnel was told to do, from the mildest to the harshest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub enum Order {
    GoOn,
    /// Ask the instance to close: the same client has reconnected.
    Leave,
    /// Close our half of the connection to the instance.
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

    pub fn order(&self) -> Order {
        match self.order.load(Ordering::SeqCst) {
            0 => Order::GoOn,
            1 => Order::Leave,
            2 => Order::Hurry,
            _ => Order::End,
        }
    }

    /// Registers the tunnel's task, which every order wakes.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Both of its connections are closed.
    pub fn closed(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.over.notify_waiters();
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
    /// ComfyUI (0.33) forgets a client when any of its sockets closes: if the old one closes after the new
    /// one was opened, the new one gets nothing. ComfyUI takes the client off its list before it closes the
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
            // After the last order it ends by itself. Whether or not it has by then, the new one is opened.
            let _ = tokio::time::timeout(wait, over).await;
        }
    }
}

/// All tunnels.
#[derive(Default)]
pub struct Tunnels {
    all: Mutex<(u64, HashMap<u64, Arc<Tunnel>>)>,
    pub fewer: Notify,
}

impl Tunnels {
    pub fn enter(&self, tunnel: &Arc<Tunnel>) -> u64 {
        let mut all = self.all.lock();
        all.0 += 1;
        let number = all.0;
        all.1.insert(number, tunnel.clone());
        number
    }

    pub fn leave(&self, number: u64) {
        self.all.lock().1.remove(&number);
        self.fewer.notify_waiters();
    }

    pub fn count(&self) -> usize {
        self.all.lock().1.len()
    }

    /// Ends those that `which` picks.
    pub fn end(&self, which: impl Fn(&Tunnel) -> bool) {
        let all = self.all.lock();
        all.1.values().filter(|tunnel| which(tunnel)).for_each(|tunnel| tunnel.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::instance::FirstHealth;
    use crate::protocol::control::Target;
    use tokio::time::Instant;

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
