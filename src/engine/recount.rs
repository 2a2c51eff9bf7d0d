//! Puts right what accounts are charged: counts what is stored, and corrects counters that say something else.
//!
//! Walks over accounts in steps, reading each account's operations once; a step that takes too long for the database is
//! made smaller. A correction takes effect only on the account as it was counted: whoever commits in between is counted
//! again. Servers that have the account in memory plan on its old revision once more at most, and hear of it besides.

use crate::protocol::UserId;
use crate::store::{Charge, Store, StoreError};

/// Accounts counted by one statement.
const ACCOUNTS_PER_STEP: usize = 100;
/// How often an account that keeps changing is counted.
const MAX_ATTEMPTS: u32 = 5;

/// An account that is charged something else than what it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The account.
    pub user: UserId,
    /// What it was charged, in bytes.
    pub charged_bytes: i64,
    /// What it stores, in bytes.
    pub counted_bytes: i64,
    /// Whether the counter was put right.
    pub corrected: bool,
}

/// What counting has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recount {
    /// Accounts counted.
    pub accounts: u64,
    /// Those that were charged something else.
    pub wrong: u64,
    /// Those that were put right.
    pub corrected: u64,
    /// Those that could not be counted or put right; the log says why.
    pub failed: u64,
}

/// Counts one account. `None`: it is charged what it stores, or there is nothing to charge.
///
/// # Errors
/// When the database fails, or the account changed all the time.
pub async fn recount_account(store: &dyn Store, user: UserId, correct: bool) -> Result<Option<Difference>, StoreError> {
    for _ in 0..MAX_ATTEMPTS {
        let charges = store.charges(user - 1, user, 1).await?;
        let Some(charge) = charges.first() else { return Ok(None) };
        match settle(store, charge, correct).await? {
            Settled::Right => return Ok(None),
            Settled::Wrong(difference) => return Ok(Some(difference)),
            Settled::Moved => {}
        }
    }
    Err(StoreError::Refused("the account changes all the time".to_owned()))
}

/// Counts every account, and tells of each that is wrong.
///
/// # Errors
/// When the database fails as a whole; a single account's trouble is counted.
pub async fn recount_all(
    store: &dyn Store,
    correct: bool,
    mut tell: impl FnMut(&Recount, Option<Difference>) + Send,
) -> Result<Recount, StoreError> {
    let mut done = Recount::default();
    let (mut after, mut step) = (0, ACCOUNTS_PER_STEP);
    loop {
        let charges = match store.charges(after, UserId::MAX, step).await {
            Ok(charges) => charges,
            Err(error @ StoreError::Timeout(_)) if step > 1 => {
                tracing::info!(%error, accounts = step, "too much for one statement, fewer accounts at a time now");
                step = step.div_ceil(10);
                continue;
            }
            Err(error @ StoreError::Timeout(_)) => {
                let Some(next) = store.next_accounts(after, 1).await? else { return Ok(done) };
                after = next.0;
                done.failed += 1;
                tracing::warn!(%error, user_id = after, "account can't be counted");
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(last) = charges.last() else { return Ok(done) };
        after = last.user;
        for charge in &charges {
            done.accounts += 1;
            let settled = match settle(store, charge, correct).await {
                Ok(Settled::Right) => Ok(None),
                Ok(Settled::Wrong(difference)) => Ok(Some(difference)),
                Ok(Settled::Moved) => recount_account(store, charge.user, correct).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(None) => tell(&done, None),
                Ok(Some(difference)) => {
                    done.wrong += 1;
                    done.corrected += u64::from(difference.corrected);
                    tell(&done, Some(difference));
                }
                Err(error) => {
                    done.failed += 1;
                    tracing::warn!(%error, user_id = charge.user, "account not counted");
                }
            }
        }
    }
}

enum Settled {
    Right,
    Wrong(Difference),
    /// It has changed since it was counted.
    Moved,
}

async fn settle(store: &dyn Store, charge: &Charge, correct: bool) -> Result<Settled, StoreError> {
    let Charge { user, revision, charged_bytes, .. } = *charge;
    let operation_bytes = if let Some(bytes) = charge.operation_bytes {
        bytes
    } else {
        let (bytes, _) = store.measure(user, charge.pruned_seq, charge.last_seq).await?;
        // Counted later than the rest was read: of another revision it says nothing.
        let still = store.charges(user - 1, user, 1).await?;
        if still.first().is_none_or(|now| now.revision != revision) {
            return Ok(Settled::Moved);
        }
        bytes
    };
    let counted_bytes = operation_bytes + charge.snapshot_bytes;
    if counted_bytes == charged_bytes {
        return Ok(Settled::Right);
    }
    let difference = Difference { user, charged_bytes, counted_bytes, corrected: correct };
    if correct && !store.correct_charge(user, revision, counted_bytes).await? {
        return Ok(Settled::Moved);
    }
    Ok(Settled::Wrong(difference))
}
