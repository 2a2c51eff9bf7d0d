//! What the clean-up rests its decisions on.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;

use super::SqliteStore;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::retention::{
    BEGIN_SWEEP, END_SWEEP, RETENTION_ROWS, SWEEPING, decode_due_rows, decode_retention_row, due_rows_sql,
};
use crate::store::row::bound;
use crate::store::{DueBefore, DueRows, Result, RetentionRow, RetentionStore, ttl_ms};

const DUE_ROWS: &str = due_rows_sql!("CAST(unixepoch('subsec') * 1000 AS INTEGER)");

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
}
