//! Reading one account's log, state, heads and devices.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, Row as _};

use super::{SqliteStore, overwrite, test_mode};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::error::timed;
use crate::store::page::{Builder, PageOp};
use crate::store::rebuild::heads_of;
use crate::store::row::{
    bound, decode_archive, decode_full_state, decode_head, decode_op, decode_state, decode_trace, op_columns,
    schema_version, state_columns, trace_columns,
};
use crate::store::segment::{Unpacked, last_end, may_hold};
use crate::store::{
    AccountState, ArchivedRange, Commit, CommitOutcome, Device, EntityHead, EntityKey, FullStateRow, LogPage, LogRange,
    LogStore, OutgoingOp, Result, SnapshotBlob, SnapshotMeta, SyncState, Touch,
};

const LOAD_ACCOUNT: &str = concat!(
    "SELECT u.storage_quota_bytes, s.user_id, ",
    state_columns!(),
    " FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id WHERE u.id = ?1"
);
/// The first segments of a range, then rows: up to the last of these segments, or to the range's end if there is none.
/// One statement, so that both are read from one state of the database.
const READ_LOG: &str = concat!(
    "WITH s AS MATERIALIZED (SELECT first_seq, last_seq, data FROM segments WHERE user_id = ?1 AND last_seq > ?2 ",
    "AND last_seq <= ?6 AND first_seq <= ?3 ORDER BY last_seq LIMIT ?7) ",
    "SELECT last_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, data, ",
    "first_seq FROM s UNION ALL SELECT * FROM (SELECT ",
    op_columns!(),
    ", NULL FROM operations WHERE user_id = ?1 AND server_seq > ?2 ",
    "AND server_seq <= COALESCE((SELECT min(max(last_seq), ?3) FROM s), ?3) ",
    "AND (?5 IS NULL OR client_id <> ?5) ORDER BY server_seq LIMIT ?4)"
);
/// Rows with these ids, and the segments that may hold them: last sequence, first sequence and hashes.
const FIND_OPS: &str = concat!(
    "SELECT ",
    op_columns!(),
    ", NULL FROM operations WHERE user_id = ?1 AND generation = ?2 AND op_id IN (SELECT value FROM json_each(?3)) ",
    "UNION ALL SELECT last_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ",
    "NULL, op_id_hashes, first_seq FROM segments WHERE user_id = ?1 AND generation = ?2 AND max_op_id >= ?4 ",
    "AND min_op_id <= ?5"
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
        let (Some(lowest), Some(highest)) = (ids.iter().min(), ids.iter().max()) else { return Ok(Vec::new()) };
        timed("find_ops", async {
            let query = sqlx::query(FIND_OPS).bind(user).bind(generation).bind(crate::store::row::entity_ids_text(ids));
            let query = query.bind(lowest.clone()).bind(highest.clone());
            let mut ops = Vec::new();
            for row in query.fetch_all(&self.readers).await? {
                if row.try_get::<Option<Seq>, _>(17)?.is_none() {
                    ops.push(decode_op!(&row)?);
                    continue;
                }
                let hashes = row.try_get::<&[u8], _>(16)?;
                if ids.iter().any(|id| may_hold(hashes, id)) {
                    let last_seq: Seq = row.try_get(0)?;
                    let query = sqlx::query("SELECT data FROM segments WHERE user_id = ? AND last_seq = ?");
                    let data = query.bind(user).bind(last_seq).fetch_optional(&self.readers).await?;
                    let Some(data) = data else { continue };
                    Unpacked::open(data.try_get(0)?, row.try_get(17)?, last_seq)?.find(ids, &mut ops)?;
                }
            }
            Ok(ops)
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

    async fn read_outgoing(&self, range: LogRange<'_>) -> Result<LogPage<OutgoingOp>> {
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
            // Rows and segments that lie in the range, summed up, and the segments that lie in it in part.
            let query = sqlx::query(
                "WITH s AS MATERIALIZED (SELECT first_seq, last_seq, storage_bytes, op_count, \
                 CASE WHEN first_seq <= ?2 OR last_seq > ?3 THEN data END AS data FROM segments \
                 WHERE user_id = ?1 AND last_seq > ?2 AND last_seq <= ?4 AND first_seq <= ?3) \
                 SELECT COALESCE(SUM(storage_bytes), 0), COUNT(*), NULL, NULL, NULL FROM operations \
                 WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 \
                 UNION ALL SELECT COALESCE(SUM(storage_bytes), 0), COALESCE(SUM(op_count), 0), NULL, NULL, NULL \
                 FROM s WHERE data IS NULL \
                 UNION ALL SELECT 0, 0, first_seq, last_seq, data FROM s WHERE data IS NOT NULL",
            );
            let query = query.bind(user).bind(after).bind(up_to).bind(last_end(up_to));
            let (mut bytes, mut count) = (0, 0);
            for row in query.fetch_all(&self.readers).await? {
                bytes += row.try_get::<i64, _>(0)?;
                count += row.try_get::<i64, _>(1)?;
                if let Some(data) = row.try_get::<Option<&[u8]>, _>(4)? {
                    let unpacked = Unpacked::open(data, row.try_get(2)?, row.try_get(3)?)?;
                    let (in_range, ops) = unpacked.measure(after, up_to);
                    bytes += in_range;
                    count += ops;
                }
            }
            Ok((bytes, count))
        })
        .await
    }

    async fn received_since(&self, user: UserId, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool> {
        timed("received_since", async {
            // Newest first: if there is one, it is among the last. Of segments at most two lie in the range only in part.
            let query = sqlx::query(
                "SELECT * FROM (SELECT NULL, NULL, NULL FROM operations WHERE user_id = ?1 AND server_seq > ?2 \
                 AND server_seq <= ?3 AND received_at >= ?4 ORDER BY server_seq DESC LIMIT 1) \
                 UNION ALL SELECT * FROM (SELECT first_seq, last_seq, \
                 CASE WHEN first_seq <= ?2 OR last_seq > ?3 THEN data END FROM segments \
                 WHERE user_id = ?1 AND last_seq > ?2 AND last_seq <= ?5 AND first_seq <= ?3 AND max_received_at >= ?4 \
                 ORDER BY last_seq DESC LIMIT 3)",
            );
            let query = query.bind(user).bind(after).bind(up_to).bind(since_ms).bind(last_end(up_to));
            for row in query.fetch_all(&self.readers).await? {
                let Some(data) = row.try_get::<Option<&[u8]>, _>(2)? else { return Ok(true) };
                let unpacked = Unpacked::open(data, row.try_get(0)?, row.try_get(1)?)?;
                if unpacked.received_since(after, up_to, since_ms)? {
                    return Ok(true);
                }
            }
            Ok(false)
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

    async fn touch_devices(&self, seen: &[Touch]) -> Result<()> {
        timed("touch_devices", async {
            let mut turn = self.writer.acquire().await?;
            let mut tx = turn.begin().await?;
            for touch in seen {
                sqlx::query(
                    "INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) \
                     SELECT id, ?2, ?3, ?3 FROM users WHERE id = ?1 ON CONFLICT (user_id, client_id) \
                     DO UPDATE SET last_seen_at = max(last_seen_at, excluded.last_seen_at)",
                )
                .bind(touch.user)
                .bind(&*touch.client_id)
                .bind(touch.at_ms)
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
            drop(turn);
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
    /// Reads until the page is full; rows that come after are never read.
    async fn read_page<T: PageOp>(&self, range: LogRange<'_>) -> Result<LogPage<T>> {
        let mut page = Builder::new(range);
        while let Some(stretch) = page.next_stretch() {
            let mut rows = sqlx::query(READ_LOG)
                .bind(range.user)
                .bind(stretch.after)
                .bind(stretch.up_to)
                .bind(bound(stretch.rows.saturating_add(1)))
                .bind(range.exclude_client.map(str::to_owned))
                .bind(stretch.segments_up_to)
                .bind(bound(stretch.segments))
                .fetch(&self.readers);
            while let Some(row) = rows.try_next().await? {
                match row.try_get::<Option<Seq>, _>(17)? {
                    Some(first_seq) => page.segment(first_seq, row.try_get(0)?, row.try_get(16)?)?,
                    None if page.row(decode_op!(&row)?)? => {}
                    None => break,
                }
            }
            drop(rows);
            page.end_stretch()?;
        }
        Ok(page.finish())
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
            "SELECT generation, MIN(first_seq) - 1, MAX(last_seq), MAX(max_op_id) FROM ( \
             SELECT generation, server_seq AS first_seq, NULL AS last_seq, NULL AS max_op_id \
             FROM operations WHERE user_id = ?1 UNION ALL \
             SELECT generation, first_seq, last_seq, max_op_id FROM segments WHERE user_id = ?1) \
             GROUP BY generation ORDER BY generation DESC LIMIT 1",
        );
        let mut old = SyncState { revision, ..SyncState::default() };
        if let Some(row) = newest.bind(user).fetch_optional(&mut *tx).await? {
            old.generation = row.try_get(0)?;
            old.base_seq = row.try_get(1)?;
            old.pruned_seq = old.base_seq;
            old.sealed_seq = row.try_get::<Option<Seq>, _>(2)?.unwrap_or(old.base_seq);
            old.sealed_max_op_id = row.try_get(3)?;
        }
        let rebuilt = test_mode::rebuild_from_log(&mut tx, user, &old).await?;
        overwrite::overwrite_state(&mut tx, user, &rebuilt.state).await?;
        tx.commit().await?;
        self.checkpointer.wake();
        Ok(Some(rebuilt.state))
    }
}
