//! Housekeeping over all accounts, in bounded steps.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::{SqliteStore, segments};
use crate::protocol::{Seq, UserId};
use crate::store::discard::{Step, next_step};
use crate::store::error::timed_on;
use crate::store::row::{bound, decode_archive, decode_sealable};
use crate::store::{ArchivedRange, MaintenanceStore, Result, SWEEPER, Sealable, ttl_ms};

#[async_trait]
impl MaintenanceStore for SqliteStore {
    async fn prunable_accounts(&self, after: UserId, limit: usize) -> Result<Vec<UserId>> {
        timed_on("prunable_accounts", "readers", async {
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

    async fn sealable_accounts(
        &self,
        after: UserId,
        only: Option<UserId>,
        min_run: Seq,
        before_ms: i64,
        limit: usize,
    ) -> Result<Vec<Sealable>> {
        timed_on("sealable_accounts", "readers", async {
            // Looks at the one operation that decides: times grow with sequences.
            let query = sqlx::query(
                "SELECT s.user_id, s.generation, max(s.sealed_seq, s.pruned_seq), s.last_seq, \
                 COALESCE(s.full_state_seq - 1, s.pruned_seq), g.first_seq, g.op_count, g.storage_bytes, length(g.data) + length(g.op_id_hashes), s.sparse_up_to FROM user_sync_state s \
                 LEFT JOIN segments g ON g.user_id = s.user_id AND g.last_seq = s.sealed_seq \
                 AND g.generation = s.generation AND g.first_seq > s.pruned_seq \
                 WHERE s.user_id > ?1 AND (?2 IS NULL OR s.user_id = ?2) \
                 AND s.last_seq - max(s.sealed_seq, s.pruned_seq) >= ?3 \
                 AND (SELECT o.received_at FROM operations o WHERE o.user_id = s.user_id \
                 AND o.server_seq >= max(s.sealed_seq, s.pruned_seq) + ?3 ORDER BY o.server_seq LIMIT 1) < ?4 \
                 ORDER BY s.user_id LIMIT ?5",
            );
            let query = query.bind(after).bind(only).bind(min_run).bind(before_ms).bind(bound(limit));
            query.fetch_all(&self.readers).await?.iter().map(|row| decode_sealable!(row)).collect()
        })
        .await
    }

    async fn delete_ops(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<u64> {
        timed_on("delete_ops", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let (packed, ops, rows_up_to) = loop {
                match next_step(&segments::spans(&mut tx, user, after, up_to).await?, after, up_to, limit) {
                    Step::Unpack(span) => segments::unpack(&mut tx, user, span.last_seq).await?,
                    Step::Delete { segments, ops, rows_up_to } => break (segments, ops, rows_up_to),
                }
            };
            for last_seq in packed {
                segments::delete(&mut tx, user, last_seq).await?;
            }
            let rows = sqlx::query(
                "DELETE FROM operations WHERE rowid IN (SELECT rowid FROM operations WHERE user_id = ?1 \
                 AND server_seq > ?2 AND server_seq <= ?3 ORDER BY server_seq LIMIT ?4)",
            )
            .bind(user)
            .bind(after)
            .bind(rows_up_to)
            .bind(bound(limit.saturating_sub(ops)))
            .execute(&mut *tx)
            .await?
            .rows_affected();
            tx.commit().await?;
            self.checkpointer.wake();
            Ok(rows + u64::try_from(ops).unwrap_or(u64::MAX))
        })
        .await
    }

    async fn expired_archives(&self, before_ms: i64, limit: usize) -> Result<Vec<(UserId, ArchivedRange)>> {
        timed_on("expired_archives", "readers", async {
            let rows = sqlx::query(
                "SELECT user_id, generation, from_seq, to_seq, reason, bytes, archived_at FROM archived_ranges \
                 WHERE archived_at < ?1 ORDER BY archived_at = 0, archived_at, user_id, from_seq LIMIT ?2",
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
        timed_on("drop_archive", "writer", async {
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
        timed_on("delete_stale_devices", "writer", async {
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
        timed_on("try_lead", "writer", async {
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
