//! Raw changes of a log that only test mode makes, and rebuilding a state row from a log.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::rows::HeadRow;
use super::{PostgresStore, on_connection, segments, sql};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::heads;
use crate::store::rebuild::{Rebuilt, rebuild};
use crate::store::row::{bound, decode_op, decode_state, decode_trace, state_columns};
use crate::store::{Result, SyncState, TestStore};

const LOCK_STATE: &str =
    concat!("SELECT ", state_columns!(), " FROM user_sync_state s WHERE s.user_id = $1 FOR UPDATE");
const OVERWRITE_STATE: &str = "UPDATE user_sync_state SET revision = $2, generation = $3, base_seq = $4, \
     pruned_seq = $5, last_seq = $6, vector_clock = $7, full_state_seq = $8, full_state_client_id = $9, \
     full_state_clock = $10, replacement_seq = $11, storage_used_bytes = $12, snapshot_seq = $13, snapshot_at = $14, \
     snapshot_bytes = $15, heads_seq = $16, sealed_seq = $17, sealed_max_op_id = $18, \
     sparse_up_to = $19 WHERE user_id = $1";
const INSERT_HEADS: &str = "INSERT INTO entity_heads SELECT * FROM UNNEST($1::entity_heads[])";
/// Everything of an account's log but the state row.
const EMPTY: [&str; 6] = [
    "DELETE FROM operations WHERE user_id = $1",
    "DELETE FROM segments WHERE user_id = $1",
    "DELETE FROM entity_heads WHERE user_id = $1",
    "DELETE FROM sync_devices WHERE user_id = $1",
    "DELETE FROM archived_ranges WHERE user_id = $1",
    "DELETE FROM user_snapshots WHERE user_id = $1",
];

#[async_trait]
impl TestStore for PostgresStore {
    async fn reset_log(&self, user: UserId) -> Result<()> {
        on_connection!(self.requests, self.patience, "reset_log", |db| {
            let mut tx = db.begin().await?;
            // First of all, so that no commit gets in between.
            let old = lock_state(&mut tx, user).await?;
            for sql in EMPTY {
                sqlx::query(sql).bind(user).execute(&mut *tx).await?;
            }
            if let Some(old) = old {
                let fresh = SyncState { revision: old.revision + 1, replacement_seq: Some(0), ..SyncState::default() };
                overwrite_state(&mut tx, user, &fresh).await?;
            }
            tx.commit().await?;
            Ok(())
        })
    }

    async fn truncate_log(&self, user: UserId, after: Seq) -> Result<u64> {
        on_connection!(self.requests, self.patience, "truncate_log", |db| {
            let mut tx = db.begin().await?;
            let Some(old) = lock_state(&mut tx, user).await? else { return Ok(0) };
            if let Some(span) = segments::spans(&mut tx, user, after, after.saturating_add(1)).await?.first()
                && span.first_seq <= after
            {
                segments::unpack(&mut tx, user, span.last_seq).await?;
            }
            let sql = "WITH gone AS (DELETE FROM segments WHERE user_id = $1 AND last_seq > $2 RETURNING op_count) \
                       SELECT COALESCE(SUM(op_count), 0)::int8 FROM gone";
            let packed: i64 = sqlx::query_scalar(sql).bind(user).bind(after).fetch_one(&mut *tx).await?;
            let sql = "DELETE FROM operations WHERE user_id = $1 AND server_seq > $2";
            let rows = sqlx::query(sql).bind(user).bind(after).execute(&mut *tx).await?.rows_affected();
            let deleted = rows + packed.unsigned_abs();
            for sql in [
                "DELETE FROM archived_ranges WHERE user_id = $1 AND from_seq > $2",
                "UPDATE archived_ranges SET to_seq = $2 WHERE user_id = $1 AND to_seq > $2",
            ] {
                sqlx::query(sql).bind(user).bind(after).execute(&mut *tx).await?;
            }
            let rebuilt = rebuild_from_log(&mut tx, user, &old).await?;
            if rebuilt.state.snapshot.is_none() {
                sqlx::query("DELETE FROM user_snapshots WHERE user_id = $1").bind(user).execute(&mut *tx).await?;
            }
            tx.commit().await?;
            Ok(deleted)
        })
    }

    async fn newest_ops(&self, user: UserId, op_type: Option<&str>, limit: usize) -> Result<Vec<StoredOp>> {
        on_connection!(self.requests, self.patience, "newest_ops", |db| {
            let rows = sqlx::query(sql::NEWEST_OPS)
                .bind(user)
                .bind(op_type.map(str::to_owned))
                .bind(bound(limit))
                .fetch_all(&mut *db)
                .await?;
            let mut ops = rows.iter().map(|row| decode_op!(row)).collect::<Result<Vec<_>>>()?;
            let sql = "SELECT pruned_seq FROM user_sync_state WHERE user_id = $1";
            let pruned: Option<Seq> = sqlx::query_scalar(sql).bind(user).fetch_optional(&mut *db).await?;
            ops.extend(segments::newest(db, user, pruned.unwrap_or_default(), op_type, limit).await?);
            // What was packed after the rows were read is there twice.
            ops.sort_by_key(|op| std::cmp::Reverse(op.server_seq));
            ops.dedup_by_key(|op| op.server_seq);
            ops.truncate(limit);
            Ok(ops)
        })
    }
}

/// Reads the state row and keeps commits away from it until the transaction ends.
pub(super) async fn lock_state(db: &mut PgConnection, user: UserId) -> Result<Option<SyncState>> {
    let row = sqlx::query(LOCK_STATE).bind(user).fetch_optional(db).await?;
    row.map(|row| decode_state!(&row, 0)).transpose()
}

/// Derives state and heads from the operations of the data set and stores both.
pub(super) async fn rebuild_from_log(db: &mut PgConnection, user: UserId, old: &SyncState) -> Result<Rebuilt> {
    let rows = sqlx::query(sql::TRACES).bind(user).bind(old.pruned_seq).fetch_all(&mut *db).await?;
    let mut ops = rows.iter().map(|row| decode_trace!(row)).collect::<Result<Vec<_>>>()?;
    ops.extend(segments::traces(db, user, old.pruned_seq).await?);
    ops.sort_by_key(|op| op.seq);
    let rebuilt = rebuild(old, &ops);
    sqlx::query("DELETE FROM entity_heads WHERE user_id = $1").bind(user).execute(&mut *db).await?;
    let rows = heads::rows(rebuilt.heads.iter().map(|(key, head)| (key, head)));
    let heads: Vec<_> = rows.iter().map(|row| HeadRow::of(user, row)).collect();
    sqlx::query(INSERT_HEADS).bind(heads).execute(&mut *db).await?;
    overwrite_state(db, user, &rebuilt.state).await?;
    Ok(rebuilt)
}

/// Overwrites a state row whatever its revision.
async fn overwrite_state(db: &mut PgConnection, user: UserId, state: &SyncState) -> Result<()> {
    let full_state = state.full_state.as_ref();
    sqlx::query(OVERWRITE_STATE)
        .bind(user)
        .bind(state.revision)
        .bind(state.generation)
        .bind(state.base_seq)
        .bind(state.pruned_seq)
        .bind(state.last_seq)
        .bind(state.clock.as_json())
        .bind(full_state.map(|mark| mark.seq))
        .bind(full_state.map(|mark| mark.client_id.as_str()))
        .bind(full_state.map(|mark| mark.clock.as_json()))
        .bind(state.replacement_seq)
        .bind(state.storage_used_bytes)
        .bind(state.snapshot.map(|snapshot| snapshot.seq))
        .bind(state.snapshot.map(|snapshot| snapshot.at))
        .bind(state.snapshot.map(|snapshot| snapshot.bytes))
        .bind(state.heads_seq)
        .bind(state.sealed_seq)
        .bind(state.sealed_max_op_id.clone())
        .bind(state.sparse_up_to)
        .execute(db)
        .await?;
    Ok(())
}
