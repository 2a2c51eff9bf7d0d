//! Accounts from elsewhere: a connection of its own, rows by `COPY`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tokio::sync::mpsc;

use super::PostgresStore;
use super::backup::{copy_rows, is_used, take_for_filling};
use crate::protocol::UserId;
use crate::store::adopt::{AdoptOutcome, AdoptStore, AdoptionRow, Marked, Portion, Resident, UNDER_WAY, mark};
use crate::store::error::timed;
use crate::store::{Result, StoreError};

const NAME: &str = "supersync-import";
/// Whatever there is of accounts that may have no row in `users` yet. The others' rows go with that row.
const REMOVE: [&str; 6] = [
    "DELETE FROM users WHERE id = ANY($1)",
    "DELETE FROM user_sync_state WHERE user_id = ANY($1)",
    "DELETE FROM operations WHERE user_id = ANY($1)",
    "DELETE FROM segments WHERE user_id = ANY($1)",
    "DELETE FROM entity_heads WHERE user_id = ANY($1)",
    "DELETE FROM adoptions WHERE user_id = ANY($1)",
];
/// How far it was before.
const AGAIN: &str = "DELETE FROM adoptions WHERE user_id = ANY($1)";

#[async_trait]
impl AdoptStore for PostgresStore {
    async fn is_adopting(&self) -> Result<bool> {
        timed("is_adopting", async {
            let mut connection = self.apart(NAME).await?;
            let sql = "SELECT EXISTS (SELECT 1 FROM adoptions WHERE user_id = $1)";
            let is_adopting = sqlx::query_scalar(sql).bind(UNDER_WAY).fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok(is_adopting)
        })
        .await
    }

    async fn adoptions(&self) -> Result<(Vec<AdoptionRow>, Vec<Resident>)> {
        timed("adoptions", async {
            let mut connection = self.apart(NAME).await?;
            let mut tx = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let taken = taken(&mut tx).await?;
            let here = residents(&mut tx).await?;
            tx.commit().await?;
            connection.close().await?;
            Ok((taken, here))
        })
        .await
    }

    async fn adopt(&self, mut from: mpsc::Receiver<Portion>, stored: Arc<AtomicU64>) -> Result<AdoptOutcome> {
        let mut connection = self.apart(NAME).await?;
        // Before the first portion, even if there is none.
        if !take_for_filling(&mut connection).await? {
            return Ok(AdoptOutcome::InUse);
        }
        while let Some(portion) = from.recv().await {
            if is_used(&mut connection).await? {
                return Ok(AdoptOutcome::InUse);
            }
            timed("adopt", put(&mut connection, &portion)).await?;
            stored.fetch_add(portion.operations(), Ordering::Relaxed);
        }
        // The data is there; autovacuum does it sooner or later.
        let analyse = "ANALYZE users, user_sync_state, operations, entity_heads, sync_devices, passkeys";
        if let Err(error) = sqlx::query(analyse).execute(&mut connection).await {
            tracing::warn!(%error, "the tables could not be analysed");
        }
        connection.close().await?;
        Ok(AdoptOutcome::Stored)
    }
}

async fn put(connection: &mut PgConnection, portion: &Portion) -> Result<()> {
    let mut tx = connection.begin().await?;
    if !portion.remove.is_empty() {
        for sql in REMOVE {
            sqlx::query(sql).bind(&portion.remove).execute(&mut *tx).await?;
        }
    }
    sqlx::query(AGAIN).bind(portion.adopted()).execute(&mut *tx).await?;
    for rows in portion.sorted() {
        copy_rows(&mut tx, rows.table, &rows.columns, &rows.rows).await?;
    }
    if portion.numbers_up_to > 0 {
        let sql = "SELECT setval(s, GREATEST($1, COALESCE(pg_sequence_last_value(s), 0))) \
                   FROM (SELECT pg_get_serial_sequence('users', 'id')::regclass AS s) AS numbers";
        sqlx::query(sql).bind(portion.numbers_up_to).execute(&mut *tx).await?;
    }
    tx.commit().await.map_err(StoreError::of_commit)
}

async fn taken(connection: &mut PgConnection) -> Result<Vec<AdoptionRow>> {
    let sql = "SELECT user_id, source, account_digest, first_seq, last_seq, op_count, digest, mark, finished_at \
               FROM adoptions ORDER BY user_id";
    let mut rows = sqlx::query(sql).fetch(connection);
    let mut taken = Vec::new();
    while let Some(row) = rows.try_next().await? {
        taken.push(AdoptionRow {
            user: row.try_get(0)?,
            source: row.try_get(1)?,
            account_digest: row.try_get(2)?,
            first_seq: row.try_get(3)?,
            last_seq: row.try_get(4)?,
            op_count: row.try_get(5)?,
            digest: row.try_get(6)?,
            mark: row.try_get(7)?,
            finished_at: row.try_get(8)?,
        });
    }
    Ok(taken)
}

async fn residents(connection: &mut PgConnection) -> Result<Vec<Resident>> {
    let mut credentials: HashMap<UserId, Vec<Vec<u8>>> = HashMap::new();
    let mut rows = sqlx::query("SELECT user_id, credential_id FROM passkeys").fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        credentials.entry(row.try_get(0)?).or_default().push(row.try_get(1)?);
    }
    drop(rows);
    let sql = "SELECT u.id, u.email, u.password_hash, u.is_verified, u.token_version, u.storage_quota_bytes, \
               COALESCE(s.generation, 0), COALESCE(s.last_seq, 0) \
               FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id ORDER BY u.id";
    let mut rows = sqlx::query(sql).fetch(connection);
    let mut here = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let user = row.try_get(0)?;
        let marked = Marked {
            email: row.try_get(1)?,
            password_hash: row.try_get(2)?,
            is_verified: row.try_get(3)?,
            token_version: row.try_get(4)?,
            storage_quota_bytes: row.try_get(5)?,
            generation: row.try_get(6)?,
            last_seq: row.try_get(7)?,
        };
        let credentials = credentials.remove(&user).unwrap_or_default();
        here.push(Resident { user, mark: mark(&marked, &credentials), email: marked.email.to_owned(), credentials });
    }
    Ok(here)
}
