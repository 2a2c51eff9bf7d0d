//! Accounts that ask most, in bounded memory: the space-saving algorithm, in sets of a few places each, so that a request
//! looks at one set only. An account that finds its set full takes the place of the one with the lowest score and inherits
//! that score, so that it must not begin at nothing, but not its figures: those are of what was seen.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use super::{HotAccount, WINDOW};
use crate::protocol::UserId;

/// Sets, a power of two; an account's number says which is its own.
const SETS: usize = 64;
/// Accounts of a set.
const WAYS: usize = 4;
/// So many bytes weigh as much as a request, or as an operation.
const BYTES_PER_POINT: u64 = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    score: u64,
    /// Of account 0: empty.
    seen: HotAccount,
}

/// This window and the one before.
#[derive(Debug, Default)]
struct Set {
    window: u64,
    now: [Place; WAYS],
    before: [Place; WAYS],
}

#[derive(Debug)]
pub(super) struct Hottest {
    sets: Vec<Mutex<Set>>,
}

impl Default for Hottest {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }
}

fn window_of(age: Duration) -> u64 {
    age.as_secs() / WINDOW.as_secs()
}

impl Set {
    /// Goes on to the window that it is time for.
    fn advance(&mut self, window: u64) {
        if window <= self.window {
            return;
        }
        self.before = if window == self.window + 1 { self.now } else { Default::default() };
        self.now = Default::default();
        self.window = window;
    }

    fn place(&mut self, account: UserId) -> &mut Place {
        let at = self.now.iter().position(|place| place.seen.account == account).unwrap_or_else(|| {
            let lowest = (0..WAYS).min_by_key(|at| self.now[*at].score).unwrap_or(0);
            self.now[lowest].seen = HotAccount { account, ..HotAccount::default() };
            lowest
        });
        &mut self.now[at]
    }
}

impl Hottest {
    /// Counts a request at this age of the server.
    pub(super) fn count(&self, account: UserId, operations: u64, bytes: u64, age: Duration) {
        // Numbers are given out one after the other, so their last bits spread well.
        let set = usize::try_from(account).unwrap_or(0) % SETS;
        let Ok(mut set) = self.sets[set].try_lock() else { return };
        set.advance(window_of(age));
        let place = set.place(account);
        place.score += 1 + operations + bytes / BYTES_PER_POINT;
        place.seen.requests += 1;
        place.seen.operations += operations;
        place.seen.bytes += bytes;
    }

    /// The accounts of the last minute: of this window, and of the one before as large a part as is missing.
    pub(super) fn accounts(&self, age: Duration) -> Vec<HotAccount> {
        let missing_ms = WINDOW.as_millis() - age.as_millis() % WINDOW.as_millis();
        let part = |n: u64, ms: u128| u64::try_from(u128::from(n) * ms / WINDOW.as_millis()).unwrap_or(n);
        let mut sums: HashMap<UserId, HotAccount> = HashMap::new();
        for set in &self.sets {
            let mut set = set.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            set.advance(window_of(age));
            for (places, ms) in [(set.now, WINDOW.as_millis()), (set.before, missing_ms)] {
                for HotAccount { account, requests, operations, bytes } in places.map(|place| place.seen) {
                    let sum = sums.entry(account).or_insert(HotAccount { account, ..HotAccount::default() });
                    sum.requests += part(requests, ms);
                    sum.operations += part(operations, ms);
                    sum.bytes += part(bytes, ms);
                }
            }
        }
        let mut all: Vec<HotAccount> = sums.into_values().collect();
        all.retain(|hot| hot.requests > 0);
        all.sort_by_key(|hot| (std::cmp::Reverse((hot.requests, hot.operations, hot.bytes)), hot.account));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;

    #[test]
    fn memory_is_bounded_and_who_asks_much_stays() {
        let hottest = Hottest::default();
        for round in 0..50 {
            for account in 1..=5_000 {
                hottest.count(account, 0, 0, START);
            }
            for _ in 0..200 {
                hottest.count(77, 1, 10, START);
            }
            // One request with much in it counts as much as many.
            hottest.count(90, 5_000, 1 << 20, START);
            assert!(hottest.accounts(START).len() <= SETS * WAYS, "{round}");
        }
        let accounts = hottest.accounts(START);
        assert_eq!(accounts[0].account, 77);
        assert!((9_800..=10_050).contains(&accounts[0].requests), "{:?}", accounts[0]);
        let heavy = accounts.iter().find(|hot| hot.account == 90).expect("it stays");
        assert!(heavy.operations >= 245_000 && heavy.bytes >= 49 << 20, "{heavy:?}");
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let hottest = Hottest::default();
        for _ in 0..60 {
            hottest.count(1, 2, 100, Duration::from_secs(30));
        }
        let at = |seconds| hottest.accounts(Duration::from_secs(seconds));
        let hot = |requests| HotAccount { account: 1, requests, operations: 2 * requests, bytes: 100 * requests };
        assert_eq!(at(59), [hot(60)]);
        assert_eq!(at(90), [hot(30)], "half of the window before");
        hottest.count(1, 2, 100, Duration::from_secs(90));
        assert_eq!(at(90), [hot(31)]);
        assert_eq!(at(300), []);
    }
}
