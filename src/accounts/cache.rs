//! Remembers for a short while which tokens count, so that a request costs no query.
//!
//! An entry lives [`CACHE_TTL_MS`]; there are at most [`CACHE_ENTRIES`], least recently used out first. Each change of
//! what an account's tokens are worth invalidates before and after it (accounts contract, section 5.3), whatever the
//! account's sessions: an entry counts only while its account's invalidation counter stands where it stood when the row
//! was read. So a fill that read before an invalidation is worth nothing, and a session that was not touched by the
//! change costs one query more.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bounded::BoundedCache;
use crate::budget::Memory;
use crate::protocol::UserId;
use crate::store::{Credential, SessionId, Standing};

/// How long an entry is believed, milliseconds.
pub const CACHE_TTL_MS: i64 = 30_000;
/// How many sessions are remembered.
const CACHE_ENTRIES: usize = 65_536;
/// A session's last sign of life is written down at most this often, milliseconds.
pub const SEEN_EVERY_MS: i64 = 5 * 60 * 1000;

/// Memory of an entry, with its slot in the table.
const ENTRY_BYTES: usize = size_of::<((UserId, Option<SessionId>), Entry)>() + 64;

/// Accounts share invalidation counters, so that these need no bound of their own; a clash merely costs a query.
const COUNTERS: usize = 4096;

pub(super) struct KnownSessions {
    state: Mutex<State>,
}

struct State {
    /// By account and session; an account's older tokens share an entry.
    entries: BoundedCache<(UserId, Option<SessionId>), Entry>,
    invalidations: Box<[u64]>,
}

#[derive(Clone, Copy)]
struct Entry {
    token_version: i64,
    /// Of older tokens only.
    revoked_at: Option<i64>,
    filled_at_ms: i64,
    invalidations: u64,
    /// When it was last seen, as far as is written down or about to be.
    seen_at_ms: i64,
}

/// Taken before the row is read; [`KnownSessions::fill`] wants it back.
pub(super) struct FillTicket {
    user: UserId,
    invalidations: u64,
}

/// A token that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Whether its sign of life is due to be written. Told once; whoever hears it does it.
    pub(super) is_seen_due: bool,
}

/// Whether an older token was issued late enough to have outlived a revocation.
pub(super) fn outlived(credential: &Credential, revoked_at: Option<i64>) -> bool {
    revoked_at.is_none_or(|revoked_at| credential.issued_at.is_some_and(|issued_at| issued_at >= revoked_at))
}

impl Entry {
    fn note_seen(&mut self, now_ms: i64) -> Known {
        let is_seen_due = !(0..SEEN_EVERY_MS).contains(&(now_ms - self.seen_at_ms));
        if is_seen_due {
            self.seen_at_ms = now_ms;
        }
        Known { is_seen_due }
    }
}

impl KnownSessions {
    pub(super) fn new() -> Self {
        let entries = BoundedCache::new(CACHE_ENTRIES * ENTRY_BYTES, |_, _| ENTRY_BYTES);
        Self { state: Mutex::new(State { entries, invalidations: vec![0; COUNTERS].into_boxed_slice() }) }
    }

    /// Counts the entries' memory there from now on.
    pub(super) fn count_in(&self, memory: &Memory) {
        self.lock().entries.count_in(memory);
    }

    /// Whether a token with this credential was found good within the last [`CACHE_TTL_MS`].
    pub(super) fn look_up(&self, user: UserId, credential: &Credential, now_ms: i64) -> Option<Known> {
        let mut state = self.lock();
        let invalidations = state.invalidations[counter(user)];
        let entry = state.entries.get_mut(&(user, credential.session))?;
        let counts = entry.invalidations == invalidations
            && entry.token_version == credential.token_version
            // An entry from the future means that the clock was set back: how old it is can't be told any more.
            && (0..CACHE_TTL_MS).contains(&(now_ms - entry.filled_at_ms))
            && (credential.session.is_some() || outlived(credential, entry.revoked_at));
        counts.then(|| entry.note_seen(now_ms))
    }

    pub(super) fn begin_fill(&self, user: UserId) -> FillTicket {
        FillTicket { user, invalidations: self.lock().invalidations[counter(user)] }
    }

    /// Remembers a token that was found good by what was read after `ticket` was taken, at `now_ms`.
    pub(super) fn fill(&self, ticket: &FillTicket, credential: &Credential, standing: &Standing, now_ms: i64) -> Known {
        let seen_at = match (credential.session, standing.session) {
            (Some(_), Some((_, seen_at))) => Some(seen_at),
            _ => standing.older_tokens_seen_at,
        };
        let mut entry = Entry {
            token_version: standing.token_version,
            revoked_at: standing.older_tokens_revoked_at,
            filled_at_ms: now_ms,
            invalidations: ticket.invalidations,
            // One that was never seen is due.
            seen_at_ms: seen_at.unwrap_or(i64::MIN / 2),
        };
        let known = entry.note_seen(now_ms);
        self.lock().entries.put((ticket.user, credential.session), entry);
        known
    }

    /// Forgets entries that are not believed any more, and gives their room back.
    pub(super) fn forget_old(&self, now_ms: i64) {
        self.lock().entries.forget_while(|entry| now_ms - entry.filled_at_ms >= CACHE_TTL_MS);
    }

    pub(super) fn invalidate(&self, user: UserId) {
        self.lock().invalidations[counter(user)] += 1;
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
    cache: &'a KnownSessions,
    user: UserId,
}

impl Drop for Invalidating<'_> {
    fn drop(&mut self) {
        self.cache.invalidate(self.user);
    }
}

fn counter(user: UserId) -> usize {
    usize::try_from(user.unsigned_abs() % COUNTERS as u64).expect("smaller than COUNTERS")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDER: Credential = Credential { session: None, token_version: 3, issued_at: Some(500) };

    fn of_session(n: u8) -> Credential {
        Credential { session: Some(SessionId::from_bytes([n; 16])), ..OLDER }
    }

    fn standing(seen_at: i64) -> Standing {
        Standing {
            is_verified: true,
            is_locked: false,
            token_version: 3,
            older_tokens_revoked_at: None,
            older_tokens_seen_at: Some(seen_at),
            session: Some((100, seen_at)),
        }
    }

    fn fill(cache: &KnownSessions, user: UserId, credential: &Credential, now_ms: i64) {
        cache.fill(&cache.begin_fill(user), credential, &standing(now_ms), now_ms);
    }

    fn knows(cache: &KnownSessions, user: UserId, credential: &Credential, now_ms: i64) -> bool {
        cache.look_up(user, credential, now_ms).is_some()
    }

    #[test]
    fn an_entry_counts_for_its_version_its_session_and_its_time_only() {
        let cache = KnownSessions::new();
        let credential = of_session(1);
        fill(&cache, 7, &credential, 1_000);
        assert!(knows(&cache, 7, &credential, 1_000));
        assert!(knows(&cache, 7, &credential, 1_000 + CACHE_TTL_MS - 1));
        assert!(!knows(&cache, 7, &credential, 1_000 + CACHE_TTL_MS));
        assert!(!knows(&cache, 7, &credential, 999), "the clock was set back");
        assert!(!knows(&cache, 7, &Credential { token_version: 2, ..credential }, 1_000));
        assert!(!knows(&cache, 7, &of_session(2), 1_000));
        assert!(!knows(&cache, 7, &OLDER, 1_000));
        assert!(!knows(&cache, 8, &credential, 1_000));
    }

    #[test]
    fn older_tokens_share_an_entry_but_not_their_age() {
        let cache = KnownSessions::new();
        let revoked = Standing { older_tokens_revoked_at: Some(500), ..standing(0) };
        cache.fill(&cache.begin_fill(7), &OLDER, &revoked, 1_000);
        assert!(knows(&cache, 7, &OLDER, 1_000));
        assert!(!knows(&cache, 7, &Credential { issued_at: Some(499), ..OLDER }, 1_000));
        assert!(!knows(&cache, 7, &Credential { issued_at: None, ..OLDER }, 1_000), "nobody knows how old it is");
    }

    #[test]
    fn a_sign_of_life_is_due_once_in_a_while() {
        let cache = KnownSessions::new();
        let first = cache.fill(&cache.begin_fill(7), &of_session(1), &standing(0), SEEN_EVERY_MS);
        assert_eq!(first, Known { is_seen_due: true });
        let due = |now_ms| cache.look_up(7, &of_session(1), now_ms).unwrap().is_seen_due;
        assert!(!due(SEEN_EVERY_MS) && !due(SEEN_EVERY_MS + CACHE_TTL_MS - 1));
        let never = Standing { older_tokens_seen_at: None, ..standing(0) };
        assert!(cache.fill(&cache.begin_fill(7), &OLDER, &never, 0).is_seen_due);
        assert!(!cache.fill(&cache.begin_fill(7), &of_session(2), &standing(1), SEEN_EVERY_MS).is_seen_due);
    }

    #[test]
    fn entries_that_are_too_old_are_forgotten() {
        let (cache, memory) = (KnownSessions::new(), Memory::new(usize::MAX));
        cache.count_in(&memory);
        fill(&cache, 7, &OLDER, 0);
        fill(&cache, 8, &OLDER, 1_000);
        cache.forget_old(CACHE_TTL_MS);
        assert_eq!(memory.kept(), ENTRY_BYTES);
        assert!(knows(&cache, 8, &OLDER, CACHE_TTL_MS));
    }

    #[test]
    fn a_fill_that_began_before_an_invalidation_is_worth_nothing() {
        let cache = KnownSessions::new();
        let ticket = cache.begin_fill(7);
        cache.invalidate(7);
        cache.fill(&ticket, &OLDER, &standing(0), 0);
        assert!(!knows(&cache, 7, &OLDER, 0));

        let ticket = cache.begin_fill(7);
        cache.invalidate_all();
        cache.fill(&ticket, &OLDER, &standing(0), 0);
        assert!(!knows(&cache, 7, &OLDER, 0));
    }

    #[test]
    fn a_write_invalidates_every_session_before_and_after_it() {
        let cache = KnownSessions::new();
        let all = [OLDER, of_session(1), of_session(2)];
        for credential in &all {
            fill(&cache, 7, credential, 0);
        }
        fill(&cache, 8, &OLDER, 0);
        let guard = cache.invalidating(7);
        assert!(!all.iter().any(|credential| knows(&cache, 7, credential, 0)));
        // Read and filled while the write is under way.
        fill(&cache, 7, &OLDER, 0);
        drop(guard);
        assert!(!knows(&cache, 7, &OLDER, 0));
        assert!(knows(&cache, 8, &OLDER, 0), "another account's entry stays");
    }

    #[test]
    fn the_least_recently_used_session_goes_first() {
        let cache = KnownSessions::new();
        let entries = i64::try_from(CACHE_ENTRIES).unwrap();
        for user in 0..entries {
            fill(&cache, user, &OLDER, 0);
        }
        assert!(knows(&cache, 0, &OLDER, 0));
        fill(&cache, entries, &OLDER, 0);
        assert!(knows(&cache, 0, &OLDER, 0));
        assert!(!knows(&cache, 1, &OLDER, 0));
    }
}
