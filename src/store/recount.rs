//! What accounts are charged, recounted from what is stored: the figure that the counter in the state row should have.
//!
//! The counter moves with every commit, so it is right unless something else has written to the database. Counting reads
//! one state of the database per step and never changes anything; a correction is fenced by the account's revision, so it
//! takes effect only on the account as it was counted, and every server that has the account in memory finds out.

use async_trait::async_trait;

use super::Result;
use crate::protocol::{Seq, UserId};

/// What an account is charged, and what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The account.
    pub user: UserId,
    /// Its revision when it was counted.
    pub revision: i64,
    /// The data set begins after this sequence.
    pub pruned_seq: Seq,
    /// The data set's last sequence.
    pub last_seq: Seq,
    /// What it is charged, in bytes.
    pub charged_bytes: i64,
    /// What its operations add up to, in bytes. `None`: a segment lies only in part in the data set, so that it takes
    /// [`super::LogStore::measure`] to say.
    pub operation_bytes: Option<i64>,
    /// What its cached state is charged, in bytes.
    pub snapshot_bytes: i64,
}

/// Counting what accounts are charged.
#[async_trait]
pub trait RecountStore: Send + Sync + 'static {
    /// Accounts with numbers above `after`, up to `up_to`, ascending, at most `limit`. Reads the accounts' operations that
    /// are not packed, and of segments what is known without opening them.
    async fn charges(&self, after: UserId, up_to: UserId, limit: usize) -> Result<Vec<Charge>>;
    /// Sets what an account is charged, if its revision still is `revision`, and announces it. Whether it did.
    async fn correct_charge(&self, user: UserId, revision: i64, bytes: i64) -> Result<bool>;
}

/// The same in both databases.
pub(super) const CHARGES: &str = "\
SELECT s.user_id, s.revision, s.pruned_seq, s.last_seq, s.storage_used_bytes, \
CASE WHEN EXISTS (SELECT 1 FROM segments g WHERE g.user_id = s.user_id AND g.last_seq > s.pruned_seq \
AND (g.first_seq <= s.pruned_seq OR g.last_seq > s.last_seq AND g.first_seq <= s.last_seq)) THEN NULL ELSE \
CAST(COALESCE((SELECT sum(o.storage_bytes) FROM operations o WHERE o.user_id = s.user_id \
AND o.server_seq > s.pruned_seq AND o.server_seq <= s.last_seq), 0) \
+ COALESCE((SELECT sum(g.storage_bytes) FROM segments g WHERE g.user_id = s.user_id \
AND g.last_seq > s.pruned_seq AND g.last_seq <= s.last_seq), 0) AS BIGINT) END, \
CASE WHEN s.snapshot_seq IS NULL THEN 0 ELSE COALESCE(s.snapshot_bytes, 0) END \
FROM user_sync_state s WHERE s.user_id > $1 AND s.user_id <= $2 ORDER BY s.user_id LIMIT $3";

pub(super) const CORRECT_CHARGE: &str = "\
UPDATE user_sync_state SET storage_used_bytes = $3, revision = revision + 1 WHERE user_id = $1 AND revision = $2";

macro_rules! decode_charge {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::Charge> {
            Ok($crate::store::Charge {
                user: row.try_get(0)?,
                revision: row.try_get(1)?,
                pruned_seq: row.try_get(2)?,
                last_seq: row.try_get(3)?,
                charged_bytes: row.try_get(4)?,
                operation_bytes: row.try_get(5)?,
                snapshot_bytes: row.try_get(6)?,
            })
        })()
    }};
}

pub(super) use decode_charge;
