//! Reading one account's log, state, heads and devices.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, Row as _};

use super::{SqliteStore, overwrite, test_mode};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::error::timed;
use crate::store::rebuild::heads_of;
use crate::store::row::{
    bound, decode_archive, decode_full_state, decode_head, decode_op, decode_state, decode_trace, op_columns,
    schema_version, state_columns, trace_columns,
};
use crate::store::{
    AccountState, ArchivedRange, Commit, CommitOutcome, Device, EntityHead, EntityKey, FullStateRow, LogPage, LogRange,
    LogStore, Result, SCAN_WINDOW, SnapshotBlob, SnapshotMeta, StoreError, SyncState,
};

const LOAD_ACCOUNT: &str = concat!(
    "SELECT u.storage_quota_bytes, s.user_id, ",
    state_columns!(),
    " FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id WHERE u.id = ?1"
);
const READ_LOG: &str = concat!(
    "SELECT ",
    op_columns!(),
    " FROM operations WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 ",
    "AND (?5 IS NULL OR client_id <> ?5) ORDER BY server_seq LIMIT ?4"
);
const FIND_OPS: &str = concat!(
    "SELECT ",
    op_columns!(),
    " FROM operations WHERE user_id = ?1 AND generation = ?2 AND op_id IN (SELECT value FROM json_each(?3))"
);
const HEAD_COLUMNS: &str = "SELECT h.entity_key, h.server_seq, h.client_id, h.vector_clock, h.is_time_delta FROM entity_heads h WHERE h.user_id = ?1 AND h.server_seq > ?2 LIMIT ?3";
// CROSS JOIN fixes the order: for each key one look-up, never a walk over all of the account's heads.
const LOAD_HEADS: &str = "SELECT h.entity_key, h.server_seq, h.client_id, h.vector_clock, h.is_time_delta \
                          FROM json_each(?3) k CROSS JOIN entity_heads h ON h.user_id = ?1 \
                          AND h.entity_key = unhex(k.value) WHERE h.server_seq > ?2";

const RECENT_TRACES: &str = concat!(
    "SELECT ",
    trace_columns!(),
    " FROM operations WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 ORDER BY server_seq"
);

#[async_trait]
impl LogStore for SqliteStore {
    fn lanes(&self) -> usize {
        1
    }

    fn has_bulk_lane(&self) -> bool {
        false
    }

    async fn load_account(&self, user: UserId) -> Result<Option<AccountState>> {
        timed("load_account", async {
            let Some(row) = sqlx::query(LOAD_ACCOUNT).bind(user).fetch_optional(&self.readers).await? else {
                return Ok(None);
            };
            let storage_quota_bytes = row.try_get(0)?;
            let sync = match row.try_get::<Option<i64>, _>(1)? {
                Some(_) => decode_state!(&row, 2)?,
                None => match self.restore_state(user).await? {
                    Some(state) => state,
                    None => return Ok(None),
                },
            };
            Ok(Some(AccountState { sync, storage_quota_bytes }))
        })
        .await
    }

    async fn commit(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        timed("commit", async {
            if group.is_empty() {
                return Ok(Vec::new());
            }
            let outcomes = self.writer.commit(group).await;
            self.checkpointer.wake();
            outcomes
        })
        .await
    }

    async fn find_ops(&self, user: UserId, generation: i64, ids: &[String]) -> Result<Vec<StoredOp>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        timed("find_ops", async {
            let ids = crate::store::row::entity_ids_text(ids);
            let rows = sqlx::query(FIND_OPS).bind(user).bind(generation).bind(ids).fetch_all(&self.readers).await?;
            rows.iter().map(|row| decode_op!(row)).collect()
        })
        .await
    }

    async fn load_heads(&self, user: UserId, above: Seq, keys: &[EntityKey]) -> Result<Vec<(EntityKey, EntityHead)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        timed("load_heads", async {
            let keys: Vec<String> = keys.iter().map(|key| hex::encode(key.as_bytes())).collect();
            let keys = serde_json::to_string(&keys).expect("strings always become JSON");
            let rows = sqlx::query(LOAD_HEADS).bind(user).bind(above).bind(keys).fetch_all(&self.readers).await?;
            rows.iter().map(|row| decode_head!(row)).collect()
        })
        .await
    }

    async fn load_all_heads(
        &self,
        user: UserId,
        above: Seq,
        limit: usize,
    ) -> Result<Option<Vec<(EntityKey, EntityHead)>>> {
        timed("load_all_heads", async {
            let rows = sqlx::query(HEAD_COLUMNS)
                .bind(user)
                .bind(above)
                .bind(bound(limit.saturating_add(1)))
                .fetch_all(&self.readers)
                .await?;
            if rows.len() > limit {
                return Ok(None);
            }
            rows.iter().map(|row| decode_head!(row)).collect::<Result<_>>().map(Some)
        })
        .await
    }

    async fn read_log(&self, range: LogRange<'_>) -> Result<LogPage> {
        timed("read_log", self.read_page(range)).await
    }

    async fn full_states(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<Vec<FullStateRow>> {
        timed("full_states", async {
            let rows = sqlx::query(
                "SELECT server_seq, op_id, op_type, client_id, client_timestamp, repair_base_server_seq, \
                 is_payload_encrypted FROM operations WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 \
                 AND op_type IN ('SYNC_IMPORT', 'BACKUP_IMPORT', 'REPAIR') ORDER BY server_seq DESC LIMIT ?4",
            )
            .bind(user)
            .bind(after)
            .bind(up_to)
            .bind(bound(limit))
            .fetch_all(&self.readers)
            .await?;
            rows.iter().map(|row| decode_full_state!(row)).collect()
        })
        .await
    }

    async fn heads_of_log(&self, user: UserId, after: Seq, up_to: Seq) -> Result<Vec<(EntityKey, EntityHead)>> {
        timed("heads_of_log", async {
            let query = sqlx::query(RECENT_TRACES).bind(user).bind(after).bind(up_to);
            let rows = query.fetch_all(&self.readers).await?;
            let ops = rows.iter().map(|row| decode_trace!(row)).collect::<Result<Vec<_>>>()?;
            Ok(heads_of(&ops))
        })
        .await
    }

    async fn measure(&self, user: UserId, after: Seq, up_to: Seq) -> Result<(i64, i64)> {
        timed("measure", async {
            let row = sqlx::query(
                "SELECT COALESCE(SUM(storage_bytes), 0), COUNT(*) FROM operations \
                 WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3",
            )
            .bind(user)
            .bind(after)
            .bind(up_to)
            .fetch_one(&self.readers)
            .await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
        .await
    }

    async fn received_since(&self, user: UserId, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool> {
        timed("received_since", async {
            // Newest first: if there is one, it is among the last.
            let found = sqlx::query(
                "SELECT server_seq FROM operations WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 \
                 AND received_at >= ?4 ORDER BY server_seq DESC LIMIT 1",
            )
            .bind(user)
            .bind(after)
            .bind(up_to)
            .bind(since_ms)
            .fetch_optional(&self.readers)
            .await?;
            Ok(found.is_some())
        })
        .await
    }

    async fn load_snapshot(&self, user: UserId) -> Result<Option<(SnapshotMeta, SnapshotBlob)>> {
        timed("load_snapshot", async {
            let row = sqlx::query(
                "SELECT s.snapshot_seq, s.snapshot_at, s.snapshot_bytes, b.schema_version, b.data \
                 FROM user_sync_state s JOIN user_snapshots b ON b.user_id = s.user_id \
                 WHERE s.user_id = ?1 AND s.snapshot_seq IS NOT NULL",
            )
            .bind(user)
            .fetch_optional(&self.readers)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let meta = SnapshotMeta { seq: row.try_get(0)?, at: row.try_get(1)?, bytes: row.try_get(2)? };
            let blob = SnapshotBlob { schema_version: schema_version(row.try_get(3)?)?, data: row.try_get(4)? };
            Ok(Some((meta, blob)))
        })
        .await
    }

    async fn touch_device(&self, user: UserId, client_id: &str, now_ms: i64) -> Result<()> {
        timed("touch_device", async {
            sqlx::query(
                "INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) \
                 SELECT id, ?2, ?3, ?3 FROM users WHERE id = ?1 \
                 ON CONFLICT (user_id, client_id) DO UPDATE SET last_seen_at = max(last_seen_at, excluded.last_seen_at)",
            )
            .bind(user)
            .bind(client_id)
            .bind(now_ms)
            .execute(&mut *self.writer.acquire().await?)
            .await?;
            self.checkpointer.wake();
            Ok(())
        })
        .await
    }

    async fn devices(&self, user: UserId, since_ms: i64, limit: usize) -> Result<Vec<Device>> {
        timed("devices", async {
            let rows = sqlx::query(
                "SELECT client_id, last_seen_at FROM sync_devices WHERE user_id = ?1 AND last_seen_at >= ?2 \
                 ORDER BY last_seen_at DESC, client_id LIMIT ?3",
            )
            .bind(user)
            .bind(since_ms)
            .bind(bound(limit))
            .fetch_all(&self.readers)
            .await?;
            rows.iter().map(|row| Ok(Device { client_id: row.try_get(0)?, last_seen_at: row.try_get(1)? })).collect()
        })
        .await
    }

    async fn archived(&self, user: UserId) -> Result<Vec<ArchivedRange>> {
        timed("archived", async {
            let rows = sqlx::query(
                "SELECT generation, from_seq, to_seq, reason, bytes, archived_at FROM archived_ranges \
                 WHERE user_id = ?1 ORDER BY from_seq DESC",
            )
            .bind(user)
            .fetch_all(&self.readers)
            .await?;
            rows.iter().map(|row| decode_archive!(row, 0)).collect()
        })
        .await
    }
}

impl SqliteStore {
    /// Reads rows until the page is full; what comes after them is never read. Leaving a device out could mean to walk
    /// over a long stretch that it wrote itself; so that happens in windows of [`SCAN_WINDOW`] rows, and a page that
    /// has anything ends at a window's end.
    async fn read_page(&self, range: LogRange<'_>) -> Result<LogPage> {
        let mut page = LogPage::default();
        let mut bytes = 0;
        let mut after = range.after;
        while after < range.up_to {
            let window_end = match range.exclude_client {
                None => range.up_to,
                Some(_) => range.up_to.min(after.saturating_add(SCAN_WINDOW)),
            };
            let mut rows = sqlx::query(READ_LOG)
                .bind(range.user)
                .bind(after)
                .bind(window_end)
                .bind(bound(range.limit.saturating_add(1)))
                .bind(range.exclude_client.map(str::to_owned))
                .fetch(&self.readers);
            while let Some(row) = rows.try_next().await? {
                let op: StoredOp = decode_op!(&row)?;
                bytes += op.payload.len();
                if !page.ops.is_empty() && (page.ops.len() >= range.limit || bytes > range.max_bytes) {
                    page.has_more = true;
                    return Ok(page);
                }
                page.ops.push(op);
            }
            after = window_end;
            if !page.ops.is_empty() {
                page.has_more = after < range.up_to;
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// Makes the state row of an account that lacks one, from what the log holds. `None`: no such account.
    async fn restore_state(&self, user: UserId) -> Result<Option<SyncState>> {
        let mut writer = self.writer.acquire().await?;
        let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
        let Some(row) = sqlx::query(LOAD_ACCOUNT).bind(user).fetch_optional(&mut *tx).await? else {
            return Ok(None);
        };
        if row.try_get::<Option<i64>, _>(1)?.is_some() {
            return decode_state!(&row, 2).map(Some);
        }
        // A revision that the lost row can't have had, so that nobody's plan on it still fits.
        let revision: i64 = sqlx::query_scalar("SELECT unixepoch() * 1000").fetch_one(&mut *tx).await?;
        let newest = sqlx::query(
            "SELECT generation, MIN(server_seq) - 1 FROM operations WHERE user_id = ?1 GROUP BY generation \
             ORDER BY generation DESC LIMIT 1",
        )
        .bind(user)
        .fetch_optional(&mut *tx)
        .await?;
        let (generation, base_seq) =
            newest.map_or(Ok((0, 0)), |row| Ok::<_, StoreError>((row.try_get(0)?, row.try_get(1)?)))?;
        let old = SyncState { revision, generation, base_seq, pruned_seq: base_seq, ..SyncState::default() };
        let rebuilt = test_mode::rebuild_from_log(&mut tx, user, &old).await?;
        overwrite::overwrite_state(&mut tx, user, &rebuilt.state).await?;
        tx.commit().await?;
        self.checkpointer.wake();
        Ok(Some(rebuilt.state))
    }
}
