//! Housekeeping over all accounts, in bounded steps.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::{PostgresStore, on_connection, segments, sql};
use crate::protocol::{Seq, UserId};
use crate::store::discard::{Step, next_step};
use crate::store::heads::TIDY_STEP;
use crate::store::maintenance::{ARCHIVE_SIZES, decode_archive_size};
use crate::store::row::{bound, decode_archive, decode_sealable};
use crate::store::{
    ArchiveSize, ArchivedRange, MaintenanceStore, ROOM_BYTES, Result, SWEEPER, Sealable, StoreError, ttl_ms,
};

/// Where operations are stored, unless that is the database's own tablespace.
const TABLESPACE: &str = "SELECT quote_ident(t.spcname) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace \
     WHERE c.oid = to_regclass('operations')";

/// A table of one transaction takes the room of any other, and leaves nothing behind. The database takes no notice of what
/// is missing until a file has to grow, which it does at once.
pub(super) async fn try_room(connection: &mut PgConnection) -> Result<()> {
    const ROW_BYTES: i64 = 1024;
    let mut tx = connection.begin().await?;
    let tablespace: Option<String> = sqlx::query_scalar(TABLESPACE).fetch_optional(&mut *tx).await?;
    // Not that of temporary tables, which may be on another disk.
    sqlx::query("SET LOCAL temp_tablespaces = ''").execute(&mut *tx).await?;
    let tablespace = tablespace.map_or_else(String::new, |name| format!(" TABLESPACE {name}"));
    // The name comes quoted from the database.
    let sql = format!("CREATE TEMPORARY TABLE supersync_room (filler text) ON COMMIT DROP{tablespace}");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await?;
    sqlx::query("INSERT INTO supersync_room SELECT repeat(md5(n::text), $1) FROM generate_series(1, $2) n")
        .bind(i32::try_from(ROW_BYTES / 32).unwrap_or(1))
        .bind(ROOM_BYTES / ROW_BYTES)
        .execute(&mut *tx)
        .await?;
    tx.rollback().await?;
    Ok(())
}

#[async_trait]
impl MaintenanceStore for PostgresStore {
    async fn prunable_accounts(&self, after: UserId, limit: usize) -> Result<Vec<UserId>> {
        on_connection!(self.housekeeping, self.patience, "prunable_accounts", |db| {
            Ok(sqlx::query_scalar(sql::PRUNABLE_ACCOUNTS).bind(after).bind(bound(limit)).fetch_all(&mut *db).await?)
        })
    }

    async fn sealable_accounts(
        &self,
        after: UserId,
        only: Option<UserId>,
        min_run: Seq,
        before_ms: i64,
        limit: usize,
    ) -> Result<Vec<Sealable>> {
        on_connection!(self.housekeeping, self.patience, "sealable_accounts", |db| {
            let query = sqlx::query(sql::SEALABLE_ACCOUNTS).bind(after).bind(only).bind(min_run).bind(before_ms);
            let rows = query.bind(bound(limit)).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_sealable!(row)).collect()
        })
    }

    async fn delete_ops(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<u64> {
        on_connection!(self.housekeeping, self.patience, "delete_ops", |db| {
            let mut tx = db.begin().await?;
            let (segments, ops, rows_up_to) = loop {
                match next_step(&segments::spans(&mut tx, user, after, up_to).await?, after, up_to, limit) {
                    Step::Unpack(span) => segments::unpack(&mut tx, user, span.last_seq).await?,
                    Step::Delete { segments, ops, rows_up_to } => break (segments, ops, rows_up_to),
                }
            };
            sqlx::query(sql::DELETE_SEGMENTS).bind(user).bind(segments).execute(&mut *tx).await?;
            let rows = sqlx::query(sql::DELETE_OPS)
                .bind(user)
                .bind(after)
                .bind(rows_up_to)
                .bind(bound(limit.saturating_sub(ops)))
                .execute(&mut *tx)
                .await?
                .rows_affected();
            tx.commit().await?;
            Ok(rows + u64::try_from(ops).unwrap_or(u64::MAX))
        })
    }

    async fn expired_archives(&self, before_ms: i64, limit: usize) -> Result<Vec<(UserId, ArchivedRange)>> {
        on_connection!(self.housekeeping, self.patience, "expired_archives", |db| {
            let rows = sqlx::query(
                "SELECT user_id, generation, from_seq, to_seq, reason, bytes, archived_at FROM archived_ranges \
                 WHERE archived_at < $1 ORDER BY archived_at = 0, archived_at, user_id, from_seq LIMIT $2",
            )
            .bind(before_ms)
            .bind(bound(limit))
            .fetch_all(&mut *db)
            .await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, decode_archive!(row, 1)?))).collect()
        })
    }

    async fn archive_sizes(&self, after: UserId, limit: usize) -> Result<Vec<ArchiveSize>> {
        on_connection!(self.housekeeping, self.patience, "archive_sizes", |db| {
            let rows = sqlx::query(ARCHIVE_SIZES).bind(after).bind(bound(limit)).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_archive_size!(row)).collect()
        })
    }

    async fn give_up_archives(&self, user: UserId, ranges: &[ArchivedRange]) -> Result<()> {
        let ranges: Vec<Seq> = ranges.iter().map(|range| range.from_seq).collect();
        on_connection!(self.housekeeping, self.patience, "give_up_archives", |db| {
            sqlx::query(
                "UPDATE archived_ranges SET reason = 'expired', archived_at = 0 WHERE user_id = $1 \
                 AND from_seq = ANY($2) AND reason IN ('clean_slate', 'wipe', 'superseded', 'bring_back')",
            )
            .bind(user)
            .bind(&ranges)
            .execute(&mut *db)
            .await?;
            Ok(())
        })
    }

    async fn drop_archive(&self, user: UserId, range: &ArchivedRange) -> Result<()> {
        self.tidy_heads(user).await?;
        on_connection!(self.housekeeping, self.patience, "drop_archive", |db| {
            sqlx::query(sql::DROP_ARCHIVE).bind(user).bind(range.from_seq).execute(&mut *db).await?;
            Ok(())
        })
    }

    async fn tidy_heads(&self, user: UserId) -> Result<()> {
        let mut after = Some(Vec::new());
        while let Some(key) = after {
            after = on_connection!(self.housekeeping, self.patience, "drop_old_heads", |db| {
                let query = sqlx::query_scalar(sql::DROP_OLD_HEADS).bind(user).bind(&key[..]).bind(TIDY_STEP);
                Ok::<Option<Vec<u8>>, StoreError>(query.fetch_optional(&mut *db).await?)
            })?;
        }
        loop {
            let dropped = on_connection!(self.housekeeping, self.patience, "drop_clocks", |db| {
                let query = sqlx::query_scalar(sql::UNUSED_CLOCKS).bind(user).bind(TIDY_STEP);
                let unused: Vec<Vec<u8>> = query.fetch_all(&mut *db).await?;
                Ok(sqlx::query(sql::DROP_CLOCKS).bind(user).bind(unused).execute(&mut *db).await?.rows_affected())
            })?;
            if dropped == 0 {
                return Ok(());
            }
        }
    }

    async fn delete_stale_devices(&self, before_ms: i64, limit: usize) -> Result<u64> {
        on_connection!(self.housekeeping, self.patience, "delete_stale_devices", |db| {
            // Walks the table: an index on the time would be rewritten whenever a device is seen.
            let done = sqlx::query(
                "DELETE FROM sync_devices WHERE ctid = ANY(ARRAY \
                 (SELECT ctid FROM sync_devices WHERE last_seen_at < $1 LIMIT $2)) AND last_seen_at < $1",
            )
            .bind(before_ms)
            .bind(bound(limit))
            .execute(&mut *db)
            .await?;
            Ok(done.rows_affected())
        })
    }

    async fn try_lead(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool> {
        on_connection!(self.housekeeping, self.patience, "try_lead", |db| {
            let done = sqlx::query(
                "INSERT INTO leadership (role, owner, expires_at) VALUES ($1, $2, $4) \
                 ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at \
                 WHERE leadership.owner = excluded.owner OR leadership.expires_at <= $3 \
                 OR leadership.expires_at > $3 + 86400000",
            )
            .bind(SWEEPER)
            .bind(owner.to_owned())
            .bind(now_ms)
            .bind(now_ms.saturating_add(ttl_ms(ttl)))
            .execute(&mut *db)
            .await?;
            Ok(done.rows_affected() > 0)
        })
    }
}
