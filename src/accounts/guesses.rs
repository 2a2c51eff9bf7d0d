//! Wrong passwords: how many are too many (accounts contract, section 8.2).
//!
//! They are counted by address and by network ([`super::address_prefix`]: IPv4 /24, IPv6 /48), for addresses that nobody
//! has as for others, so that neither answer nor work tells whether an account exists.
//!
//! - [`LOCK_AFTER_FAILURES`] from one network within [`REMEMBERED_MS`] lock the address for that network, for [`LOCK_MS`].
//!   After that the count starts at nothing. Who guesses elsewhere keeps nobody out here.
//! - [`MOST_FROM_STRANGERS`] from all networks that the account does not know, together, within [`REMEMBERED_MS`] lock it
//!   for all of those for as long: many networks get no more guesses than that. A network is known while the account has
//!   a session that was opened or last seen there, so the owner's own devices are not kept out by this.
//!
//! While an address is locked, nothing is counted. A password that is right, a mailed link that is used, and a new password
//! end locks.

use super::Accounts;
use crate::protocol::UserId;
use crate::store::{FailureRule, LoginStanding, StoreError};

/// At this many wrong passwords from a network the address is locked for it.
pub const LOCK_AFTER_FAILURES: i64 = 5;
/// How long such a lock lasts: 15 minutes.
pub const LOCK_MS: i64 = 15 * 60 * 1000;
/// At this many wrong passwords from networks that the account does not know it is locked for all of those.
pub const MOST_FROM_STRANGERS: i64 = 50;
/// How long wrong passwords are remembered after the first of them: a day.
const REMEMBERED_MS: i64 = 24 * 60 * 60 * 1000;
/// How many counts are kept; the oldest go first.
const MAX_COUNTS: i64 = 100_000;

/// Where somebody whose address is not known comes from.
const NOWHERE: &str = "unknown";
/// All networks that an account does not know. No network is called that.
const STRANGERS: &str = "";

/// Somebody who says a password, before it is judged.
pub(super) struct Guess<'a> {
    /// The account's address in lower case.
    email: &'a str,
    network: String,
    pub(super) standing: LoginStanding,
}

impl Accounts {
    /// What is known of an address and of where somebody comes from who claims it. The caller holds the address's turn.
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

    /// After a password that was right: forgets the wrong ones from there. Those of strangers are theirs.
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
    /// Whether no password is good enough at the moment.
    pub(super) const fn is_locked(&self) -> bool {
        let [here, strangers] = self.standing.failures;
        here >= LOCK_AFTER_FAILURES || (strangers >= MOST_FROM_STRANGERS && !self.standing.knows_network)
    }
}
