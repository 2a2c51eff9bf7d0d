//! What the clean-up rests its decisions on.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;

use super::{PostgresStore, on_connection};
use crate::protocol::UserId;
use crate::store::retention::{
    BEGIN_SWEEP, END_SWEEP, NOTE_RIGHT_TIME, RETENTION_ROWS, RIGHT_TIME, SWEEPING, decode_due_rows, decode_known_time,
    decode_retention_row, due_rows_sql, known_time_sql,
};
use crate::store::row::bound;
use crate::store::{DueBefore, DueRows, KnownTime, Result, RetentionRow, RetentionStore, ttl_ms};

const DUE_ROWS: &str = due_rows_sql!("(extract(epoch FROM clock_timestamp()) * 1000)::bigint");
const KNOWN_TIME: &str = known_time_sql!("(extract(epoch FROM clock_timestamp()) * 1000)::bigint");

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn retention_rows(&self, after: UserId, limit: usize) -> Result<Vec<RetentionRow>> {
        on_connection!(self.housekeeping, self.patience, "retention_rows", |db| {
            let rows = sqlx::query(RETENTION_ROWS).bind(after).bind(bound(limit)).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_retention_row!(row)).collect()
        })
    }

    async fn due_rows(&self, before: DueBefore) -> Result<DueRows> {
        on_connection!(self.housekeeping, self.patience, "due_rows", |db| {
            let query = sqlx::query(DUE_ROWS).bind(before.devices_ms).bind(before.now_ms).bind(before.unverified_ms);
            let row = query.bind(ttl_ms(before.events)).bind(before.security_ms).fetch_one(&mut *db).await?;
            decode_due_rows!(&row)
        })
    }

    async fn begin_sweep(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool> {
        on_connection!(self.housekeeping, self.patience, "begin_sweep", |db| {
            let query = sqlx::query(BEGIN_SWEEP).bind(SWEEPING).bind(owner.to_owned()).bind(now_ms);
            let done = query.bind(now_ms.saturating_add(ttl_ms(ttl))).execute(&mut *db).await?;
            Ok(done.rows_affected() > 0)
        })
    }

    async fn end_sweep(&self, owner: &str) -> Result<()> {
        on_connection!(self.housekeeping, self.patience, "end_sweep", |db| {
            sqlx::query(END_SWEEP).bind(SWEEPING).bind(owner.to_owned()).execute(&mut *db).await?;
            Ok(())
        })
    }

    async fn known_time(&self) -> Result<KnownTime> {
        on_connection!(self.housekeeping, self.patience, "known_time", |db| {
            let row = sqlx::query(KNOWN_TIME).bind(RIGHT_TIME).fetch_one(&mut *db).await?;
            decode_known_time!(&row)
        })
    }

    async fn note_right_time(&self, owner: &str, now_ms: i64) -> Result<()> {
        on_connection!(self.housekeeping, self.patience, "note_right_time", |db| {
            let query = sqlx::query(NOTE_RIGHT_TIME).bind(RIGHT_TIME).bind(owner.to_owned()).bind(now_ms);
            query.execute(&mut *db).await?;
            Ok(())
        })
    }
}
