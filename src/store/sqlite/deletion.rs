//! Deleting an account. The schema deletes all that belongs to it, in one transaction: of a long log that takes seconds, in
//! which nobody else writes. So a long log is emptied before, as a wipe would, and its rows go in short steps; the account
//! itself goes last, with what little is left. If that is broken off, the account has an empty data set and can be deleted
//! again.

use sqlx::Connection as _;

use super::SqliteStore;
use crate::protocol::UserId;
use crate::store::{MaintenanceStore as _, Result};

/// An account that never had more operations goes at once.
const SHORT_LOG: i64 = 2_000;
/// Rows deleted in one step.
const STEP: i64 = 250;

const LENGTH: &str = "SELECT COALESCE((SELECT last_seq FROM user_sync_state WHERE user_id = ?1), 0)";
/// Nothing is left that a device could ask for or bring back; whoever planned on what was there is fenced.
const EMPTY: [&str; 2] = [
    "UPDATE user_sync_state SET revision = revision + 1, generation = generation + 1, base_seq = last_seq, \
     pruned_seq = last_seq, heads_seq = last_seq, sealed_seq = last_seq, sealed_max_op_id = NULL, vector_clock = '{}', \
     full_state_seq = NULL, full_state_client_id = NULL, full_state_clock = NULL, replacement_seq = 0, \
     storage_used_bytes = 0, snapshot_seq = NULL, snapshot_at = NULL, snapshot_bytes = NULL WHERE user_id = ?1",
    "DELETE FROM archived_ranges WHERE user_id = ?1",
];
/// What lies before the data set, a step of it.
const STEPS: [&str; 2] = [
    "DELETE FROM operations WHERE rowid IN (SELECT rowid FROM operations WHERE user_id = ?1 \
     AND server_seq <= (SELECT base_seq FROM user_sync_state WHERE user_id = ?1) ORDER BY server_seq LIMIT ?2)",
    "DELETE FROM segments WHERE rowid IN (SELECT rowid FROM segments WHERE user_id = ?1 \
     AND last_seq <= (SELECT base_seq FROM user_sync_state WHERE user_id = ?1) ORDER BY last_seq LIMIT ?2)",
];
const DELETE: &str = "DELETE FROM users WHERE id = ?1";

impl SqliteStore {
    /// Whether there was such an account.
    pub(super) async fn delete_account(&self, user: UserId) -> Result<bool> {
        let length: i64 = sqlx::query_scalar(LENGTH).bind(user).fetch_one(&self.readers).await?;
        if length > SHORT_LOG {
            self.empty_log(user).await?;
        }
        let done = sqlx::query(DELETE).bind(user).execute(&mut *self.writer.acquire().await?).await?;
        self.checkpointer.wake();
        Ok(done.rows_affected() > 0)
    }

    async fn empty_log(&self, user: UserId) -> Result<()> {
        {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            for sql in EMPTY {
                sqlx::query(sql).bind(user).execute(&mut *tx).await?;
            }
            tx.commit().await?;
        }
        for sql in STEPS {
            loop {
                let step = sqlx::query(sql).bind(user).bind(STEP);
                let deleted = step.execute(&mut *self.writer.acquire().await?).await?.rows_affected();
                self.checkpointer.wake();
                if deleted == 0 {
                    break;
                }
            }
        }
        self.tidy_heads(user).await
    }
}
