//! Housekeeping over all accounts, in bounded steps.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::SqliteStore;
use crate::protocol::{Seq, UserId};
use crate::store::error::timed;
use crate::store::row::{bound, decode_archive};
use crate::store::{ArchivedRange, MaintenanceStore, Result, SWEEPER, ttl_ms};

#[async_trait]
impl MaintenanceStore for SqliteStore {
    async fn prunable_accounts(&self, after: UserId, limit: usize) -> Result<Vec<UserId>> {
        timed("prunable_accounts", async {
            Ok(sqlx::query_scalar(
                "SELECT user_id FROM user_sync_state WHERE user_id > ?1 AND full_state_seq > pruned_seq + 1 \
                 ORDER BY user_id LIMIT ?2",
            )
            .bind(after)
            .bind(bound(limit))
            .fetch_all(&self.readers)
            .await?)
        })
        .await
    }

    async fn delete_ops(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<u64> {
        timed("delete_ops", async {
            let done = sqlx::query(
                "DELETE FROM operations WHERE rowid IN (SELECT rowid FROM operations WHERE user_id = ?1 \
                 AND server_seq > ?2 AND server_seq <= ?3 ORDER BY server_seq LIMIT ?4)",
            )
            .bind(user)
            .bind(after)
            .bind(up_to)
            .bind(bound(limit))
            .execute(&mut *self.writer.acquire().await?)
            .await?;
            self.checkpointer.wake();
            Ok(done.rows_affected())
        })
        .await
    }

    async fn expired_archives(&self, before_ms: i64, limit: usize) -> Result<Vec<(UserId, ArchivedRange)>> {
        timed("expired_archives", async {
            let rows = sqlx::query(
                "SELECT user_id, generation, from_seq, to_seq, reason, bytes, archived_at FROM archived_ranges \
                 WHERE archived_at < ?1 ORDER BY archived_at LIMIT ?2",
            )
            .bind(before_ms)
            .bind(bound(limit))
            .fetch_all(&self.readers)
            .await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, decode_archive!(row, 1)?))).collect()
        })
        .await
    }

    async fn drop_archive(&self, user: UserId, range: &ArchivedRange) -> Result<()> {
        timed("drop_archive", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query("DELETE FROM archived_ranges WHERE user_id = ?1 AND from_seq = ?2")
                .bind(user)
                .bind(range.from_seq)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "DELETE FROM entity_heads WHERE user_id = ?1 AND server_seq <= \
                 (SELECT base_seq FROM user_sync_state WHERE user_id = ?1)",
            )
            .bind(user)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            self.checkpointer.wake();
            Ok(())
        })
        .await
    }

    async fn delete_stale_devices(&self, before_ms: i64, limit: usize) -> Result<u64> {
        timed("delete_stale_devices", async {
            // Walks the table: an index on the time would be rewritten whenever a device is seen.
            let done = sqlx::query(
                "DELETE FROM sync_devices WHERE (user_id, client_id) IN \
                 (SELECT user_id, client_id FROM sync_devices WHERE last_seen_at < ?1 LIMIT ?2)",
            )
            .bind(before_ms)
            .bind(bound(limit))
            .execute(&mut *self.writer.acquire().await?)
            .await?;
            self.checkpointer.wake();
            Ok(done.rows_affected())
        })
        .await
    }

    async fn try_lead(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool> {
        timed("try_lead", async {
            let done = sqlx::query(
                "INSERT INTO leadership (role, owner, expires_at) VALUES (?1, ?2, ?4) \
                 ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at \
                 WHERE leadership.owner = excluded.owner OR leadership.expires_at <= ?3",
            )
            .bind(SWEEPER)
            .bind(owner.to_owned())
            .bind(now_ms)
            .bind(now_ms.saturating_add(ttl_ms(ttl)))
            .execute(&mut *self.writer.acquire().await?)
            .await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }
}
