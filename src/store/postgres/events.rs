//! Events about accounts.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::sessions::announce;
use super::{PostgresStore, on_connection};
use crate::protocol::UserId;
use crate::store::row::{bound, decode_event};
use crate::store::{AccountEvent, EventKind, EventStore, PING_TIMEOUT, Result, ttl_ms};

#[async_trait]
impl EventStore for PostgresStore {
    async fn last_event(&self) -> Result<i64> {
        on_connection!(self.requests, self.patience, "last_event", |db| {
            Ok(sqlx::query_scalar("SELECT COALESCE(max(id), 0) FROM account_events").fetch_one(&mut *db).await?)
        })
    }

    async fn events_after(&self, after: i64, limit: usize) -> Result<Vec<AccountEvent>> {
        // On the connection of the health checks: a flood of requests must not delay a revocation.
        on_connection!(self.probe, PING_TIMEOUT, "events_after", |db| {
            let rows =
                sqlx::query("SELECT id, user_id, kind, at FROM account_events WHERE id > $1 ORDER BY id LIMIT $2")
                    .bind(after)
                    .bind(bound(limit))
                    .fetch_all(&mut *db)
                    .await?;
            rows.iter().map(|row| decode_event!(row)).collect()
        })
    }

    async fn announce(&self, user: UserId, kind: EventKind) -> Result<()> {
        on_connection!(self.requests, self.patience, "announce", |db| {
            let mut tx = db.begin().await?;
            announce(&mut tx, user, kind).await?;
            tx.commit().await?;
            Ok(())
        })
    }

    async fn delete_old_events(&self, older_than: Duration) -> Result<u64> {
        on_connection!(self.housekeeping, self.patience, "delete_old_events", |db| {
            let done = sqlx::query(
                "DELETE FROM account_events WHERE at <= (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $1 \
                 AND id < (SELECT max(id) FROM account_events)",
            )
            .bind(ttl_ms(older_than));
            Ok(done.execute(&mut *db).await?.rows_affected())
        })
    }
}
