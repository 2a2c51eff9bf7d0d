//! What accounts are charged, recounted.

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::SqliteStore;
use super::sessions::announce;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::recount::{CHARGES, CORRECT_CHARGE, decode_charge};
use crate::store::row::bound;
use crate::store::{Charge, EventKind, RecountStore, Result};

#[async_trait]
impl RecountStore for SqliteStore {
    async fn charges(&self, after: UserId, up_to: UserId, limit: usize) -> Result<Vec<Charge>> {
        timed_on("charges", "readers", async {
            let query = sqlx::query(CHARGES).bind(after).bind(up_to).bind(bound(limit));
            query.fetch_all(&self.readers).await?.iter().map(|row| decode_charge!(row)).collect()
        })
        .await
    }

    async fn correct_charge(&self, user: UserId, revision: i64, bytes: i64) -> Result<bool> {
        timed_on("correct_charge", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let query = sqlx::query(CORRECT_CHARGE).bind(user).bind(revision).bind(bytes);
            if query.execute(&mut *tx).await?.rows_affected() == 0 {
                return Ok(false);
            }
            announce(&mut tx, user, EventKind::QuotaChanged).await?;
            tx.commit().await?;
            self.checkpointer.wake();
            Ok(true)
        })
        .await
    }
}
