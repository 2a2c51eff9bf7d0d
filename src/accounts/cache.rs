//! Remembers for a short while which accounts are verified and at which token version, so that a request costs no
//! query.
//!
//! An entry lives [`CACHE_TTL_MS`]; there are at most [`CACHE_ENTRIES`], least recently used out first. Each write to
//! an account's token version, verification or existence invalidates before and after it (accounts contract, section
//! 5.3). A fill that read the row before such an invalidation is dropped: a counter per group of accounts tells.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::protocol::UserId;

/// How long an entry is believed, milliseconds.
pub const CACHE_TTL_MS: i64 = 30_000;
/// How many accounts are remembered.
pub const CACHE_ENTRIES: usize = 10_000;

/// Accounts share invalidation counters, so that these need no bound of their own; a clash merely costs a fill.
const COUNTERS: usize = 1024;

pub(super) struct VerifiedUsers {
    state: Mutex<State>,
}

struct State {
    entries: LruCache<UserId, Entry>,
    invalidations: Box<[u64]>,
}

#[derive(Clone, Copy)]
struct Entry {
    token_version: i64,
    filled_at_ms: i64,
}

/// Taken before the row is read; [`VerifiedUsers::fill`] wants it back.
pub(super) struct FillTicket {
    user: UserId,
    invalidations: u64,
}

impl VerifiedUsers {
    pub(super) fn new() -> Self {
        // `LruCache::new` takes the room for all entries at once.
        let mut entries = LruCache::unbounded();
        entries.resize(capacity());
        Self { state: Mutex::new(State { entries, invalidations: vec![0; COUNTERS].into_boxed_slice() }) }
    }

    /// Whether the account was seen verified at this token version within the last [`CACHE_TTL_MS`].
    pub(super) fn knows(&self, user: UserId, token_version: i64, now_ms: i64) -> bool {
        self.lock().entries.get(&user).is_some_and(|entry| {
            // An entry from the future means that the clock was set back: how old it is can't be told any more.
            entry.token_version == token_version && (0..CACHE_TTL_MS).contains(&(now_ms - entry.filled_at_ms))
        })
    }

    pub(super) fn begin_fill(&self, user: UserId) -> FillTicket {
        FillTicket { user, invalidations: self.lock().invalidations[counter(user)] }
    }

    /// Remembers what was read after `ticket` was taken, unless the account was invalidated since.
    pub(super) fn fill(&self, ticket: &FillTicket, token_version: i64, now_ms: i64) {
        let mut state = self.lock();
        if state.invalidations[counter(ticket.user)] == ticket.invalidations {
            state.entries.put(ticket.user, Entry { token_version, filled_at_ms: now_ms });
        }
    }

    /// Forgets entries that are not believed any more, and gives their room back.
    pub(super) fn forget_old(&self, now_ms: i64) {
        let mut state = self.lock();
        let mut forgotten = 0;
        while state.entries.peek_lru().is_some_and(|(_, entry)| now_ms - entry.filled_at_ms >= CACHE_TTL_MS) {
            state.entries.pop_lru();
            forgotten += 1;
        }
        if forgotten > 0 {
            // Shrinks the table as well.
            state.entries.resize(capacity());
        }
    }

    pub(super) fn invalidate(&self, user: UserId) {
        let mut state = self.lock();
        state.invalidations[counter(user)] += 1;
        state.entries.pop(&user);
    }

    pub(super) fn invalidate_all(&self) {
        let mut state = self.lock();
        for counter in &mut state.invalidations {
            *counter += 1;
        }
        state.entries.clear();
    }

    /// Invalidates now and once more when the guard goes.
    pub(super) fn invalidating(&self, user: UserId) -> Invalidating<'_> {
        self.invalidate(user);
        Invalidating { cache: self, user }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can leave the state half changed, so a panic elsewhere doesn't spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Invalidating<'a> {
    cache: &'a VerifiedUsers,
    user: UserId,
}

impl Drop for Invalidating<'_> {
    fn drop(&mut self) {
        self.cache.invalidate(self.user);
    }
}

const fn capacity() -> NonZeroUsize {
    NonZeroUsize::new(CACHE_ENTRIES).expect("the constant is not 0")
}

fn counter(user: UserId) -> usize {
    usize::try_from(user.unsigned_abs() % COUNTERS as u64).expect("smaller than COUNTERS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_counts_for_its_version_and_its_time_only() {
        let cache = VerifiedUsers::new();
        cache.fill(&cache.begin_fill(7), 3, 1_000);
        assert!(cache.knows(7, 3, 1_000));
        assert!(cache.knows(7, 3, 1_000 + CACHE_TTL_MS - 1));
        assert!(!cache.knows(7, 3, 1_000 + CACHE_TTL_MS));
        assert!(!cache.knows(7, 3, 999), "the clock was set back");
        assert!(!cache.knows(7, 2, 1_000));
        assert!(!cache.knows(8, 3, 1_000));
    }

    #[test]
    fn entries_that_are_too_old_are_forgotten() {
        let cache = VerifiedUsers::new();
        cache.fill(&cache.begin_fill(7), 0, 0);
        cache.fill(&cache.begin_fill(8), 0, 1_000);
        cache.forget_old(CACHE_TTL_MS);
        assert_eq!(cache.lock().entries.len(), 1);
        assert!(cache.knows(8, 0, CACHE_TTL_MS));
    }

    #[test]
    fn a_fill_that_began_before_an_invalidation_is_dropped() {
        let cache = VerifiedUsers::new();
        let ticket = cache.begin_fill(7);
        cache.invalidate(7);
        cache.fill(&ticket, 0, 0);
        assert!(!cache.knows(7, 0, 0));

        let ticket = cache.begin_fill(7);
        cache.invalidate_all();
        cache.fill(&ticket, 0, 0);
        assert!(!cache.knows(7, 0, 0));
    }

    #[test]
    fn a_write_invalidates_before_and_after_it() {
        let cache = VerifiedUsers::new();
        cache.fill(&cache.begin_fill(7), 0, 0);
        let guard = cache.invalidating(7);
        assert!(!cache.knows(7, 0, 0));
        // Read and filled while the write is under way.
        cache.fill(&cache.begin_fill(7), 0, 0);
        drop(guard);
        assert!(!cache.knows(7, 0, 0));
    }

    #[test]
    fn the_least_recently_used_account_goes_first() {
        let cache = VerifiedUsers::new();
        let entries = i64::try_from(CACHE_ENTRIES).unwrap();
        for user in 0..entries {
            cache.fill(&cache.begin_fill(user), 0, 0);
        }
        assert!(cache.knows(0, 0, 0));
        cache.fill(&cache.begin_fill(entries), 0, 0);
        assert!(cache.knows(0, 0, 0));
        assert!(!cache.knows(1, 0, 0));
    }
}
