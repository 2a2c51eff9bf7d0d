//! Locks after wrong passwords (accounts contract, section 8.2).
//!
//! Wrong passwords are counted by address and by network ([`super::address_prefix`]: IPv4 /24, IPv6 /48), for unknown
//! addresses too, so that neither answer nor work tells whether an account exists.
//!
//! - [`LOCK_AFTER_FAILURES`] from one network within [`REMEMBERED_MS`] lock the address for that network, for
//!   [`LOCK_MS`]. Then the count restarts. Guesses from elsewhere don't affect this network.
//! - [`MOST_FROM_STRANGERS`] from all unknown networks together within [`REMEMBERED_MS`] lock it for all of them for as
//!   long, which limits distributed guessing. A network is known while the account has a session that was opened or
//!   last seen there, so this does not lock out the owner's devices.
//!
//! During a lock nothing is counted. The right password, a used mailed link, and a new password end locks.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

use super::Accounts;
use crate::protocol::UserId;
use crate::store::{FailureRule, LoginStanding, StoreError};

/// Wrong passwords from one network that lock the address for it.
pub const LOCK_AFTER_FAILURES: i64 = 5;
/// How long such a lock lasts: 15 minutes.
pub const LOCK_MS: i64 = 15 * 60 * 1000;
/// Wrong passwords from unknown networks that lock the address for all of them.
pub const MOST_FROM_STRANGERS: i64 = 50;
/// How long wrong passwords are remembered after the first of them: a day.
const REMEMBERED_MS: i64 = 24 * 60 * 60 * 1000;
/// Maximum number of counters; the oldest are dropped.
const MAX_COUNTS: i64 = 100_000;

/// The network of clients without a known address.
const NOWHERE: &str = "unknown";
/// All networks unknown to an account. Not the name of any network.
const STRANGERS: &str = "";

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

/// An attempt to sign in, before the password is checked.
pub(super) struct Guess<'a> {
    /// The account's address in lower case.
    email: &'a str,
    network: String,
    pub(super) standing: LoginStanding,
}

impl Accounts {
    /// Reads the counters of an address and a network. The caller holds the address's turn.
    pub(super) async fn guess<'a>(&self, email: &'a str, network: Option<String>) -> Result<Guess<'a>, StoreError> {
        let network = network.unwrap_or_else(|| NOWHERE.to_owned());
        let standing = self.inner.store.login_standing(email, [&network, STRANGERS], self.inner.clock.now_ms()).await?;
        Ok(Guess { email, network, standing })
    }

    /// Counts a wrong password.
    pub(super) async fn count_miss(&self, guess: &Guess<'_>) -> Result<(), StoreError> {
        let now_ms = self.inner.clock.now_ms();
        let (here, strangers) = (guess.standing.failures[0], guess.standing.failures[1]);
        let locks_at =
            |lock_at, lock_ms| FailureRule { lock_at, lock_ms, remembered_ms: REMEMBERED_MS, most: MAX_COUNTS };
        let store = &self.inner.store;
        let rule = locks_at(LOCK_AFTER_FAILURES, LOCK_MS);
        store.count_failed_login(guess.email, &guess.network, &rule, now_ms).await?;
        let mut locked = here + 1 == LOCK_AFTER_FAILURES;
        if !guess.standing.knows_network {
            let rule = locks_at(MOST_FROM_STRANGERS, REMEMBERED_MS);
            store.count_failed_login(guess.email, STRANGERS, &rule, now_ms).await?;
            locked |= strangers + 1 == MOST_FROM_STRANGERS;
        }
        if locked {
            metrics::counter!("supersync_lockouts_total").increment(1);
        }
        Ok(())
    }

    /// After the right password: resets the network's counter, not that of unknown networks.
    pub(super) async fn forget_misses(&self, guess: &Guess<'_>) -> Result<(), StoreError> {
        if guess.standing.failures[0] != 0 {
            self.inner.store.forget_failed_logins(guess.email, Some(&guess.network)).await?;
        }
        Ok(())
    }

    /// After a new password: ends every lock of the account.
    pub(super) async fn forget_all_misses(&self, user: UserId) -> Result<(), StoreError> {
        if let Some(row) = self.inner.store.user_by_id(user).await? {
            self.inner.store.forget_failed_logins(&row.email, None).await?;
        }
        Ok(())
    }
}

impl Guess<'_> {
    /// Whether the address is locked for this network.
    pub(super) const fn is_locked(&self) -> bool {
        let [here, strangers] = self.standing.failures;
        here >= LOCK_AFTER_FAILURES || (strangers >= MOST_FROM_STRANGERS && !self.standing.knows_network)
    }
}
