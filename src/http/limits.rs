//! Fixed-window rate limits (contract, section 2.4).
//!
//! A window opens with the first counted request of a key and ends after the rule's time, whatever happens in between.
//! Counters are process-local hints against abuse, so their number is bounded: the key that was seen least recently
//! goes first. This module counts; who is counted under which key is [`super::address`]'s and the middleware's
//! business.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::config::RateLimit;

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

#[derive(Clone, Copy, Debug)]
struct Window {
    opened_ms: i64,
    count: u32,
}

/// Counts requests per key. Shared by reference; each call takes a short lock.
#[derive(Debug)]
pub struct FixedWindow<K: Hash + Eq> {
    rule: RateLimit,
    windows: Mutex<LruCache<K, Window>>,
}

impl<K: Hash + Eq> FixedWindow<K> {
    /// A limiter with this rule that remembers at most `max_keys` keys.
    #[must_use]
    pub fn new(rule: RateLimit, max_keys: NonZeroUsize) -> Self {
        Self { rule, windows: Mutex::new(LruCache::new(max_keys)) }
    }

    /// Counts a request of `key` at `now_ms` (Unix milliseconds). `None`: the limit is switched off.
    pub fn hit(&self, key: K, now_ms: i64) -> Option<Verdict> {
        let RateLimit { max, window } = self.rule;
        if max == 0 {
            return None;
        }
        let window_ms = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = windows.get_or_insert_mut(key, || Window { opened_ms: now_ms, count: 0 });
        // A clock that was set back must not keep a window open for longer than it lasts.
        if now_ms < entry.opened_ms || now_ms - entry.opened_ms >= window_ms {
            *entry = Window { opened_ms: now_ms, count: 0 };
        }
        entry.count = entry.count.saturating_add(1);
        let left_ms = window_ms - (now_ms - entry.opened_ms);
        Some(Verdict {
            allowed: entry.count <= max,
            limit: max,
            remaining: max.saturating_sub(entry.count),
            reset: Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)),
        })
    }

    /// Forgets what was counted for `key`.
    pub fn forget(&self, key: &K) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).pop(key);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(max: u32, keys: usize) -> FixedWindow<u32> {
        FixedWindow::new(RateLimit { max, window: Duration::from_mins(1) }, NonZeroUsize::new(keys).unwrap())
    }

    #[test]
    fn the_window_starts_at_the_first_request_and_does_not_slide() {
        let limiter = limiter(2, 10);
        let hits: Vec<bool> =
            [0, 30_000, 59_999, 60_000].into_iter().map(|t| limiter.hit(1, t).unwrap().allowed).collect();
        assert_eq!(hits, [true, true, false, true]);
    }

    #[test]
    fn refused_requests_report_nothing_left_and_the_time_to_wait() {
        let limiter = limiter(1, 10);
        limiter.hit(1, 0).unwrap();
        let verdict = limiter.hit(1, 58_500).unwrap();
        assert_eq!(verdict, Verdict { allowed: false, limit: 1, remaining: 0, reset: Duration::from_millis(1500) });
        assert_eq!((verdict.reset_seconds(), verdict.reset_text().as_str()), (2, "2 seconds"));
    }

    #[test]
    fn keys_are_separate_and_their_number_is_bounded() {
        let limiter = limiter(1, 2);
        for key in 0..5 {
            assert!(limiter.hit(key, 0).unwrap().allowed);
        }
        assert_eq!(limiter.len(), 2);
        assert!(!limiter.hit(4, 1).unwrap().allowed);
    }

    #[test]
    fn a_forgotten_key_starts_anew_and_zero_switches_off() {
        let limited = limiter(1, 10);
        limited.hit(1, 0).unwrap();
        limited.forget(&1);
        assert!(limited.hit(1, 1).unwrap().allowed);
        assert_eq!(limiter(0, 10).hit(1, 0), None);
    }

    #[test]
    fn a_clock_set_back_opens_a_new_window() {
        let limiter = limiter(1, 10);
        limiter.hit(1, 1_000_000).unwrap();
        let verdict = limiter.hit(1, 0).unwrap();
        assert!(verdict.allowed);
        assert_eq!(verdict.reset, Duration::from_mins(1));
    }

    #[test]
    fn waiting_times_are_told_in_one_unit() {
        let text =
            |ms| Verdict { allowed: false, limit: 1, remaining: 0, reset: Duration::from_millis(ms) }.reset_text();
        let texts: Vec<String> = [0, 1000, 59_000, 59_001, 60_000, 61_000, 900_000].into_iter().map(text).collect();
        assert_eq!(texts, ["1 second", "1 second", "59 seconds", "1 minute", "1 minute", "2 minutes", "15 minutes"]);
    }
}
