//! A cache of bounded memory: what was used longest ago goes first.

use std::borrow::Borrow;
use std::hash::Hash;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::budget::{Kept, Memory};

/// Entries, with their memory as a part of the memory of accounts.
pub(super) struct BoundedCache<K: Hash + Eq, V> {
    entries: LruCache<K, V>,
    most_bytes: usize,
    bytes_of: fn(&K, &V) -> usize,
    bytes: usize,
    kept: Option<Kept>,
}

impl<K: Hash + Eq, V> BoundedCache<K, V> {
    /// At most so many bytes, an entry's by `bytes_of`.
    pub(super) fn new(most_bytes: usize, bytes_of: fn(&K, &V) -> usize) -> Self {
        Self { entries: LruCache::unbounded(), most_bytes, bytes_of, bytes: 0, kept: None }
    }

    /// Counts the entries' memory there from now on.
    pub(super) fn count_in(&mut self, memory: &Memory) {
        self.kept = Some(memory.of_account());
    }

    pub(super) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key)
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        self.bytes += (self.bytes_of)(&key, &value);
        if let Some((key, replaced)) = self.entries.push(key, value) {
            self.bytes -= (self.bytes_of)(&key, &replaced);
        }
        while self.bytes > self.most_bytes && self.pop_oldest() {}
        self.report();
    }

    /// Forgets entries from the one used longest ago on, as long as they are old, and gives their room back.
    pub(super) fn forget_while(&mut self, is_old: impl Fn(&V) -> bool) {
        let before = self.entries.len();
        while self.entries.peek_lru().is_some_and(|(_, value)| is_old(value)) && self.pop_oldest() {}
        if self.entries.len() < before {
            // The only way to shrink the table as well.
            self.entries.resize(NonZeroUsize::new(self.entries.len()).unwrap_or(NonZeroUsize::MIN));
            self.entries.resize(NonZeroUsize::MAX);
            self.report();
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.report();
    }

    fn pop_oldest(&mut self) -> bool {
        let Some((key, value)) = self.entries.pop_lru() else { return false };
        self.bytes -= (self.bytes_of)(&key, &value);
        true
    }

    fn report(&self) {
        if let Some(kept) = &self.kept {
            kept.set(self.bytes);
        }
    }
}
