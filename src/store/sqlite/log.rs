//! Reading one account's log, state, heads and devices.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::params;
use sqlx::{Connection as _, Row as _};

use super::columns::Columns;
use super::payload::{self, PART, READ_PIECE, outgoing_op_columns, parted_op_columns, stored_op_columns};
use super::reader::Reader;
use super::{SqliteStore, overwrite, test_mode};
use crate::protocol::response::{IdsPart, OpParts, OutgoingOp};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::error::timed_on;
use crate::store::page::{Builder, PageOp};
use crate::store::rebuild::heads_of;
use crate::store::row::{
    bound, decode_archive, decode_full_state, decode_head, decode_op, decode_state, decode_trace, import_reason,
    op_entity_type, op_type, schema_version, state_columns, trace_columns,
};
use crate::store::segment::{Unpacked, last_end, may_hold};
use crate::store::{
    AccountState, ArchivedRange, Commit, CommitOutcome, Device, EntityHead, EntityKey, FullStateRow, LogPage, LogRange,
    LogStore, Result, SnapshotBlob, SnapshotMeta, SyncState, Touch,
};

/// About how long an encoded operation is without its payload.
const ENVELOPE_BYTES: usize = 512;
const LOAD_ACCOUNT: &str = concat!(
    "SELECT u.storage_quota_bytes, s.user_id, ",
    state_columns!(),
    " FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id WHERE u.id = ?1"
);
/// The first segments of a range, then rows: up to the last of these segments, or to the range's end if there is none.
/// One statement, so that both are read from one state of the database.
macro_rules! read_log {
    ($columns:expr) => {
        concat!(
            "WITH s AS MATERIALIZED (SELECT first_seq, last_seq, data FROM segments WHERE user_id = ?1 AND last_seq > ?2 ",
            "AND last_seq <= ?6 AND first_seq <= ?3 ORDER BY last_seq LIMIT ?7) ",
            "SELECT last_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ",
            "data, first_seq, NULL FROM s UNION ALL SELECT * FROM (SELECT ",
            $columns,
            " FROM operations WHERE user_id = ?1 AND server_seq > ?2 ",
            "AND server_seq <= COALESCE((SELECT min(max(last_seq), ?3) FROM s), ?3) ",
            "AND (?5 IS NULL OR client_id <> ?5) ORDER BY server_seq LIMIT ?4)"
        )
    };
}
/// Rows with these ids, and the segments that may hold them: last sequence, first sequence and hashes.
const FIND_OPS: &str = concat!(
    "SELECT ",
    stored_op_columns!(),
    ", NULL FROM operations WHERE user_id = ?1 AND generation = ?2 AND op_id IN (SELECT value FROM json_each(?3)) ",
    "UNION ALL SELECT last_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ",
    "NULL, op_id_hashes, first_seq FROM segments WHERE user_id = ?1 AND generation = ?2 AND max_op_id >= ?4 ",
    "AND min_op_id <= ?5"
);
const SEGMENT_DATA: &str = "SELECT data FROM segments WHERE user_id = ?1 AND last_seq = ?2";
/// Heads, each with its own clock or the one that it shares.
macro_rules! select_heads {
    ($which:literal) => {
        concat!(
            "SELECT h.entity_key, h.server_seq, COALESCE(c.client_id, h.client_id), ",
            "COALESCE(c.vector_clock, h.vector_clock), h.is_time_delta FROM entity_heads h LEFT JOIN entity_heads c ",
            "ON h.vector_clock = '' AND c.user_id = ?1 AND c.entity_key = CAST(printf('%020d', h.server_seq) AS BLOB) ",
            "WHERE h.user_id = ?1 AND ",
            $which
        )
    };
}
const HEADS: &str = select_heads!("h.server_seq > ?2 AND length(h.entity_key) = 16 LIMIT ?3");
const LOAD_HEAD: &str = select_heads!("h.entity_key = ?2 AND h.server_seq > ?3");
const RECENT_TRACES: &str = concat!(
    "SELECT ",
    trace_columns!(),
    " FROM operations WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 ORDER BY server_seq"
);
const FULL_STATES: &str = "SELECT server_seq, op_id, op_type, client_id, client_timestamp, repair_base_server_seq, \
     is_payload_encrypted, sync_import_reason FROM operations WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 \
     AND op_type IN ('SYNC_IMPORT', 'BACKUP_IMPORT', 'REPAIR') ORDER BY server_seq DESC LIMIT ?4";
/// Rows and segments that lie in the range, summed up, and the segments that lie in it in part.
const MEASURE: &str = "WITH s AS MATERIALIZED (SELECT first_seq, last_seq, storage_bytes, op_count, \
     CASE WHEN first_seq <= ?2 OR last_seq > ?3 THEN data END AS data FROM segments \
     WHERE user_id = ?1 AND last_seq > ?2 AND last_seq <= ?4 AND first_seq <= ?3) \
     SELECT COALESCE(SUM(storage_bytes), 0), COUNT(*), NULL, NULL, NULL FROM operations \
     WHERE user_id = ?1 AND server_seq > ?2 AND server_seq <= ?3 \
     UNION ALL SELECT COALESCE(SUM(storage_bytes), 0), COALESCE(SUM(op_count), 0), NULL, NULL, NULL \
     FROM s WHERE data IS NULL \
     UNION ALL SELECT 0, 0, first_seq, last_seq, data FROM s WHERE data IS NOT NULL";
/// Newest first: if there is one, it is among the last. Of segments at most two lie in the range only in part.
const RECEIVED_SINCE: &str = "SELECT * FROM (SELECT NULL, NULL, NULL FROM operations WHERE user_id = ?1 \
     AND server_seq > ?2 AND server_seq <= ?3 AND received_at >= ?4 ORDER BY server_seq DESC LIMIT 1) \
     UNION ALL SELECT * FROM (SELECT first_seq, last_seq, \
     CASE WHEN first_seq <= ?2 OR last_seq > ?3 THEN data END FROM segments \
     WHERE user_id = ?1 AND last_seq > ?2 AND last_seq <= ?5 AND first_seq <= ?3 AND max_received_at >= ?4 \
     ORDER BY last_seq DESC LIMIT 3)";
const LOAD_SNAPSHOT: &str = "SELECT s.snapshot_seq, s.snapshot_at, s.snapshot_bytes, b.schema_version, b.data \
     FROM user_sync_state s JOIN user_snapshots b ON b.user_id = s.user_id \
     WHERE s.user_id = ?1 AND s.snapshot_seq IS NOT NULL";
const DEVICES: &str = "SELECT client_id, last_seen_at FROM sync_devices WHERE user_id = ?1 AND last_seen_at >= ?2 \
     ORDER BY last_seen_at DESC, client_id LIMIT ?3";
const ARCHIVED: &str = "SELECT generation, from_seq, to_seq, reason, bytes, archived_at FROM archived_ranges \
     WHERE user_id = ?1 ORDER BY from_seq DESC";

/// How an operation's row gets into a page.
trait FromRow: PageOp {
    /// The statement that reads them: columns 0 to 16 are an operation's, 17 is a segment's first sequence, 18 says
    /// of a payload that is left out where it is, or its size.
    const READ: &'static str;

    /// `false`: no more rows are needed.
    fn take(reader: &Reader<'_>, row: Columns<'_>, page: &mut Builder<'_, Self>) -> Result<bool>;
}

impl FromRow for StoredOp {
    const READ: &'static str = read_log!(parted_op_columns!());

    fn take(reader: &Reader<'_>, row: Columns<'_>, page: &mut Builder<'_, Self>) -> Result<bool> {
        let op: Self = match row.try_get(18)? {
            None => decode_op!(row)?,
            Some(payload_id) => decode_op!(row, payload::read_parts(reader, payload_id)?)?,
        };
        page.row(op.server_seq, op)
    }
}

impl FromRow for OutgoingOp {
    const READ: &'static str = read_log!(outgoing_op_columns!());

    /// Encodes it from where it lies: what is text in the database and JSON for clients is not taken apart in between.
    fn take(_: &Reader<'_>, row: Columns<'_>, page: &mut Builder<'_, Self>) -> Result<bool> {
        let seq = row.try_get(0)?;
        let payload: Option<&[u8]> = row.try_get(16)?;
        let parts = OpParts {
            server_seq: seq,
            id: row.try_get(1)?,
            client_id: row.try_get(2)?,
            action_type: row.try_get(3)?,
            op_type: op_type(row.try_get(4)?)?,
            entity_type: op_entity_type(row.try_get(5)?)?,
            entity_id: row.try_get(6)?,
            entity_ids: IdsPart::Json(row.try_get(7)?),
            payload: payload.unwrap_or_default(),
            vector_clock: row.try_get(9)?,
            timestamp: row.try_get(10)?,
            schema_version: schema_version(row.try_get(11)?)?,
            is_payload_encrypted: row.try_get(12)?,
            import_reason: import_reason(row.try_get(13)?)?,
            repair_base_server_seq: row.try_get(14)?,
            received_at: row.try_get(15)?,
        };
        let mut json = Vec::with_capacity(parts.payload.len() + ENVELOPE_BYTES);
        let mut gap = None;
        if payload.is_some() {
            parts.encode(&mut json);
        } else {
            parts.encode_head(&mut json);
            gap = Some((json.len(), usize::try_from(row.try_get::<i64, _>(18)?).unwrap_or(0)));
            parts.encode_tail(&mut json);
        }
        page.row(seq, Self { seq, json: json.into(), gap })
    }
}

#[async_trait]
impl LogStore for SqliteStore {
    fn lanes(&self) -> usize {
        1
    }

    /// There is one writer; but large payloads are written ahead in parts, and while one waits for its next turn the other
    /// lane commits.
    fn has_bulk_lane(&self) -> bool {
        true
    }

    async fn load_account(&self, user: UserId) -> Result<Option<AccountState>> {
        timed_on("load_account", "logs", async {
            let loaded = self.logs.read(move |reader| {
                reader.first(LOAD_ACCOUNT, [user], |row| {
                    let quota = row.try_get(0)?;
                    let has_state = row.try_get::<Option<i64>, _>(1)?.is_some();
                    Ok((quota, if has_state { Some(decode_state!(row, 2)?) } else { None }))
                })
            });
            let (storage_quota_bytes, sync) = match loaded.await? {
                None => return Ok(None),
                Some((quota, Some(state))) => (quota, state),
                Some((quota, None)) => match self.restore_state(user).await? {
                    Some(state) => (quota, state),
                    None => return Ok(None),
                },
            };
            Ok(Some(AccountState { sync, storage_quota_bytes }))
        })
        .await
    }

    async fn commit(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        timed_on("commit", "writer", async {
            if group.is_empty() {
                return Ok(Vec::new());
            }
            let outcomes = self.writer.commit(&group).await;
            self.checkpointer.wake();
            outcomes
        })
        .await
    }

    fn commits_block(&self) -> bool {
        true
    }

    async fn commit_here(&self, group: &Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        let outcomes = timed_on("commit", "writer", self.writer.commit_here(group)).await;
        self.checkpointer.wake();
        outcomes
    }

    async fn find_ops(&self, user: UserId, generation: i64, ids: &[String]) -> Result<Vec<StoredOp>> {
        let (Some(lowest), Some(highest)) = (ids.iter().min().cloned(), ids.iter().max().cloned()) else {
            return Ok(Vec::new());
        };
        let ids = ids.to_vec();
        let work = move |reader: &Reader<'_>| {
            let mut ops = Vec::new();
            let text = crate::store::row::entity_ids_text(&ids);
            reader.rows(FIND_OPS, params![user, generation, text, lowest, highest], |row| {
                let Some(first_seq) = row.try_get::<Option<Seq>, _>(17)? else {
                    ops.push(decode_op!(row)?);
                    return Ok(true);
                };
                let hashes = row.try_get::<&[u8], _>(16)?;
                if ids.iter().any(|id| may_hold(hashes, id)) {
                    let last_seq: Seq = row.try_get(0)?;
                    let open = |row: Columns<'_>| Unpacked::open(row.try_get(0)?, first_seq, last_seq);
                    if let Some(segment) = reader.first(SEGMENT_DATA, [user, last_seq], open)? {
                        segment.find(&ids, &mut ops)?;
                    }
                }
                Ok(true)
            })?;
            Ok(ops)
        };
        timed_on("find_ops", "logs", self.logs.read(work)).await
    }

    async fn load_heads(&self, user: UserId, above: Seq, keys: &[EntityKey]) -> Result<Vec<(EntityKey, EntityHead)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys = keys.to_vec();
        let work = move |reader: &Reader<'_>| {
            let mut heads = Vec::with_capacity(keys.len());
            for key in &keys {
                heads.extend(reader.first(LOAD_HEAD, params![user, key.as_bytes(), above], |row| decode_head!(row))?);
            }
            Ok(heads)
        };
        timed_on("load_heads", "logs", self.logs.read(work)).await
    }

    async fn load_all_heads(
        &self,
        user: UserId,
        above: Seq,
        limit: usize,
    ) -> Result<Option<Vec<(EntityKey, EntityHead)>>> {
        let work = move |reader: &Reader<'_>| {
            let rows = bound(limit.saturating_add(1));
            let heads = reader.all(HEADS, params![user, above, rows], |row| decode_head!(row))?;
            Ok((heads.len() <= limit).then_some(heads))
        };
        timed_on("load_all_heads", "logs", self.logs.read(work)).await
    }

    async fn read_log(&self, range: LogRange<'_>) -> Result<LogPage> {
        timed_on("read_log", "logs", self.read_page(range)).await
    }

    async fn read_outgoing(&self, range: LogRange<'_>) -> Result<LogPage<OutgoingOp>> {
        timed_on("read_log", "logs", self.read_page(range)).await
    }

    async fn read_payload(&self, user: UserId, seq: Seq, piece: usize) -> Result<Option<Bytes>> {
        let work = move |reader: &Reader<'_>| {
            let piece = reader.first(READ_PIECE, params![user, seq, bound(piece), bound(PART)], |row| {
                Ok(row.try_get::<Option<&[u8]>, _>(0)?.map(Bytes::copy_from_slice))
            })?;
            Ok(piece.flatten().filter(|piece| !piece.is_empty()))
        };
        timed_on("read_payload", "logs", self.logs.read(work)).await
    }

    async fn full_states(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<Vec<FullStateRow>> {
        let work = move |reader: &Reader<'_>| {
            reader.all(FULL_STATES, params![user, after, up_to, bound(limit)], |row| decode_full_state!(row))
        };
        timed_on("full_states", "logs", self.logs.read(work)).await
    }

    async fn heads_of_log(&self, user: UserId, after: Seq, up_to: Seq) -> Result<Vec<(EntityKey, EntityHead)>> {
        let work = move |reader: &Reader<'_>| {
            Ok(heads_of(&reader.all(RECENT_TRACES, [user, after, up_to], |row| decode_trace!(row))?))
        };
        timed_on("heads_of_log", "logs", self.logs.read(work)).await
    }

    async fn measure(&self, user: UserId, after: Seq, up_to: Seq) -> Result<(i64, i64)> {
        let work = move |reader: &Reader<'_>| {
            let (mut bytes, mut count) = (0, 0);
            reader.rows(MEASURE, [user, after, up_to, last_end(up_to)], |row| {
                bytes += row.try_get::<i64, _>(0)?;
                count += row.try_get::<i64, _>(1)?;
                if let Some(data) = row.try_get::<Option<&[u8]>, _>(4)? {
                    let unpacked = Unpacked::open(data, row.try_get(2)?, row.try_get(3)?)?;
                    let (in_range, ops) = unpacked.measure(after, up_to);
                    bytes += in_range;
                    count += ops;
                }
                Ok(true)
            })?;
            Ok((bytes, count))
        };
        timed_on("measure", "logs", self.logs.read(work)).await
    }

    async fn received_since(&self, user: UserId, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool> {
        let work = move |reader: &Reader<'_>| {
            let mut found = false;
            reader.rows(RECEIVED_SINCE, [user, after, up_to, since_ms, last_end(up_to)], |row| {
                found = match row.try_get::<Option<&[u8]>, _>(2)? {
                    None => true,
                    Some(data) => Unpacked::open(data, row.try_get(0)?, row.try_get(1)?)?
                        .received_since(after, up_to, since_ms)?,
                };
                Ok(!found)
            })?;
            Ok(found)
        };
        timed_on("received_since", "logs", self.logs.read(work)).await
    }

    async fn load_snapshot(&self, user: UserId) -> Result<Option<(SnapshotMeta, SnapshotBlob)>> {
        let work = move |reader: &Reader<'_>| {
            reader.first(LOAD_SNAPSHOT, [user], |row| {
                let meta = SnapshotMeta { seq: row.try_get(0)?, at: row.try_get(1)?, bytes: row.try_get(2)? };
                let blob = SnapshotBlob { schema_version: schema_version(row.try_get(3)?)?, data: row.try_get(4)? };
                Ok((meta, blob))
            })
        };
        timed_on("load_snapshot", "logs", self.logs.read(work)).await
    }

    async fn touch_devices(&self, seen: &[Touch]) -> Result<()> {
        timed_on("touch_devices", "writer", async {
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
        let work = move |reader: &Reader<'_>| {
            reader.all(DEVICES, params![user, since_ms, bound(limit)], |row| {
                Ok(Device { client_id: row.try_get(0)?, last_seen_at: row.try_get(1)? })
            })
        };
        timed_on("devices", "logs", self.logs.read(work)).await
    }

    async fn archived(&self, user: UserId) -> Result<Vec<ArchivedRange>> {
        let work = move |reader: &Reader<'_>| reader.all(ARCHIVED, [user], |row| decode_archive!(row, 0));
        timed_on("archived", "logs", self.logs.read(work)).await
    }
}

impl SqliteStore {
    /// Reads until the page is full; rows that come after are never read.
    async fn read_page<T: FromRow + 'static>(&self, range: LogRange<'_>) -> Result<LogPage<T>> {
        let exclude_client = range.exclude_client.map(str::to_owned);
        let LogRange { user, after, up_to, limit, max_bytes, .. } = range;
        self.logs
            .read(move |reader| {
                let exclude_client = exclude_client.as_deref();
                let mut page = Builder::new(LogRange { user, after, up_to, exclude_client, limit, max_bytes });
                while let Some(stretch) = page.next_stretch() {
                    reader.check_wanted()?;
                    let params = params![
                        user,
                        stretch.after,
                        stretch.up_to,
                        bound(stretch.rows.saturating_add(1)),
                        exclude_client,
                        stretch.segments_up_to,
                        bound(stretch.segments)
                    ];
                    reader.rows(T::READ, params, |row| match row.try_get::<Option<Seq>, _>(17)? {
                        Some(first_seq) => {
                            page.segment(first_seq, row.try_get(0)?, row.try_get(16)?)?;
                            Ok(true)
                        }
                        None => T::take(reader, row, &mut page),
                    })?;
                    page.end_stretch()?;
                }
                Ok(page.finish())
            })
            .await
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
