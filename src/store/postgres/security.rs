//! Security logs: see [`crate::store::security`].

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::signin::lock_user;
use super::{PostgresStore, on_connection};
use crate::protocol::UserId;
use crate::store::row::{bound, decode_security_event};
use crate::store::security::security_steps;
use crate::store::{Result, SecurityEvent, SecurityStore, SessionMethod};

security_steps!(PgConnection);

#[async_trait]
impl SecurityStore for PostgresStore {
    async fn record_security_event(
        &self,
        user: UserId,
        event: &SecurityEvent,
        joins_since_ms: Option<i64>,
        keep: usize,
    ) -> Result<()> {
        on_connection!(self.requests, self.patience, "record_security_event", |db| {
            let mut tx = db.begin().await?;
            record(&mut tx, user, event, joins_since_ms, keep).await?;
            tx.commit().await?;
            Ok(())
        })
    }

    async fn security_events(&self, user: UserId, limit: usize) -> Result<Vec<SecurityEvent>> {
        on_connection!(self.requests, self.patience, "security_events", |db| { list(&mut *db, user, limit).await })
    }

    async fn delete_old_security_events(&self, before_ms: i64, limit: usize) -> Result<u64> {
        on_connection!(self.housekeeping, self.patience, "delete_old_security_events", |db| {
            delete_old(&mut *db, before_ms, limit).await
        })
    }
}
