//! Shares of what there is only so much of: connections, requests, places in the hold. Each is counted by who
//! has it, so that nobody has all of it. What is remembered is no more than what is taken at the moment.
use crate::gateway::key::Key;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One client, as far as an address can tell: an address of IPv4, or the 64 bits of an IPv6 address that a
/// network gives to one customer, who then has the rest to choose from (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

const NETWORK: u128 = !0 << 64;

impl Source {
    pub fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V6(address) => Source(Ipv6Addr::from_bits(address.to_bits() & NETWORK).into()),
            address => Source(address),
        }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.0.is_ipv6() { "/64" } else { "" };
        write!(f, "{}{bits}", self.0)
    }
}

/// Whose a request is.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    pub source: Source,
    /// The API key that let it in.
    pub key: Option<Key>,
    /// How many API keys there are.
    pub keys: usize,
}

/// Why there is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Everything is taken.
    All,
    /// This one has as much as it may.
    Own,
}

pub struct Shares<K> {
    taken: Mutex<Taken<K>>,
}

struct Taken<K> {
    all: usize,
    by: HashMap<K, usize>,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Shares { taken: Mutex::new(Taken { all: 0, by: HashMap::new() }) }
    }
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// `own`: how many one may have; `all`: how many there are.
    pub fn take(self: &Arc<Self>, whose: K, own: usize, all: usize) -> Result<Share<K>, Full> {
        let mut taken = self.taken.lock();
        if taken.by.get(&whose).is_some_and(|has| *has >= own) || own == 0 {
            return Err(Full::Own);
        }
        if taken.all >= all {
            return Err(Full::All);
        }
        taken.all += 1;
        *taken.by.entry(whose).or_default() += 1;
        Ok(Share { shares: self.clone(), whose, returned: AtomicBool::new(false) })
    }

    pub fn count(&self) -> usize {
        self.taken.lock().all
    }

    pub fn of(&self, whose: K) -> usize {
        self.taken.lock().by.get(&whose).copied().unwrap_or(0)
    }
}

/// Taken until it is dropped.
pub struct Share<K: Copy + Eq + Hash> {
    shares: Arc<Shares<K>>,
    pub whose: K,
    returned: AtomicBool,
}

impl<K: Copy + Eq + Hash> Share<K> {
    /// Gives it back now: its owner has been told to end, and another may have it.
    pub fn give_back(&self) {
        if self.returned.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut taken = self.shares.taken.lock();
        taken.all -= 1;
        if let Some(has) = taken.by.get_mut(&self.whose) {
            *has -= 1;
            if *has == 0 {
                taken.by.remove(&self.whose);
            }
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("::ffff:10.0.0.7"), source("10.0.0.7"));
        assert_ne!(source("10.0.0.7"), source("10.0.0.8"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::9"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("2001:db8:0:1::1").to_string(), "2001:db8:0:1::/64");
        assert_eq!(source("10.0.0.7").to_string(), "10.0.0.7");
    }

    #[test]
    fn nobody_has_more_than_its_share_and_nothing_is_left_behind() {
        let shares = Arc::new(Shares::default());
        let first: Vec<_> = (0..3).map(|_| shares.take(1u8, 3, 5).unwrap_or_else(|_| panic!())).collect();
        assert_eq!(shares.take(1, 3, 5).err(), Some(Full::Own));
        let second: Vec<_> = (0..2).map(|_| shares.take(2, 3, 5).unwrap_or_else(|_| panic!())).collect();
        assert_eq!(shares.take(2, 3, 5).err(), Some(Full::All));
        first[0].give_back();
        first[0].give_back();
        assert_eq!((shares.count(), shares.of(1), shares.of(2)), (4, 2, 2));
        drop((first, second));
        assert_eq!((shares.count(), shares.of(1)), (0, 0));
        assert!(shares.taken.lock().by.is_empty());
        assert_eq!(shares.take(1, 0, 5).err(), Some(Full::Own));
    }
}
