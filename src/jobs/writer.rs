//! The thread that writes. It puts all that waits into one transaction and answers after its fsync, so that a hundred who
//! wait pay for one. A write that fails takes no other one with it.
use crate::jobs::model::Time;
use crate::jobs::store::{Keep, Store, Write, is_damage};
use crate::sys::error::{Error, Kind, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::oneshot;

/// So many writes in one transaction at most: what waits behind them is not to wait for long.
const MOST: usize = 1000;
/// Expired jobs are deleted so many at a time, so that what is to be written comes in between.
pub const EXPIRED: u64 = 100;
/// What can wait goes with the next transaction, or with one of its own after so long.
const LATER: Duration = Duration::from_millis(50);
/// How often is tried whether the disk takes writes again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub enum Order {
    Write(Group),
    Later(Write),
    Expire(Keep, Time, Expired, oneshot::Sender<Result<u64>>),
    Close(oneshot::Sender<()>),
}

/// What is to go once it is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    Jobs,
    /// Records of files: the files themselves are whose who has them.
    Assets,
}

/// What is to be written together.
pub struct Group {
    pub writes: Vec<Write>,
    pub answer: oneshot::Sender<Result<(), Refused>>,
}

/// A group that could not be written, which its sender may want to try again.
pub struct Refused {
    pub error: Error,
    pub writes: Vec<Write>,
}

/// Why new jobs must not be taken.
#[derive(Default)]
pub struct Trouble {
    /// Of the last write.
    pub written: Mutex<Option<String>>,
    /// Whatever was found damaged; it stays so.
    pub damaged: Mutex<Option<String>>,
}

impl Trouble {
    pub fn look_for_damage<T>(&self, done: &Result<T>) {
        if let Some(error) = done.as_ref().err().filter(|error| is_damage(error)) {
            self.damaged.lock().get_or_insert_with(|| error.full());
        }
    }
}

pub fn closed() -> Error {
    Error::new(Kind::Interrupted, "the ledger of the jobs is closed")
}

pub struct Writer {
    store: Box<dyn Store>,
    trouble: Arc<Trouble>,
    later: Vec<Write>,
}

impl Writer {
    pub fn new(store: Box<dyn Store>, trouble: Arc<Trouble>) -> Writer {
        Writer { store, trouble, later: Vec::new() }
    }

    /// Until it is closed, or nobody is left who could send anything.
    pub fn run(mut self, orders: &Receiver<Order>) {
        while let Some(first) = self.next(orders) {
            let mut groups = Vec::new();
            let mut other = self.take(first, &mut groups);
            // Whatever waits, up to the first order that is no write.
            while other.is_none() && groups.iter().map(|g: &Group| g.writes.len()).sum::<usize>() < MOST {
                let Ok(order) = orders.try_recv() else { break };
                other = self.take(order, &mut groups);
            }
            if other.is_some() {
                self.put_first(&mut groups);
            }
            self.write(groups);
            match other {
                Some(Order::Expire(keep, now, what, answer)) => {
                    let _ = answer.send(match what {
                        Expired::Jobs => self.store.expire(&keep, now, EXPIRED),
                        Expired::Assets => self.store.expire_assets(&keep, now, EXPIRED),
                    });
                }
                Some(Order::Close(done)) => {
                    *self.trouble.written.lock() = Some(closed().message);
                    drop(self.store);
                    let _ = done.send(());
                    return;
                }
                Some(Order::Write(_) | Order::Later(_)) | None => {}
            }
        }
        let mut groups = Vec::new();
        self.put_first(&mut groups);
        self.write(groups);
    }

    /// Puts a write with the others, or with those that wait for one; gives back what is none.
    fn take(&mut self, order: Order, groups: &mut Vec<Group>) -> Option<Order> {
        match order {
            Order::Write(group) => {
                self.put_first(groups);
                groups.push(group);
            }
            Order::Later(write) => self.later.push(write),
            other => return Some(other),
        }
        None
    }

    /// What could wait does so no longer. Nobody waits for its answer.
    fn put_first(&mut self, groups: &mut Vec<Group>) {
        let alone = |write| Group { writes: vec![write], answer: oneshot::channel().0 };
        groups.extend(self.later.drain(..).map(alone));
    }

    /// Waits for an order. While nothing can be written, finds out now and then whether it can again: it may be that
    /// nobody writes any more, since new jobs are refused meanwhile.
    fn next(&mut self, orders: &Receiver<Order>) -> Option<Order> {
        loop {
            let writable = self.trouble.written.lock().is_none();
            let limit = match (self.later.is_empty(), writable) {
                (true, true) => return orders.recv().ok(),
                (false, true) => LATER,
                (_, false) => LOOK_AGAIN,
            };
            match orders.recv_timeout(limit) {
                Ok(order) => return Some(order),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let mut groups = Vec::new();
                    self.put_first(&mut groups);
                    if groups.is_empty() {
                        // Its failure is noted.
                        let _ = self.try_write(&[]);
                    }
                    self.write(groups);
                }
            }
        }
    }

    /// All in one transaction; if that fails, each group in one of its own, so that a bad one fails alone.
    fn write(&mut self, groups: Vec<Group>) {
        if groups.is_empty() {
            return;
        }
        let (mut batch, mut answers, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for Group { writes, answer } in groups {
            lengths.push(writes.len());
            answers.push(answer);
            batch.extend(writes);
        }
        let together = self.try_write(&batch);
        let alone = answers.len() == 1;
        let mut rest = batch.into_iter();
        for (answer, length) in answers.into_iter().zip(lengths) {
            let writes: Vec<Write> = rest.by_ref().take(length).collect();
            let done = match &together {
                Err(_) if !alone => self.try_write(&writes),
                done => done.clone(),
            };
            // Who no longer waits is not told.
            let _ = answer.send(done.map_err(|error| Refused { error, writes }));
        }
    }

    fn try_write(&mut self, writes: &[Write]) -> Result<()> {
        let done = self.store.write(writes);
        match &done {
            Ok(()) => *self.trouble.written.lock() = None,
            // It says nothing about the disk.
            Err(error) if error.kind == Kind::Input => {}
            Err(error) => *self.trouble.written.lock() = Some(error.full()),
        }
        self.trouble.look_for_damage(&done);
        done
    }
}
