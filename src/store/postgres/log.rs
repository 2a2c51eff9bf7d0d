//! Reading one account's log, state, heads and devices.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::{PostgresStore, on_connection, sql, test_mode};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::error::timed;
use crate::store::rebuild::heads_of;
use crate::store::row::{
    bound, decode_archive, decode_full_state, decode_head, decode_op, decode_state, decode_trace, schema_version,
};
use crate::store::{
    AccountState, ArchivedRange, Commit, CommitOutcome, Device, EntityHead, EntityKey, FullStateRow, LogPage, LogRange,
    LogStore, Result, SCAN_WINDOW, SnapshotBlob, SnapshotMeta, StoreError, SyncState,
};

/// Most rows of one page, whatever is asked for.
const MAX_ROWS: i64 = 1 << 20;

#[async_trait]
impl LogStore for PostgresStore {
    fn lanes(&self) -> usize {
        super::lanes::ORDINARY
    }

    fn has_bulk_lane(&self) -> bool {
        true
    }

    async fn load_account(&self, user: UserId) -> Result<Option<AccountState>> {
        on_connection!(self.requests, self.patience, "load_account", |db| {
            let Some(row) = sqlx::query(sql::LOAD_ACCOUNT).bind(user).fetch_optional(&mut *db).await? else {
                return Ok(None);
            };
            let storage_quota_bytes = row.try_get(0)?;
            let sync = match row.try_get::<Option<i64>, _>(1)? {
                Some(_) => decode_state!(&row, 2)?,
                None => match restore_state(db, user).await? {
                    Some(state) => state,
                    None => return Ok(None),
                },
            };
            Ok(Some(AccountState { sync, storage_quota_bytes }))
        })
    }

    async fn commit(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        timed("commit", self.commit_group(&group)).await
    }

    async fn commit_patiently(&self, commit: &Commit) -> Result<Vec<CommitOutcome>> {
        timed("commit_patiently", self.commit_after_waiting(commit)).await
    }

    async fn find_ops(&self, user: UserId, generation: i64, ids: &[String]) -> Result<Vec<StoredOp>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        on_connection!(self.requests, self.patience, "find_ops", |db| {
            let rows = sqlx::query(sql::FIND_OPS).bind(user).bind(generation).bind(ids).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_op!(row)).collect()
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
        let mut page = LogPage::default();
        let mut after = range.after;
        while after < range.up_to && page.ops.is_empty() {
            // Leaving a device out could mean to walk over a long stretch that it wrote itself; so that happens in
            // windows, each of them a short statement, and a page that has anything ends at a window's end.
            let window_end = match range.exclude_client {
                None => range.up_to,
                Some(_) => range.up_to.min(after.saturating_add(SCAN_WINDOW)),
            };
            page = on_connection!(self.requests, self.patience, "read_log", |db| {
                read_window(db, range, after, window_end).await
            })?;
            after = window_end;
        }
        page.has_more |= !page.ops.is_empty() && after < range.up_to;
        Ok(page)
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
        on_connection!(self.requests, self.patience, "heads_of_log", |db| {
            let query = sqlx::query(sql::RECENT_TRACES).bind(user).bind(after).bind(up_to);
            let rows = query.fetch_all(&mut *db).await?;
            let ops = rows.iter().map(|row| decode_trace!(row)).collect::<Result<Vec<_>>>()?;
            Ok(heads_of(&ops))
        })
    }

    async fn measure(&self, user: UserId, after: Seq, up_to: Seq) -> Result<(i64, i64)> {
        on_connection!(self.requests, self.patience, "measure", |db| {
            let row = sqlx::query(sql::MEASURE).bind(user).bind(after).bind(up_to).fetch_one(&mut *db).await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
    }

    async fn received_since(&self, user: UserId, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "received_since", |db| {
            // Newest first: if there is one, it is among the last.
            let found = sqlx::query(sql::RECEIVED_SINCE)
                .bind(user)
                .bind(after)
                .bind(up_to)
                .bind(since_ms)
                .fetch_optional(&mut *db)
                .await?;
            Ok(found.is_some())
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

    async fn touch_device(&self, user: UserId, client_id: &str, now_ms: i64) -> Result<()> {
        on_connection!(self.requests, self.patience, "touch_device", |db| {
            sqlx::query(sql::TOUCH_DEVICE).bind(user).bind(client_id).bind(now_ms).execute(&mut *db).await?;
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

async fn read_window(db: &mut PgConnection, range: LogRange<'_>, after: Seq, up_to: Seq) -> Result<LogPage> {
    let rows = sqlx::query(sql::READ_LOG)
        .bind(range.user)
        .bind(after)
        .bind(up_to)
        .bind(range.exclude_client)
        .bind(bound(range.limit).clamp(1, MAX_ROWS))
        .bind(bound(range.max_bytes))
        .fetch_all(db)
        .await?;
    let mut page = LogPage::default();
    for row in &rows {
        if !row.try_get::<bool, _>(17)? {
            page.has_more = true;
            break;
        }
        page.ops.push(decode_op!(row)?);
    }
    Ok(page)
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
    let newest = sqlx::query(
        "SELECT generation, MIN(server_seq) - 1 FROM operations WHERE user_id = $1 GROUP BY generation \
         ORDER BY generation DESC LIMIT 1",
    )
    .bind(user)
    .fetch_optional(&mut *tx)
    .await?;
    let (generation, base_seq) =
        newest.map_or(Ok((0, 0)), |row| Ok::<_, StoreError>((row.try_get(0)?, row.try_get(1)?)))?;
    let state = SyncState { generation, base_seq, pruned_seq: base_seq, ..state };
    let rebuilt = test_mode::rebuild_from_log(&mut tx, user, &state).await?;
    tx.commit().await?;
    Ok(Some(rebuilt.state))
}
