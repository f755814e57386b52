//! A memory of bounded size.
use crate::gateway::key::Key;
use std::collections::{HashMap, VecDeque};

/// The newest entries of a map; the oldest goes when a new one has no room.
pub struct Newest<V> {
    most: usize,
    pub map: HashMap<Key, V>,
    /// The oldest first.
    pub order: VecDeque<Key>,
}

impl<V> Newest<V> {
    pub fn new(most: usize) -> Self {
        Newest { most, map: HashMap::new(), order: VecDeque::new() }
    }

    pub fn put(&mut self, key: Key, value: V) {
        if self.map.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.most
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
        }
    }
}
