//! Deletes what an account's archive has given up beyond its limit, as soon as it has: the daily clean-up would leave it on
//! the disk for a day. In small steps, one account at a time; what fails or is not finished is left to the clean-up.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::archive::bound::is_due;
use crate::protocol::UserId;
use crate::store::{ArchivedRange, Store, StoreError};

/// Accounts that wait. More than that are left to the clean-up.
const CAPACITY: usize = 10_000;
/// Operations deleted in one transaction,
const BATCH: usize = 500;
/// and of large ones so many that they come to about so many bytes.
const BATCH_BYTES: i64 = 8 * 1024 * 1024;

/// Accounts whose archive holds something to be deleted.
pub struct Reclaimer {
    store: Arc<dyn Store>,
    waiting: Mutex<BTreeSet<UserId>>,
    arrived: Notify,
    /// Held during a deletion: two at once would do the same work twice.
    turn: tokio::sync::Mutex<()>,
}

impl Reclaimer {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, waiting: Mutex::default(), arrived: Notify::new(), turn: tokio::sync::Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<UserId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that an account's archive holds something to be deleted.
    pub fn wake(&self, user: UserId) {
        let mut waiting = self.waiting();
        if waiting.len() < CAPACITY {
            waiting.insert(user);
            self.arrived.notify_one();
        }
    }

    /// Deletes what there is, until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let work = async {
            loop {
                self.arrived.notified().await;
                loop {
                    let next = self.waiting().pop_first();
                    let Some(user) = next else { break };
                    if let Err(error) = self.free(user).await {
                        tracing::warn!(%error, user_id = user, "what the archive gave up is left to the clean-up");
                    }
                }
            }
        };
        cancel.run_until_cancelled(work).await;
    }

    /// Deletes what an account's archive has given up, now.
    ///
    /// # Errors
    /// The store's trouble; what is left is left to the clean-up.
    pub async fn free(&self, user: UserId) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        for range in self.store.archived(user).await? {
            if is_due(range.reason) {
                delete_range(&*self.store, user, &range, BATCH).await?;
            }
        }
        Ok(())
    }
}

/// Deletes a range of the archive with its operations, at most `batch` of them at once. Returns how many there were.
///
/// # Errors
/// The store's trouble; what is left can be deleted again.
pub async fn delete_range(
    store: &dyn Store,
    user: UserId,
    range: &ArchivedRange,
    batch: usize,
) -> Result<u64, StoreError> {
    let batch = batch.min(batch_of(range)).max(1);
    let mut total = 0;
    loop {
        let deleted = store.delete_ops(user, range.from_seq - 1, range.to_seq, batch).await?;
        total += deleted;
        if deleted == 0 {
            break;
        }
    }
    store.drop_archive(user, range).await?;
    Ok(total)
}

/// So many operations of a range come to [`BATCH_BYTES`], if they are all of one size.
fn batch_of(range: &ArchivedRange) -> usize {
    let each = (range.bytes / (range.to_seq - range.from_seq + 1).max(1)).max(1);
    // Segments hold up to so many, and are deleted whole.
    let few = if each < BATCH_BYTES / 500 { i64::MAX } else { BATCH_BYTES / each };
    usize::try_from(few).unwrap_or(usize::MAX)
}
