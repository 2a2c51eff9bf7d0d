//! What the clean-up rests its decisions on.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;

use super::SqliteStore;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::retention::{
    BEGIN_SWEEP, END_SWEEP, NOTE_RIGHT_TIME, RETENTION_ROWS, RIGHT_TIME, SWEEPING, decode_due_rows, decode_known_time,
    decode_retention_row, due_rows_sql, known_time_sql,
};
use crate::store::row::bound;
use crate::store::{DueBefore, DueRows, KnownTime, Result, RetentionRow, RetentionStore, ttl_ms};

const DUE_ROWS: &str = due_rows_sql!("CAST(unixepoch('subsec') * 1000 AS INTEGER)");
/// It runs in this process, by this machine's clock.
const KNOWN_TIME: &str = known_time_sql!("NULL");

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn retention_rows(&self, after: UserId, limit: usize) -> Result<Vec<RetentionRow>> {
        timed_on("retention_rows", "readers", async {
            let rows = sqlx::query(RETENTION_ROWS).bind(after).bind(bound(limit)).fetch_all(&self.readers).await?;
            rows.iter().map(|row| decode_retention_row!(row)).collect()
        })
        .await
    }

    async fn due_rows(&self, before: DueBefore) -> Result<DueRows> {
        timed_on("due_rows", "readers", async {
            let query = sqlx::query(DUE_ROWS).bind(before.devices_ms).bind(before.now_ms).bind(before.unverified_ms);
            let row = query.bind(ttl_ms(before.events)).bind(before.security_ms).fetch_one(&self.readers).await?;
            decode_due_rows!(&row)
        })
        .await
    }

    async fn begin_sweep(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool> {
        timed_on("begin_sweep", "writer", async {
            let query = sqlx::query(BEGIN_SWEEP).bind(SWEEPING).bind(owner.to_owned()).bind(now_ms);
            let query = query.bind(now_ms.saturating_add(ttl_ms(ttl)));
            Ok(query.execute(&mut *self.writer.acquire().await?).await?.rows_affected() > 0)
        })
        .await
    }

    async fn end_sweep(&self, owner: &str) -> Result<()> {
        timed_on("end_sweep", "writer", async {
            let query = sqlx::query(END_SWEEP).bind(SWEEPING).bind(owner.to_owned());
            query.execute(&mut *self.writer.acquire().await?).await?;
            Ok(())
        })
        .await
    }

    async fn known_time(&self) -> Result<KnownTime> {
        timed_on("known_time", "readers", async {
            let row = sqlx::query(KNOWN_TIME).bind(RIGHT_TIME).fetch_one(&self.readers).await?;
            decode_known_time!(&row)
        })
        .await
    }

    async fn note_right_time(&self, owner: &str, now_ms: i64) -> Result<()> {
        timed_on("note_right_time", "writer", async {
            let query = sqlx::query(NOTE_RIGHT_TIME).bind(RIGHT_TIME).bind(owner.to_owned()).bind(now_ms);
            query.execute(&mut *self.writer.acquire().await?).await?;
            Ok(())
        })
        .await
    }
}
