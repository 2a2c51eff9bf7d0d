//! Security logs: see [`crate::store::security`].

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use super::SqliteStore;
use super::signin::lock_user;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::row::{bound, decode_security_event};
use crate::store::security::security_steps;
use crate::store::{Result, SecurityEvent, SecurityStore, SessionMethod};

security_steps!(SqliteConnection);

#[async_trait]
impl SecurityStore for SqliteStore {
    async fn record_security_event(
        &self,
        user: UserId,
        event: &SecurityEvent,
        joins_since_ms: Option<i64>,
        keep: usize,
    ) -> Result<()> {
        timed_on("record_security_event", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            record(&mut tx, user, event, joins_since_ms, keep).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn security_events(&self, user: UserId, limit: usize) -> Result<Vec<SecurityEvent>> {
        timed_on("security_events", "readers", async { list(&mut *self.readers.acquire().await?, user, limit).await })
            .await
    }

    async fn delete_old_security_events(&self, before_ms: i64, limit: usize) -> Result<u64> {
        timed_on("delete_old_security_events", "writer", async {
            delete_old(&mut *self.writer.acquire().await?, before_ms, limit).await
        })
        .await
    }
}
