//! What accounts are charged, recounted.

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::sessions::announce;
use super::{PostgresStore, on_connection};
use crate::protocol::UserId;
use crate::store::recount::{CHARGES, CORRECT_CHARGE, decode_charge};
use crate::store::row::bound;
use crate::store::{Charge, EventKind, RecountStore, Result};

#[async_trait]
impl RecountStore for PostgresStore {
    async fn charges(&self, after: UserId, up_to: UserId, limit: usize) -> Result<Vec<Charge>> {
        on_connection!(self.housekeeping, self.patience, "charges", |db| {
            let rows = sqlx::query(CHARGES).bind(after).bind(up_to).bind(bound(limit)).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_charge!(row)).collect()
        })
    }

    async fn correct_charge(&self, user: UserId, revision: i64, bytes: i64) -> Result<bool> {
        on_connection!(self.housekeeping, self.patience, "correct_charge", |db| {
            let mut tx = db.begin().await?;
            let query = sqlx::query(CORRECT_CHARGE).bind(user).bind(revision).bind(bytes);
            if query.execute(&mut *tx).await?.rows_affected() == 0 {
                return Ok(false);
            }
            announce(&mut tx, user, EventKind::QuotaChanged).await?;
            tx.commit().await?;
            Ok(true)
        })
    }
}
