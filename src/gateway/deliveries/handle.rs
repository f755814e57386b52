//! What the rest of the gateway has of the deliveries: a word that there is something to do, a word that another process
//! does it from now on, and what is counted.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// What is under way is given so long to end; then another process does it again.
const END: Duration = Duration::from_secs(3);

#[derive(Default)]
pub struct Handle {
    pub wake: Notify,
    stop: AtomicBool,
    again: AtomicBool,
    ended: AtomicBool,
    end: Notify,
    pub waiting: AtomicU64,
    pub failed: AtomicU64,
    pub delivered: AtomicU64,
    pub failed_tries: AtomicU64,
}

impl Handle {
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Nothing is sent from here any more when it returns.
    pub async fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake.notify_one();
        let ended = async {
            loop {
                let mut end = std::pin::pin!(self.end.notified());
                end.as_mut().enable();
                if self.ended.load(Ordering::SeqCst) {
                    return;
                }
                end.await;
            }
        };
        // A delivery that is cut is done again, under the same id.
        let _ = tokio::time::timeout(END, ended).await;
    }

    pub fn ends(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.end.notify_waiters();
    }

    /// No place rests any more.
    pub fn all_again(&self) {
        self.again.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    pub fn take_again(&self) -> bool {
        self.again.swap(false, Ordering::SeqCst)
    }

    pub fn counts(&self) -> [u64; 4] {
        [&self.waiting, &self.failed, &self.delivered, &self.failed_tries].map(|n| n.load(Ordering::Relaxed))
    }
}
