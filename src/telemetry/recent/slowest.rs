//! The slowest requests of the last minutes. A request that is not among them costs two comparisons; only the others take
//! a lock, and they allocate nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use super::{Request, SlowRequest};
use crate::protocol::UserId;

/// How many are kept.
const KEPT: usize = 64;
/// For how long.
const KEPT_FOR: Duration = Duration::from_mins(5);
/// What is faster is of no interest.
const FLOOR: Duration = Duration::from_millis(10);

/// Longer routes than that are allocated.
const ROUTE_BYTES: usize = 64;

#[derive(Debug)]
struct Entry {
    at: i64,
    method: &'static str,
    route: SmallVec<[u8; ROUTE_BYTES]>,
    account: Option<UserId>,
    status: u16,
    phase: &'static str,
    duration: Duration,
    age: Duration,
}

#[derive(Debug)]
pub(super) struct Slowest {
    /// In microseconds: what is not slower need not be looked at,
    floor_us: AtomicU64,
    /// until this age of the server, in seconds: then the oldest one is forgotten, and there is room.
    until_seconds: AtomicU64,
    entries: Mutex<Vec<Entry>>,
}

impl Default for Slowest {
    fn default() -> Self {
        Self {
            floor_us: AtomicU64::new(micros(FLOOR)),
            until_seconds: AtomicU64::new(u64::MAX),
            entries: Mutex::new(Vec::with_capacity(KEPT + 1)),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Slowest {
    pub(super) fn is_slow(&self, duration: Duration, age: Duration) -> bool {
        let us = micros(duration);
        us > self.floor_us.load(Ordering::Relaxed)
            || (duration > FLOOR && age.as_secs() > self.until_seconds.load(Ordering::Relaxed))
    }

    /// Adds one that was over at this time, at this age of the server.
    pub(super) fn add(&self, request: &Request<'_>, at: i64, phase: &'static str, age: Duration) {
        let Request { account, method, status, duration, .. } = *request;
        let route = SmallVec::from_slice(request.route.as_bytes());
        let entry = Entry { at, method, route, account, status, phase, duration, age };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.age + KEPT_FOR > age);
        entries.push(entry);
        if entries.len() > KEPT {
            let fastest = (0..entries.len()).min_by_key(|at| entries[*at].duration).unwrap_or(0);
            entries.swap_remove(fastest);
        }
        let full = entries.len() == KEPT;
        let floor = entries.iter().map(|entry| entry.duration).min().filter(|_| full).unwrap_or(FLOOR);
        let oldest = entries.iter().map(|entry| entry.age).min().unwrap_or(age);
        self.floor_us.store(micros(floor), Ordering::Relaxed);
        self.until_seconds.store((oldest + KEPT_FOR).as_secs(), Ordering::Relaxed);
    }

    pub(super) fn list(&self, age: Duration) -> Vec<SlowRequest> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.age + KEPT_FOR > age);
        let shown = |entry: &Entry| SlowRequest {
            at: entry.at,
            method: entry.method.into(),
            route: String::from_utf8_lossy(&entry.route).into_owned(),
            account: entry.account,
            status: entry.status,
            duration_ms: u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX),
            phase: entry.phase.into(),
        };
        let mut list: Vec<SlowRequest> = entries.iter().map(shown).collect();
        list.sort_by_key(|request| std::cmp::Reverse((request.duration_ms, request.at)));
        list
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn add(slowest: &Slowest, ms: u64, seconds: u64) -> bool {
        let (duration, age) = (Duration::from_millis(ms), Duration::from_secs(seconds));
        let slow = slowest.is_slow(duration, age);
        if slow {
            let request = Request::over("GET", "/x", 200, Instant::now(), duration);
            slowest.add(&request, 0, "engine", age);
        }
        slow
    }

    #[test]
    fn the_slowest_are_kept_for_a_while() {
        let slowest = Slowest::default();
        assert!(!add(&slowest, 10, 0), "too fast to be of interest");
        for ms in 0..1_000 {
            add(&slowest, 2_000 - ms, 0);
        }
        let durations = |seconds| -> Vec<u64> {
            slowest.list(Duration::from_secs(seconds)).iter().map(|request| request.duration_ms).collect()
        };
        assert_eq!(durations(1), (1_937..=2_000).rev().collect::<Vec<_>>());
        assert!(!add(&slowest, 1_936, 10) && add(&slowest, 3_000, 20));
        assert_eq!((durations(20).len(), durations(20)[0], durations(20)[63]), (KEPT, 3_000, 1_938));
        // When the first ones are old enough, slower ones than that are of interest again.
        assert!(!add(&slowest, 500, 300) && add(&slowest, 500, 301));
        assert_eq!(durations(302), [3_000, 500]);
        assert_eq!(durations(1_000), [] as [u64; 0]);
    }
}
