//! Fixed-window rate limits (contract, section 2.4).
//!
//! A window opens with the first counted request of a key and ends after the rule's time, whatever happens in between.
//! Counters are process-local hints against abuse, so their number is fixed. What makes room never forgets what was
//! counted: a key for which there is no counter takes over the lowest one of a few, *with its count*. So a crowd of
//! made-up keys can make new keys seem busier than they are, but it can't make a busy one seem new, its own included.
//! Of several processes each allows its share.
//! This module counts; who is counted under which key is [`super::counted`]'s and [`super::state`]'s business.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::RateLimit;

/// Counters among which a key finds its own; which ones is secret.
const WAYS: usize = 16;
/// Keys that have a counter of their own at once: with few exceptions, as many as there are honest ones in a window.
/// They take 400 kB, from the first one on.
const COUNTERS: usize = 16_384;

/// What a counted request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may proceed.
    pub allowed: bool,
    /// Requests per window.
    pub limit: u32,
    /// How many more may follow in this window.
    pub remaining: u32,
    /// Until the window ends.
    pub reset: Duration,
}

impl Verdict {
    /// Whole seconds until the window ends, at least 1.
    #[must_use]
    pub fn reset_seconds(&self) -> u64 {
        u64::try_from(self.reset.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
    }

    /// The time left as clients parse it: `1 minute`, `15 minutes`, `30 seconds`. They don't know hours.
    #[must_use]
    pub fn reset_text(&self) -> String {
        let seconds = self.reset_seconds();
        let (count, unit) = if seconds < 60 { (seconds, "second") } else { (seconds.div_ceil(60), "minute") };
        format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// Who is counted; 0: nobody.
    key: u64,
    opened_ms: i64,
    count: u32,
}

impl Counter {
    /// Whether nothing is counted any more. A clock that was set back must not keep a window open for longer than it
    /// lasts.
    fn is_over(&self, now_ms: i64, window_ms: i64) -> bool {
        self.count == 0 || now_ms < self.opened_ms || now_ms - self.opened_ms >= window_ms
    }
}

/// Counts requests per key. Shared by reference; each call takes a short lock.
#[derive(Debug)]
pub struct FixedWindow<K> {
    rule: RateLimit,
    window_ms: i64,
    hasher: RandomState,
    counters: Mutex<Vec<Counter>>,
    most: usize,
    keys: PhantomData<fn(&K)>,
}

/// One part in so many of a limit, which is never nothing.
#[must_use]
pub fn share(max: u32, parts: u32) -> u32 {
    (max / parts.max(1)).max(1)
}

impl<K: Hash> FixedWindow<K> {
    /// A limiter with this rule.
    #[must_use]
    pub fn new(rule: RateLimit) -> Self {
        Self::with_counters(rule, COUNTERS)
    }

    /// One with so many times the requests in the same time.
    #[must_use]
    pub fn times(rule: RateLimit, factor: u32) -> Self {
        Self::new(RateLimit { max: rule.max.saturating_mul(factor), ..rule })
    }

    fn with_counters(rule: RateLimit, most: usize) -> Self {
        Self {
            rule,
            window_ms: i64::try_from(rule.window.as_millis()).unwrap_or(i64::MAX),
            hasher: RandomState::new(),
            counters: Mutex::default(),
            most: most.next_multiple_of(WAYS),
            keys: PhantomData,
        }
    }

    fn counters(&self) -> MutexGuard<'_, Vec<Counter>> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.is_empty() {
            counters.resize(self.most, Counter::default());
        }
        counters
    }

    /// The key's number, and among which counters its own is.
    fn place(&self, key: &K) -> (u64, std::ops::Range<usize>) {
        let hash = self.hasher.hash_one(key);
        let groups = u64::try_from(self.most / WAYS).unwrap_or(1);
        let group = usize::try_from(hash % groups).unwrap_or(0);
        (hash.max(1), group * WAYS..(group + 1) * WAYS)
    }

    /// Counts a request of `key` at `now_ms` (Unix milliseconds), of which this process allows one part in so many. `None`:
    /// the limit is switched off.
    pub fn hit(&self, key: &K, now_ms: i64, parts: u32) -> Option<Verdict> {
        if self.rule.max == 0 {
            return None;
        }
        let (key, place) = self.place(key);
        let mut counters = self.counters();
        let group = &mut counters[place];
        let at = group.iter().position(|counter| counter.key == key).unwrap_or_else(|| {
            // The one that matters least: nothing is counted any more, else the least and that the latest.
            let weight = |counter: &Counter| {
                let is_over = counter.is_over(now_ms, self.window_ms);
                if is_over { (0, 0) } else { (counter.count, i64::MAX - counter.opened_ms) }
            };
            (0..WAYS).min_by_key(|at| weight(&group[*at])).unwrap_or(0)
        });
        let counter = &mut group[at];
        counter.key = key;
        if counter.is_over(now_ms, self.window_ms) {
            (counter.opened_ms, counter.count) = (now_ms, 0);
        }
        counter.count = counter.count.saturating_add(1);
        let most = share(self.rule.max, parts);
        Some(self.verdict(counter, most, counter.count <= most, now_ms))
    }

    /// What a further request of `key` would be told; counts nothing.
    pub fn look(&self, key: &K, now_ms: i64, parts: u32) -> Option<Verdict> {
        if self.rule.max == 0 {
            return None;
        }
        let (key, place) = self.place(key);
        let counters = self.counters();
        let known = counters[place].iter().find(|counter| counter.key == key);
        let fresh = Counter { key, opened_ms: now_ms, count: 0 };
        let counter = *known.filter(|counter| !counter.is_over(now_ms, self.window_ms)).unwrap_or(&fresh);
        let most = share(self.rule.max, parts);
        Some(self.verdict(&counter, most, counter.count < most, now_ms))
    }

    fn verdict(&self, counter: &Counter, most: u32, allowed: bool, now_ms: i64) -> Verdict {
        let left_ms = self.window_ms - (now_ms - counter.opened_ms);
        Verdict {
            allowed,
            limit: most,
            remaining: most.saturating_sub(counter.count),
            reset: Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)),
        }
    }

    /// Forgets what was counted for `key`.
    pub fn forget(&self, key: &K) {
        let (key, place) = self.place(key);
        if let Some(counter) = self.counters()[place].iter_mut().find(|counter| counter.key == key) {
            *counter = Counter::default();
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.counters().fill(Counter::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(max: u32) -> FixedWindow<u32> {
        FixedWindow::new(RateLimit { max, window: Duration::from_mins(1) })
    }

    #[test]
    fn the_window_starts_at_the_first_request_and_does_not_slide() {
        let limiter = limiter(2);
        let hits: Vec<bool> =
            [0, 30_000, 59_999, 60_000].into_iter().map(|t| limiter.hit(&1, t, 1).unwrap().allowed).collect();
        assert_eq!(hits, [true, true, false, true]);
    }

    #[test]
    fn refused_requests_report_nothing_left_and_the_time_to_wait() {
        let limiter = limiter(1);
        limiter.hit(&1, 0, 1).unwrap();
        let verdict = limiter.hit(&1, 58_500, 1).unwrap();
        assert_eq!(verdict, Verdict { allowed: false, limit: 1, remaining: 0, reset: Duration::from_millis(1500) });
        assert_eq!((verdict.reset_seconds(), verdict.reset_text().as_str()), (2, "2 seconds"));
    }

    #[test]
    fn a_look_counts_nothing() {
        let limiter = limiter(1);
        for _ in 0..3 {
            assert!(limiter.look(&1, 0, 1).unwrap().allowed);
        }
        assert!(limiter.hit(&1, 0, 1).unwrap().allowed);
        assert!(!limiter.look(&1, 59_999, 1).unwrap().allowed && limiter.look(&2, 59_999, 1).unwrap().allowed);
        assert!(limiter.look(&1, 60_000, 1).unwrap().allowed);
        assert_eq!(self::limiter(0).look(&1, 0, 1), None);
    }

    #[test]
    fn honest_keys_are_counted_apart() {
        let limiter = limiter(1);
        let refused = (0..3_000).filter(|key| !limiter.hit(key, 0, 1).unwrap().allowed).count();
        assert_eq!(refused, 0);
        assert!(!limiter.hit(&4, 1, 1).unwrap().allowed);
    }

    #[test]
    fn a_crowd_of_keys_resets_nobody() {
        let limiter = FixedWindow::<u32>::with_counters(RateLimit { max: 10, window: Duration::from_mins(1) }, 256);
        for _ in 0..20 {
            limiter.hit(&1, 0, 1).unwrap();
        }
        for key in 2..2_000 {
            limiter.hit(&key, 30_000, 1).unwrap();
        }
        assert!(!limiter.hit(&1, 59_999, 1).unwrap().allowed, "it was busy before");
        // Who goes round among more keys than there are counters has their counts all the same.
        let allowed =
            (0..10).flat_map(|_| 10_000..12_000).filter(|key| limiter.hit(key, 59_999, 1).unwrap().allowed).count();
        assert!(allowed <= 256 * 10, "{allowed}");
        assert!(limiter.hit(&3, 120_000, 1).unwrap().allowed, "and all is over with its window");
    }

    #[test]
    fn a_forgotten_key_starts_anew_and_zero_switches_off() {
        let limited = limiter(1);
        limited.hit(&1, 0, 1).unwrap();
        limited.forget(&2);
        assert!(!limited.hit(&1, 1, 1).unwrap().allowed);
        limited.forget(&1);
        assert!(limited.hit(&1, 1, 1).unwrap().allowed);
        limited.clear();
        assert!(limited.hit(&1, 1, 1).unwrap().allowed);
        assert_eq!(limiter(0).hit(&1, 0, 1), None);
    }

    #[test]
    fn a_clock_set_back_opens_a_new_window() {
        let limiter = limiter(1);
        limiter.hit(&1, 1_000_000, 1).unwrap();
        let verdict = limiter.hit(&1, 0, 1).unwrap();
        assert!(verdict.allowed);
        assert_eq!(verdict.reset, Duration::from_mins(1));
    }

    #[test]
    fn several_processes_share_a_limit() {
        let limiter = limiter(7);
        let allowed = |parts| (0..9).filter(|_| limiter.hit(&parts, 0, parts).unwrap().allowed).count();
        assert_eq!((allowed(1), allowed(3), allowed(20)), (7, 2, 1));
        // Those who come or go change what is left at once.
        assert!(!limiter.look(&3, 0, 2).unwrap().allowed);
        assert!(limiter.hit(&4, 0, 3).unwrap().allowed && limiter.look(&4, 0, 3).unwrap().allowed);
        assert_eq!(limiter.look(&4, 0, 7).unwrap().limit, 1);
        assert!(!limiter.look(&4, 0, 7).unwrap().allowed);
    }

    #[test]
    fn waiting_times_are_told_in_one_unit() {
        let text =
            |ms| Verdict { allowed: false, limit: 1, remaining: 0, reset: Duration::from_millis(ms) }.reset_text();
        let texts: Vec<String> = [0, 1000, 59_000, 59_001, 60_000, 61_000, 900_000].into_iter().map(text).collect();
        assert_eq!(texts, ["1 second", "1 second", "59 seconds", "1 minute", "1 minute", "2 minutes", "15 minutes"]);
    }
}
