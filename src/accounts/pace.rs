//! Pace: sequential logins per address, and a minimum time for neutral answers.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// How long the database part of a neutral answer takes at least. Covers the difference between one look-up and a few
/// writes with their disk flushes.
const FLOOR: Duration = Duration::from_millis(50);

/// Sleeps until [`FLOOR`] after `began`: after it the answers for known and unknown addresses come at the same time.
pub(super) async fn level(began: Instant) {
    tokio::time::sleep_until(began + FLOOR).await;
}

const LANES: usize = 256;

/// One login of an address at a time, so that parallel guesses can't all be checked before the first is counted.
/// Addresses share lanes, by a secret hash.
pub(super) struct LoginLocks {
    lanes: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl LoginLocks {
    pub(super) fn new() -> Self {
        Self { lanes: (0..LANES).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    pub(super) async fn lock(&self, email: &str) -> MutexGuard<'_, ()> {
        let lane = usize::try_from(self.hasher.hash_one(email) % LANES as u64).expect("smaller than LANES");
        self.lanes[lane].lock().await
    }
}
