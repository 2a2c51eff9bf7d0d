//! Events about accounts.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;

use super::SqliteStore;
use super::sessions::announce;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::row::{bound, decode_event};
use crate::store::{AccountEvent, EventKind, EventStore, Result, ttl_ms};

#[async_trait]
impl EventStore for SqliteStore {
    async fn last_event(&self) -> Result<i64> {
        timed_on("last_event", "readers", async {
            let sql = "SELECT COALESCE(max(id), 0) FROM account_events";
            Ok(sqlx::query_scalar(sql).fetch_one(&self.readers).await?)
        })
        .await
    }

    async fn events_after(&self, after: i64, limit: usize) -> Result<Vec<AccountEvent>> {
        // On the connection of the health checks: busy readers must not delay a revocation.
        timed_on("events_after", "probe", async {
            let rows =
                sqlx::query("SELECT id, user_id, kind, at FROM account_events WHERE id > ?1 ORDER BY id LIMIT ?2")
                    .bind(after)
                    .bind(bound(limit))
                    .fetch_all(&self.probe)
                    .await?;
            rows.iter().map(|row| decode_event!(row)).collect()
        })
        .await
    }

    async fn announce(&self, user: UserId, kind: EventKind) -> Result<()> {
        timed_on("announce", "writer", async { announce(&mut *self.writer.acquire().await?, user, kind).await }).await
    }

    async fn delete_old_events(&self, older_than: Duration) -> Result<u64> {
        timed_on("delete_old_events", "writer", async {
            let done = sqlx::query(
                "DELETE FROM account_events WHERE at <= CAST(unixepoch('subsec') * 1000 AS INTEGER) - ?1 \
                 AND id < (SELECT max(id) FROM account_events)",
            )
            .bind(ttl_ms(older_than))
            .execute(&mut *self.writer.acquire().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }
}
