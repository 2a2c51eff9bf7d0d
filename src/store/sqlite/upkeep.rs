//! Housekeeping over all accounts, in bounded steps.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::{SqliteStore, segments};
use crate::protocol::{Seq, UserId};
use crate::store::discard::{Step, next_step};
use crate::store::error::timed_on;
use crate::store::heads::TIDY_STEP;
use crate::store::maintenance::{ARCHIVE_SIZES, decode_archive_size};
use crate::store::row::{bound, decode_archive, decode_sealable};
use crate::store::{ArchiveSize, ArchivedRange, MaintenanceStore, Result, SWEEPER, Sealable, ttl_ms};

/// The key at which a step of tidying up ends, if there may be more behind it.
const STEP_END: &str =
    "SELECT entity_key FROM entity_heads WHERE user_id = ?1 AND entity_key > ?2 ORDER BY entity_key LIMIT 1 OFFSET ?3";
const DROP_OLD_HEADS: &str = "DELETE FROM entity_heads WHERE user_id = ?1 AND entity_key > ?2 \
     AND (?3 IS NULL OR entity_key <= ?3) AND server_seq <= (SELECT base_seq FROM user_sync_state WHERE user_id = ?1)";
/// Clocks that no head shares any more. Nothing will share them again: an operation's heads are stored all at once.
const UNUSED_CLOCKS: &str = "SELECT entity_key FROM entity_heads WHERE user_id = ?1 AND length(entity_key) > 16 \
     AND server_seq NOT IN (SELECT server_seq FROM entity_heads WHERE user_id = ?1 AND vector_clock = '') LIMIT ?2";
const DROP_CLOCK: &str = "DELETE FROM entity_heads WHERE user_id = ?1 AND entity_key = ?2";

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

    async fn archive_sizes(&self, after: UserId, limit: usize) -> Result<Vec<ArchiveSize>> {
        timed_on("archive_sizes", "readers", async {
            let rows = sqlx::query(ARCHIVE_SIZES).bind(after).bind(bound(limit)).fetch_all(&self.readers).await?;
            rows.iter().map(|row| decode_archive_size!(row)).collect()
        })
        .await
    }

    async fn give_up_archives(&self, user: UserId, ranges: &[ArchivedRange]) -> Result<()> {
        timed_on("give_up_archives", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            for range in ranges {
                sqlx::query(
                    "UPDATE archived_ranges SET reason = 'expired', archived_at = 0 WHERE user_id = ?1 \
                     AND from_seq = ?2 AND reason IN ('clean_slate', 'wipe', 'superseded', 'bring_back')",
                )
                .bind(user)
                .bind(range.from_seq)
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn drop_archive(&self, user: UserId, range: &ArchivedRange) -> Result<()> {
        self.tidy_heads(user).await?;
        timed_on("drop_archive", "writer", async {
            sqlx::query("DELETE FROM archived_ranges WHERE user_id = ?1 AND from_seq = ?2")
                .bind(user)
                .bind(range.from_seq)
                .execute(&mut *self.writer.acquire().await?)
                .await?;
            self.checkpointer.wake();
            Ok(())
        })
        .await
    }

    async fn tidy_heads(&self, user: UserId) -> Result<()> {
        timed_on("tidy_heads", "writer", async {
            let mut after = Vec::new();
            loop {
                let last: Option<Vec<u8>> = sqlx::query_scalar(STEP_END)
                    .bind(user)
                    .bind(after.clone())
                    .bind(TIDY_STEP - 1)
                    .fetch_optional(&self.readers)
                    .await?;
                sqlx::query(DROP_OLD_HEADS)
                    .bind(user)
                    .bind(after)
                    .bind(last.clone())
                    .execute(&mut *self.writer.acquire().await?)
                    .await?;
                self.checkpointer.wake();
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
            loop {
                let unused: Vec<Vec<u8>> =
                    sqlx::query_scalar(UNUSED_CLOCKS).bind(user).bind(TIDY_STEP).fetch_all(&self.readers).await?;
                if unused.is_empty() {
                    return Ok(());
                }
                let mut writer = self.writer.acquire().await?;
                let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                for key in unused {
                    sqlx::query(DROP_CLOCK).bind(user).bind(key).execute(&mut *tx).await?;
                }
                tx.commit().await?;
                self.checkpointer.wake();
            }
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
                 WHERE leadership.owner = excluded.owner OR leadership.expires_at <= ?3 \
                 OR leadership.expires_at > ?3 + 86400000",
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
