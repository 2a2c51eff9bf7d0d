//! Raw changes of a log that only test mode makes, and rebuilding a state row from a log.

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use super::overwrite::{overwrite_state, upsert_heads};
use super::payload::stored_op_columns;
use super::{SqliteStore, segments};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::error::timed_on;
use crate::store::heads;
use crate::store::rebuild::{Rebuilt, rebuild};
use crate::store::row::{bound, decode_op, decode_state, decode_trace, state_columns, trace_columns};
use crate::store::{Result, SyncState, TestStore};

const STATE: &str = concat!("SELECT ", state_columns!(), " FROM user_sync_state s WHERE s.user_id = ?1");
const TRACES: &str =
    concat!("SELECT ", trace_columns!(), " FROM operations WHERE user_id = ?1 AND server_seq > ?2 ORDER BY server_seq");
const NEWEST: &str = concat!(
    "SELECT ",
    stored_op_columns!(),
    " FROM operations WHERE user_id = ?1 AND server_seq > ",
    "COALESCE((SELECT pruned_seq FROM user_sync_state WHERE user_id = ?1), 0) AND (?2 IS NULL OR op_type = ?2) ",
    "ORDER BY server_seq DESC LIMIT ?3"
);
/// Everything of an account's log but the state row.
const EMPTY: [&str; 6] = [
    "DELETE FROM operations WHERE user_id = ?1",
    "DELETE FROM segments WHERE user_id = ?1",
    "DELETE FROM entity_heads WHERE user_id = ?1",
    "DELETE FROM sync_devices WHERE user_id = ?1",
    "DELETE FROM archived_ranges WHERE user_id = ?1",
    "DELETE FROM user_snapshots WHERE user_id = ?1",
];

#[async_trait]
impl TestStore for SqliteStore {
    async fn reset_log(&self, user: UserId) -> Result<()> {
        timed_on("reset_log", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            for sql in EMPTY {
                sqlx::query(sql).bind(user).execute(&mut *tx).await?;
            }
            if let Some(old) = load_state(&mut tx, user).await? {
                let fresh = SyncState { revision: old.revision + 1, replacement_seq: Some(0), ..SyncState::default() };
                overwrite_state(&mut tx, user, &fresh).await?;
            }
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn truncate_log(&self, user: UserId, after: Seq) -> Result<u64> {
        timed_on("truncate_log", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let Some(old) = load_state(&mut tx, user).await? else { return Ok(0) };
            if let Some(span) = segments::spans(&mut tx, user, after, after.saturating_add(1)).await?.first()
                && span.first_seq <= after
            {
                segments::unpack(&mut tx, user, span.last_seq).await?;
            }
            let sql = "SELECT COALESCE(SUM(op_count), 0) FROM segments WHERE user_id = ?1 AND last_seq > ?2";
            let packed: i64 = sqlx::query_scalar(sql).bind(user).bind(after).fetch_one(&mut *tx).await?;
            let sql = "DELETE FROM segments WHERE user_id = ?1 AND last_seq > ?2";
            sqlx::query(sql).bind(user).bind(after).execute(&mut *tx).await?;
            let sql = "DELETE FROM operations WHERE user_id = ?1 AND server_seq > ?2";
            let rows = sqlx::query(sql).bind(user).bind(after).execute(&mut *tx).await?.rows_affected();
            let deleted = rows + packed.unsigned_abs();
            for sql in [
                "DELETE FROM archived_ranges WHERE user_id = ?1 AND from_seq > ?2",
                "UPDATE archived_ranges SET to_seq = ?2 WHERE user_id = ?1 AND to_seq > ?2",
            ] {
                sqlx::query(sql).bind(user).bind(after).execute(&mut *tx).await?;
            }
            let rebuilt = rebuild_from_log(&mut tx, user, &old).await?;
            if rebuilt.state.snapshot.is_none() {
                sqlx::query("DELETE FROM user_snapshots WHERE user_id = ?1").bind(user).execute(&mut *tx).await?;
            }
            overwrite_state(&mut tx, user, &rebuilt.state).await?;
            tx.commit().await?;
            Ok(deleted)
        })
        .await
    }

    async fn newest_ops(&self, user: UserId, op_type: Option<&str>, limit: usize) -> Result<Vec<StoredOp>> {
        timed_on("newest_ops", "readers", async {
            let mut reader = self.readers.acquire().await?;
            let mut tx = reader.begin().await?;
            let rows = sqlx::query(NEWEST)
                .bind(user)
                .bind(op_type.map(str::to_owned))
                .bind(bound(limit))
                .fetch_all(&mut *tx)
                .await?;
            let mut ops = rows.iter().map(|row| decode_op!(row)).collect::<Result<Vec<_>>>()?;
            let pruned_seq = load_state(&mut tx, user).await?.map_or(0, |state| state.pruned_seq);
            ops.extend(segments::newest(&mut tx, user, pruned_seq, op_type, limit).await?);
            ops.sort_by_key(|op| std::cmp::Reverse(op.server_seq));
            ops.truncate(limit);
            Ok(ops)
        })
        .await
    }
}

async fn load_state(tx: &mut SqliteConnection, user: UserId) -> Result<Option<SyncState>> {
    let row = sqlx::query(STATE).bind(user).fetch_optional(tx).await?;
    row.map(|row| decode_state!(&row, 0)).transpose()
}

/// Derives state and heads from the operations of the data set and stores the heads.
pub(super) async fn rebuild_from_log(tx: &mut SqliteConnection, user: UserId, old: &SyncState) -> Result<Rebuilt> {
    let rows = sqlx::query(TRACES).bind(user).bind(old.pruned_seq).fetch_all(&mut *tx).await?;
    let mut ops = rows.iter().map(|row| decode_trace!(row)).collect::<Result<Vec<_>>>()?;
    ops.extend(segments::traces(tx, user, old.pruned_seq).await?);
    ops.sort_by_key(|op| op.seq);
    let rebuilt = rebuild(old, &ops);
    sqlx::query("DELETE FROM entity_heads WHERE user_id = ?1").bind(user).execute(&mut *tx).await?;
    let heads = heads::rows(rebuilt.heads.iter().map(|(key, head)| (key, head)));
    upsert_heads(tx, user, &heads).await?;
    Ok(rebuilt)
}
