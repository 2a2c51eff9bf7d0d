//! Reading one account's log, state, heads and devices.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};

use super::{Pool, PostgresStore, on_connection, placed, sql, test_mode};
use crate::protocol::response::{IdsPart, OpParts, OutgoingOp};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::error::{timed, timed_on};
use crate::store::page::{Builder, PageOp};
use crate::store::rebuild::{OpTrace, heads_of};
use crate::store::row::{
    bound, decode_archive, decode_full_state, decode_head, decode_op, decode_state, decode_trace, import_reason,
    op_entity_type, op_type, schema_version,
};
use crate::store::segment::{Unpacked, last_end, may_hold};
use crate::store::{
    AccountState, ArchivedRange, Commit, CommitOutcome, Device, EntityHead, EntityKey, FullStateRow,
    LARGE_PAYLOAD_BYTES, LogPage, LogRange, LogStore, Result, SnapshotBlob, SnapshotMeta, StoreError, SyncState, Touch,
};

/// About how long an encoded operation is without its payload.
const ENVELOPE_BYTES: usize = 512;
/// Encoded operations share buffers of this size.
const CHUNK_BYTES: usize = 32 * 1024;
/// Most rows of one page, whatever is asked for.
const MAX_ROWS: i64 = 1 << 20;
/// What a log without a state row says of its newest generation: base, how far it is sealed, highest sealed op id.
const NEWEST_GENERATION: &str = "SELECT generation, MIN(first_seq) - 1, MAX(last_seq), MAX(max_op_id) FROM ( \
     SELECT generation, server_seq AS first_seq, NULL::int8 AS last_seq, NULL::text COLLATE \"C\" AS max_op_id \
     FROM operations WHERE user_id = $1 UNION ALL \
     SELECT generation, first_seq, last_seq, max_op_id FROM segments WHERE user_id = $1) parts \
     GROUP BY generation ORDER BY generation DESC LIMIT 1";

#[async_trait]
impl LogStore for PostgresStore {
    fn lanes(&self) -> usize {
        super::ORDINARY_LANES
    }

    fn has_bulk_lane(&self) -> bool {
        true
    }

    async fn load_account(&self, user: UserId) -> Result<Option<AccountState>> {
        let (pool, patience) = (self.requests.clone(), self.patience);
        let loaded = self.accounts.ask(user, move |users| load_accounts(pool.clone(), patience, users)).await?;
        let Some(Loaded { storage_quota_bytes, sync }) = loaded else { return Ok(None) };
        if let Some(sync) = sync {
            return Ok(Some(AccountState { sync, storage_quota_bytes }));
        }
        on_connection!(self.requests, self.patience, "restore_state", |db| {
            Ok(restore_state(db, user).await?.map(|sync| AccountState { sync, storage_quota_bytes }))
        })
    }

    async fn commit(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        timed_on("commit", "commits", self.commit_group(&group)).await
    }

    async fn commit_patiently(&self, commit: &Commit) -> Result<Vec<CommitOutcome>> {
        timed("commit_patiently", self.commit_after_waiting(commit)).await
    }

    async fn find_ops(&self, user: UserId, generation: i64, ids: &[String]) -> Result<Vec<StoredOp>> {
        let (Some(lowest), Some(highest)) = (ids.iter().min(), ids.iter().max()) else { return Ok(Vec::new()) };
        on_connection!(self.requests, self.patience, "find_ops", |db| {
            let query = sqlx::query(sql::FIND_OPS).bind(user).bind(generation).bind(ids).bind(lowest).bind(highest);
            let rows = query.fetch_all(&mut *db).await?;
            let mut ops = Vec::new();
            let mut candidates: Vec<Seq> = Vec::new();
            for row in &rows {
                if row.try_get::<Option<Seq>, _>(17)?.is_none() {
                    ops.push(decode_op!(row)?);
                    continue;
                }
                let hashes = row.try_get::<&[u8], _>(16)?;
                if ids.iter().any(|id| may_hold(hashes, id)) {
                    candidates.push(row.try_get(0)?);
                }
            }
            if !candidates.is_empty() {
                let rows = sqlx::query(sql::LOAD_SEGMENTS).bind(user).bind(candidates).fetch_all(&mut *db).await?;
                for row in &rows {
                    let unpacked = Unpacked::open(row.try_get(3)?, row.try_get(0)?, row.try_get(1)?)?;
                    unpacked.find(ids, &mut ops)?;
                }
            }
            Ok(ops)
        })
    }

    async fn load_heads(&self, user: UserId, above: Seq, keys: &[EntityKey]) -> Result<Vec<(EntityKey, EntityHead)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        on_connection!(self.requests, self.patience, "load_heads", |db| {
            let keys: Vec<_> = keys.iter().map(|key| &key.as_bytes()[..]).collect();
            let query = sqlx::query(sql::LOAD_HEADS).bind(user).bind(above).bind(keys);
            let rows = query.fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_head!(row)).collect()
        })
    }

    async fn load_all_heads(
        &self,
        user: UserId,
        above: Seq,
        limit: usize,
    ) -> Result<Option<Vec<(EntityKey, EntityHead)>>> {
        on_connection!(self.requests, self.patience, "load_all_heads", |db| {
            let rows = sqlx::query(sql::LOAD_ALL_HEADS)
                .bind(user)
                .bind(above)
                .bind(bound(limit.saturating_add(1)))
                .fetch_all(&mut *db)
                .await?;
            if rows.len() > limit {
                return Ok(None);
            }
            rows.iter().map(|row| decode_head!(row)).collect::<Result<_>>().map(Some)
        })
    }

    async fn read_log(&self, range: LogRange<'_>) -> Result<LogPage> {
        self.read_page(range).await
    }

    async fn read_outgoing(&self, range: LogRange<'_>) -> Result<LogPage<OutgoingOp>> {
        self.read_page(range).await
    }

    async fn read_payload(&self, user: UserId, seq: Seq, piece: usize) -> Result<Option<Bytes>> {
        let first = piece.saturating_mul(LARGE_PAYLOAD_BYTES).saturating_add(1);
        let first = i32::try_from(first).unwrap_or(i32::MAX);
        let bytes = i32::try_from(LARGE_PAYLOAD_BYTES).unwrap_or(i32::MAX);
        on_connection!(self.requests, self.patience, "read_payload", |db| {
            let query =
                sqlx::query_scalar::<_, Vec<u8>>(sql::READ_PAYLOAD).bind(user).bind(seq).bind(first).bind(bytes);
            let piece = query.fetch_optional(&mut *db).await?;
            Ok(piece.filter(|piece| !piece.is_empty()).map(Bytes::from))
        })
    }

    async fn full_states(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<Vec<FullStateRow>> {
        on_connection!(self.requests, self.patience, "full_states", |db| {
            let rows = sqlx::query(sql::FULL_STATES)
                .bind(user)
                .bind(after)
                .bind(up_to)
                .bind(bound(limit))
                .fetch_all(&mut *db)
                .await?;
            rows.iter().map(|row| decode_full_state!(row)).collect()
        })
    }

    async fn heads_of_log(&self, user: UserId, after: Seq, up_to: Seq) -> Result<Vec<(EntityKey, EntityHead)>> {
        let (pool, patience) = (self.requests.clone(), self.patience);
        self.logs.ask((user, after, up_to), move |ranges| read_heads(pool.clone(), patience, ranges)).await
    }

    async fn measure(&self, user: UserId, after: Seq, up_to: Seq) -> Result<(i64, i64)> {
        on_connection!(self.requests, self.patience, "measure", |db| {
            let query = sqlx::query(sql::MEASURE).bind(user).bind(after).bind(up_to).bind(last_end(up_to));
            let (mut bytes, mut count) = (0, 0);
            for row in query.fetch_all(&mut *db).await? {
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
    }

    async fn received_since(&self, user: UserId, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "received_since", |db| {
            let query = sqlx::query(sql::RECEIVED_SINCE).bind(user).bind(after).bind(up_to).bind(since_ms);
            for row in query.bind(last_end(up_to)).fetch_all(&mut *db).await? {
                let Some(data) = row.try_get::<Option<&[u8]>, _>(2)? else { return Ok(true) };
                let unpacked = Unpacked::open(data, row.try_get(0)?, row.try_get(1)?)?;
                if unpacked.received_since(after, up_to, since_ms)? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    async fn load_snapshot(&self, user: UserId) -> Result<Option<(SnapshotMeta, SnapshotBlob)>> {
        on_connection!(self.requests, self.patience, "load_snapshot", |db| {
            let row = sqlx::query(sql::LOAD_SNAPSHOT).bind(user).fetch_optional(&mut *db).await?;
            let Some(row) = row else { return Ok(None) };
            let meta = SnapshotMeta { seq: row.try_get(0)?, at: row.try_get(1)?, bytes: row.try_get(2)? };
            let blob = SnapshotBlob { schema_version: schema_version(row.try_get(3)?)?, data: row.try_get(4)? };
            Ok(Some((meta, blob)))
        })
    }

    async fn touch_devices(&self, seen: &[Touch]) -> Result<()> {
        on_connection!(self.requests, self.patience, "touch_devices", |db| {
            sqlx::query(sql::TOUCH_DEVICES)
                .bind(seen.iter().map(|touch| touch.user).collect::<Vec<_>>())
                .bind(seen.iter().map(|touch| &*touch.client_id).collect::<Vec<_>>())
                .bind(seen.iter().map(|touch| touch.at_ms).collect::<Vec<_>>())
                .execute(&mut *db)
                .await?;
            Ok(())
        })
    }

    async fn devices(&self, user: UserId, since_ms: i64, limit: usize) -> Result<Vec<Device>> {
        on_connection!(self.requests, self.patience, "devices", |db| {
            let rows =
                sqlx::query(sql::DEVICES).bind(user).bind(since_ms).bind(bound(limit)).fetch_all(&mut *db).await?;
            rows.iter().map(|row| Ok(Device { client_id: row.try_get(0)?, last_seen_at: row.try_get(1)? })).collect()
        })
    }

    async fn archived(&self, user: UserId) -> Result<Vec<ArchivedRange>> {
        on_connection!(self.requests, self.patience, "archived", |db| {
            let rows = sqlx::query(sql::ARCHIVED).bind(user).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_archive!(row, 0)).collect()
        })
    }
}

/// What is known of an account that is looked up.
#[derive(Debug)]
pub(super) struct Loaded {
    storage_quota_bytes: i64,
    /// `None`: the row is missing.
    sync: Option<SyncState>,
}

/// The states of several accounts, in the order of their numbers.
async fn load_accounts(pool: Pool, patience: Duration, users: Vec<UserId>) -> Result<Vec<Result<Option<Loaded>>>> {
    on_connection!(pool, patience, "load_account", |db| {
        let mut found: Vec<Result<Option<Loaded>>> = users.iter().map(|_| Ok(None)).collect();
        for row in sqlx::query(sql::LOAD_ACCOUNTS).bind(&users[..]).fetch_all(&mut *db).await? {
            let storage_quota_bytes = row.try_get(0)?;
            let has_state = row.try_get::<Option<i64>, _>(1)?.is_some();
            let sync = has_state.then(|| decode_state!(&row, 2)).transpose();
            *placed(&mut found, row.try_get(20)?)? = sync.map(|sync| Some(Loaded { storage_quota_bytes, sync }));
        }
        Ok(found)
    })
}

/// The heads that parts of several logs make.
async fn read_heads(
    pool: Pool,
    patience: Duration,
    ranges: Vec<(UserId, Seq, Seq)>,
) -> Result<Vec<Result<Vec<(EntityKey, EntityHead)>>>> {
    on_connection!(pool, patience, "heads_of_log", |db| {
        let column = |of: fn(&(UserId, Seq, Seq)) -> i64| ranges.iter().map(of).collect::<Vec<i64>>();
        let query = sqlx::query(sql::RECENT_TRACES).bind(column(|range| range.0)).bind(column(|range| range.1));
        let mut ops: Vec<Result<Vec<OpTrace>>> = ranges.iter().map(|_| Ok(Vec::new())).collect();
        for row in query.bind(column(|range| range.2)).fetch_all(&mut *db).await? {
            let ops = placed(&mut ops, row.try_get(11)?)?;
            match (ops.as_mut(), decode_trace!(&row)) {
                (Ok(ops), Ok(op)) => ops.push(op),
                (Ok(_), Err(error)) => *ops = Err(error),
                (Err(_), _) => {}
            }
        }
        Ok(ops.into_iter().map(|ops| ops.map(|ops| heads_of(&ops))).collect())
    })
}

impl PostgresStore {
    async fn read_page<T: ReadOp>(&self, range: LogRange<'_>) -> Result<LogPage<T>> {
        let mut page = Builder::new(range);
        let mut json = BytesMut::new();
        while let Some(stretch) = page.next_stretch() {
            let (segments, rows) = on_connection!(self.requests, self.patience, "read_log", |db| {
                let query = sqlx::query(sql::READ_LOG)
                    .bind(range.user)
                    .bind(stretch.after)
                    .bind(stretch.up_to)
                    .bind(range.exclude_client)
                    .bind(bound(stretch.rows).min(MAX_ROWS))
                    .bind(bound(stretch.bytes))
                    .bind(stretch.segments_up_to)
                    .bind(bound(stretch.segments))
                    .bind(T::LARGE_FROM);
                let all = query.fetch_all(&mut *db).await?;
                let is_row = |row: &PgRow| Ok::<_, StoreError>(row.try_get::<Option<Seq>, _>(18)?.is_none());
                let (mut segments, mut rows) = (Vec::new(), Vec::new());
                for row in all {
                    let kind = if is_row(&row)? { &mut rows } else { &mut segments };
                    kind.push((row.try_get::<Seq, _>(0)?, row));
                }
                Ok((segments, rows))
            })?;
            for (last_seq, row) in in_order(segments) {
                page.segment(row.try_get(18)?, last_seq, row.try_get(16)?)?;
            }
            for (seq, row) in in_order(rows) {
                if !row.try_get::<bool, _>(17)? {
                    page.unread_row(seq)?;
                    break;
                }
                if !page.row(seq, T::of_pg_row(&row, &mut json)?)? {
                    break;
                }
            }
            page.end_stretch()?;
        }
        Ok(page.finish())
    }
}

/// What a page makes of a row. Rows are encoded into one buffer, of which each takes its part.
trait ReadOp: PageOp {
    /// From this size on payloads are not read.
    const LARGE_FROM: i32;

    fn of_pg_row(row: &PgRow, json: &mut BytesMut) -> Result<Self>;
}

impl ReadOp for StoredOp {
    const LARGE_FROM: i32 = i32::MAX;

    fn of_pg_row(row: &PgRow, _: &mut BytesMut) -> Result<Self> {
        decode_op!(row)
    }
}

impl ReadOp for OutgoingOp {
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a million")]
    const LARGE_FROM: i32 = LARGE_PAYLOAD_BYTES as i32;

    /// Straight from the row's memory to JSON: an operation of its own would be a dozen allocations.
    fn of_pg_row(row: &PgRow, json: &mut BytesMut) -> Result<Self> {
        let server_seq = row.try_get(0)?;
        let payload: Option<&[u8]> = row.try_get(16)?;
        let parts = OpParts {
            server_seq,
            id: row.try_get(1)?,
            client_id: row.try_get(2)?,
            action_type: row.try_get(3)?,
            op_type: op_type(row.try_get(4)?)?,
            entity_type: op_entity_type(row.try_get(5)?)?,
            entity_id: row.try_get(6)?,
            entity_ids: IdsPart::Json(row.try_get(7)?),
            vector_clock: row.try_get(9)?,
            timestamp: row.try_get(10)?,
            schema_version: schema_version(row.try_get(11)?)?,
            is_payload_encrypted: row.try_get(12)?,
            import_reason: import_reason(row.try_get(13)?)?,
            repair_base_server_seq: row.try_get(14)?,
            received_at: row.try_get(15)?,
            payload: payload.unwrap_or_default(),
        };
        let expected = parts.payload.len() + ENVELOPE_BYTES;
        if json.capacity() < expected {
            json.reserve(expected.max(CHUNK_BYTES));
        }
        let mut gap = None;
        if payload.is_some() {
            parts.encode(json);
        } else {
            parts.encode_head(json);
            gap = Some((json.len(), usize::try_from(row.try_get::<i32, _>(19)?).unwrap_or(0)));
            parts.encode_tail(json);
        }
        Ok(Self { seq: server_seq, json: json.split().freeze(), gap })
    }
}

/// The parts of a UNION come in no promised order.
fn in_order(mut rows: Vec<(Seq, PgRow)>) -> Vec<(Seq, PgRow)> {
    rows.sort_by_key(|(seq, _)| *seq);
    rows
}

/// Makes the state row of an account that lacks one, from what the log holds. `None`: no such account.
async fn restore_state(db: &mut PgConnection, user: UserId) -> Result<Option<SyncState>> {
    let mut tx = db.begin().await?;
    // A revision that the lost row can't have had, so that nobody's plan on it still fits. Of two that come here at
    // once the second waits for the first one's row.
    let created = sqlx::query(
        "INSERT INTO user_sync_state (user_id, revision) \
         SELECT id, (extract(epoch FROM now()) * 1000)::int8 FROM users WHERE id = $1 ON CONFLICT DO NOTHING",
    )
    .bind(user)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let Some(state) = test_mode::lock_state(&mut tx, user).await? else { return Ok(None) };
    if created == 0 {
        return Ok(Some(state));
    }
    let newest = sqlx::query(NEWEST_GENERATION).bind(user).fetch_optional(&mut *tx).await?;
    let state = match newest {
        None => state,
        Some(row) => {
            let base_seq = row.try_get(1)?;
            let sealed_seq = row.try_get::<Option<Seq>, _>(2)?.unwrap_or(base_seq);
            let (generation, sealed_max_op_id) = (row.try_get(0)?, row.try_get(3)?);
            SyncState { generation, base_seq, pruned_seq: base_seq, sealed_seq, sealed_max_op_id, ..state }
        }
    };
    let rebuilt = test_mode::rebuild_from_log(&mut tx, user, &state).await?;
    tx.commit().await?;
    Ok(Some(rebuilt.state))
}
