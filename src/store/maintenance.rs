//! What is done to logs in the background: packing, and giving free what was replaced.

use std::time::Duration;

use async_trait::async_trait;

use super::{ArchivedRange, Result};
use crate::protocol::{Seq, UserId};

/// An account with operations that may be packed into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealable {
    /// The account.
    pub user: UserId,
    /// Its data set.
    pub generation: i64,
    /// What may be packed begins after this sequence.
    pub after: Seq,
    /// The data set's last sequence.
    pub last_seq: Seq,
    /// A device that joins reads what comes after this sequence: the newest full state and its followers, or everything.
    pub pages_after: Seq,
    /// Numbers up to here may belong to no operation.
    pub sparse_up_to: Seq,
    /// The segment that ends at `after`, if one does.
    pub last_segment: Option<LastSegment>,
}

/// The newest segment of a log, without its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSegment {
    /// Its first sequence.
    pub first_seq: Seq,
    /// How many operations it holds.
    pub op_count: usize,
    /// Bytes that they are charged.
    pub storage_bytes: i64,
    /// Bytes that it takes, with what is needed to find operations in it.
    pub packed_bytes: i64,
}

/// What an account's archive keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveSize {
    /// The account.
    pub user: UserId,
    /// Bytes that the account may store.
    pub quota_bytes: i64,
    /// Bytes of the ranges that are kept for the user, as they were charged.
    pub kept_bytes: i64,
}

/// The same in both databases.
pub(super) const ARCHIVE_SIZES: &str = "\
SELECT a.user_id, u.storage_quota_bytes, CAST(sum(a.bytes) AS BIGINT) FROM archived_ranges a \
JOIN users u ON u.id = a.user_id WHERE a.user_id > $1 \
AND a.reason IN ('clean_slate', 'wipe', 'superseded', 'bring_back') \
GROUP BY a.user_id, u.storage_quota_bytes ORDER BY a.user_id LIMIT $2";

macro_rules! decode_archive_size {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::ArchiveSize> {
            Ok($crate::store::ArchiveSize {
                user: row.try_get(0)?,
                quota_bytes: row.try_get(1)?,
                kept_bytes: row.try_get(2)?,
            })
        })()
    }};
}

pub(super) use decode_archive_size;

/// Housekeeping over all accounts, in bounded steps.
#[async_trait]
pub trait MaintenanceStore: Send + Sync + 'static {
    /// Accounts whose data set may have a prunable prefix: those with a causal full state above `pruned_seq + 1`, ids
    /// above `after`, ascending.
    async fn prunable_accounts(&self, after: UserId, limit: usize) -> Result<Vec<UserId>>;

    /// Accounts, ids above `after`, ascending, in whose data set at least `min_run` operations have not been looked at
    /// for packing, the `min_run`-th of them received before `before_ms`. With `only` at most that account.
    async fn sealable_accounts(
        &self,
        after: UserId,
        only: Option<UserId>,
        min_run: Seq,
        before_ms: i64,
        limit: usize,
    ) -> Result<Vec<Sealable>>;

    /// Deletes operations with `after < seq ≤ up_to`, at most `limit`, lowest first. Returns how many; 0 = there are
    /// none left. The range must have left the data set: no commit may change it any more.
    async fn delete_ops(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<u64>;

    /// Archived ranges older than `before_ms`: account and range, oldest first, then by account and place, at most
    /// `limit`. Those that may go at once (`archived_at` 0) come last: what users have wiped must not wait for them.
    async fn expired_archives(&self, before_ms: i64, limit: usize) -> Result<Vec<(UserId, ArchivedRange)>>;

    /// What archives keep, of accounts with numbers above `after`, ascending, at most `limit`. Those that keep nothing
    /// are left out.
    async fn archive_sizes(&self, after: UserId, limit: usize) -> Result<Vec<ArchiveSize>>;

    /// Gives up ranges that are kept: from now on they are due for deletion. Others are left as they are.
    async fn give_up_archives(&self, user: UserId, ranges: &[ArchivedRange]) -> Result<()>;

    /// Forgets an archived range whose operations have been deleted, once the account's heads are tidied up.
    async fn drop_archive(&self, user: UserId, range: &ArchivedRange) -> Result<()>;

    /// Deletes an account's heads that belong to older generations, and the clocks that no head shares any more, in bounded
    /// steps.
    async fn tidy_heads(&self, user: UserId) -> Result<()>;

    /// Deletes devices not seen since `before_ms`, at most `limit`. Returns how many.
    async fn delete_stale_devices(&self, before_ms: i64, limit: usize) -> Result<u64>;

    /// Keeps every other instance from a clean-up for `ttl`, unless one of them keeps this one from it. `owner` names this
    /// process.
    async fn try_lead(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool>;
}
