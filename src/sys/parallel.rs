//! Several threads over one list.
use super::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` on each item in order, on up to `threads` threads (this one is the first), each with what `start` gives
/// it. After a failure each finishes what it has in hand.
pub fn each<T: Sync, W>(
    items: &[T],
    threads: usize,
    start: impl Fn() -> Result<W> + Sync,
    work: impl Fn(&mut W, &T) -> Result<()> + Sync,
) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let run = || -> Result<()> {
        let mut with = start()?;
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut with, item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(run)).collect();
        let mut outcome = run();
        for other in others {
            let ended = other.join();
            outcome = outcome
                .and(ended.unwrap_or_else(|_| Err(Error::new(Kind::Io, "a thread ended unexpectedly"))));
        }
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn each_item_once_and_none_after_a_failure() {
        let items: Vec<usize> = (0..1000).collect();
        let seen = Mutex::new(vec![]);
        let note = |_: &mut (), item: &usize| {
            seen.lock().unwrap().push(*item);
            Ok(())
        };
        each(&items, 4, || Ok(()), note).unwrap();
        let mut all = std::mem::take(&mut *seen.lock().unwrap());
        all.sort();
        assert_eq!(all, items);
        each(&[], 4, || Ok(()), note).unwrap();
        assert!(seen.lock().unwrap().is_empty());

        let failing = |with: &mut (), item: &usize| match item {
            3 => Err(Error::new(Kind::Io, "three")),
            _ => note(with, item),
        };
        assert_eq!(each(&items, 1, || Ok(()), failing).unwrap_err().message, "three");
        assert_eq!(*seen.lock().unwrap(), [0, 1, 2]);
        assert_eq!(each(&items, 3, || Ok(()), failing).unwrap_err().message, "three");
        let start = || Err::<(), _>(Error::new(Kind::Io, "no start"));
        assert_eq!(each(&items, 3, start, note).unwrap_err().message, "no start");
    }
}
